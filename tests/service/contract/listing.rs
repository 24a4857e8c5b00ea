//! ListSessions page by page, and the routing key of proxies.

use session_pool::proto::{
    AttachRequest, CloseSessionRequest, GetSessionRequest, InterruptRequest, ListSessionsRequest,
    RespondRequest, SessionOptions, UpdateSessionRequest,
};
use tonic::{Code, Request};

use crate::support::{
    failure, fields,
    service::{Service, query, query_with},
};

#[tokio::test]
async fn a_page_of_sessions_with_long_options_fits_a_default_client() {
    let service = Service::start(|_| {}).await;
    let long = SessionOptions {
        system_prompt: Some("x".repeat(900_000)),
        append_system_prompt: Some("y".repeat(900_000)),
        ..SessionOptions::default()
    };
    for id in ["a", "b", "c", "d"] {
        service.run(query_with(id, "hello", long.clone())).await.result();
    }
    let (mut token, mut ids) = (String::new(), Vec::new());
    loop {
        let request = ListSessionsRequest { page_size: 1000, page_token: token };
        // The client's own limit is that of a default one.
        let page = service.client.clone().list_sessions(request).await.expect("it fits");
        let page = page.into_inner();
        ids.extend(page.sessions.into_iter().map(|session| session.session_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["a", "b", "c", "d"]);
    service.stop().await;
}

#[tokio::test]
async fn a_session_with_every_option_at_its_bound_fits_a_default_client() {
    let service = Service::start(|config| config.policy.agents = true).await;
    let long = |length: usize| Some("x".repeat(length));
    let rules =
        |kind: &'static str| (0..256).map(move |n| format!("{kind}(x{n}{})", "y".repeat(1000)));
    let agent = serde_json::json!({"a": {"description": "d", "prompt": "p".repeat(1_000_000)}});
    let schema = serde_json::json!({"type": "object", "description": "s".repeat(1_000_000)});
    let options = SessionOptions {
        system_prompt: long(1 << 20),
        append_system_prompt: long(1 << 20),
        agents: Some(agent.to_string()),
        json_schema: Some(schema.to_string()),
        allowed_tools: rules("Bash").collect(),
        disallowed_tools: rules("Read").collect(),
        ..SessionOptions::default()
    };
    // It says no more than it was asked for, whatever becomes of the turn.
    let mut turn = service.open(query_with("a", "hello", options.clone())).await.expect("taken");
    turn.finish().await;
    let session = service.session("a").await.expect("it fits");
    let shown = session.options.expect("options");
    let left_out = &session.options_not_shown;
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert_eq!(shown.allowed_tools, options.allowed_tools);
    for (name, text) in [
        ("system_prompt", &shown.system_prompt),
        ("append_system_prompt", &shown.append_system_prompt),
        ("agents", &shown.agents),
        ("json_schema", &shown.json_schema),
    ] {
        assert_eq!(text.is_none(), left_out.iter().any(|left| left == name), "{name}");
    }
    let page = service.client.clone().list_sessions(ListSessionsRequest::default()).await;
    assert_eq!(page.expect("it fits").into_inner().sessions.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_page_by_page_in_order() {
    let service = Service::start(|_| {}).await;
    for id in ["b", "a", "e", "c", "d"] {
        service.query(id, "hello").await.result();
    }
    let mut token = String::new();
    let mut pages = Vec::new();
    loop {
        let request = ListSessionsRequest { page_size: 2, page_token: token };
        let page = service.client.clone().list_sessions(request).await.expect("a page");
        let page = page.into_inner();
        let ids: Vec<String> = page.sessions.into_iter().map(|s| s.session_id).collect();
        pages.push(ids.join(""));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, ["ab", "cd", "e"]);

    let all = service.client.clone().list_sessions(ListSessionsRequest::default()).await;
    let all = all.expect("a page").into_inner();
    assert_eq!((all.sessions.len(), all.next_page_token.as_str()), (5, ""));
    let exact = ListSessionsRequest { page_size: 5, page_token: String::new() };
    let exact = service.client.clone().list_sessions(exact).await.expect("a page").into_inner();
    assert_eq!((exact.sessions.len(), exact.next_page_token.as_str()), (5, ""));
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_goes_between_two_pages_hides_no_other() {
    let service = Service::start(|_| {}).await;
    for id in ["a", "b", "c"] {
        service.query(id, "hello").await.result();
    }
    let page = |token: String| ListSessionsRequest { page_size: 1, page_token: token };
    let first = service.client.clone().list_sessions(page(String::new())).await.expect("a page");
    let first = first.into_inner();
    assert_eq!(first.sessions[0].session_id, "a");
    service.close("a", false).await.expect("closed");
    let second = service.client.clone().list_sessions(page(first.next_page_token)).await;
    assert_eq!(second.expect("a page").into_inner().sessions[0].session_id, "b");
    service.stop().await;
}

#[tokio::test]
async fn the_routing_key_must_be_the_session_of_the_message() {
    fn routed<T>(message: T, key: &'static str) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("session-id", key.parse().expect("a value"));
        request
    }
    let service = Service::start(|_| {}).await;
    let mut client = service.client.clone();
    let id = || "a".to_owned();
    let errors = [
        client.query(routed(query("a", "hello"), "b")).await.err(),
        client.query(routed(query("", "hello"), "b")).await.err(),
        client
            .attach(routed(AttachRequest { session_id: id(), ..Default::default() }, "b"))
            .await
            .err(),
        client
            .respond(routed(RespondRequest { session_id: id(), ..Default::default() }, "b"))
            .await
            .err(),
        client
            .interrupt(routed(
                InterruptRequest {
                    session_id: id(),
                    keep_session: true,
                    ..InterruptRequest::default()
                },
                "b",
            ))
            .await
            .err(),
        client.get_session(routed(GetSessionRequest { session_id: id() }, "b")).await.err(),
        client
            .update_session(routed(UpdateSessionRequest { session_id: id(), options: None }, "b"))
            .await
            .err(),
        client
            .close_session(routed(CloseSessionRequest { session_id: id(), forget: true }, "b"))
            .await
            .err(),
    ];
    for status in errors {
        let status = status.expect("refused");
        failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(fields(&status), ["session_id"]);
    }
    let stream = client.query(routed(query("a", "hello"), "a")).await.expect("taken");
    let mut turn = crate::support::turn::Turn::new(stream.into_inner());
    turn.finish().await;
    assert_eq!(turn.result().result, "echo: hello");
    service.stop().await;
}
