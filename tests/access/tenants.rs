//! Tenants and rpcs, each with each: nobody finds, sees, joins, answers, changes, stops or
//! ends what is not theirs.

use std::time::Duration;

use session_pool::proto::{
    AttachRequest, CloseSessionRequest, GetSessionRequest, GetStatsRequest, InterruptAllRequest,
    InterruptOutcome, InterruptRequest, ListSessionsRequest, PromptAllow, QueryRequest,
    RespondRequest, SessionOptions, SessionStatus, StopTaskRequest, UpdateSessionRequest,
    WatchSessionRequest, respond_request::Decision, turn_event::Kind,
};
use tonic::{Code, Status};

use crate::{
    bed::{Bed, Client, token},
    support::{
        eventually, failure,
        service::{query, query_with, script},
        tools::{Backend, offer, words},
        turn::Turn,
    },
};

async fn run(client: &Client, request: QueryRequest) -> Turn {
    match client.clone().query(request).await {
        Ok(response) => {
            let mut turn = Turn::new(response.into_inner());
            turn.finish().await;
            turn
        }
        Err(status) => Turn::refused(status),
    }
}

async fn open(client: &Client, request: QueryRequest) -> Turn {
    Turn::new(client.clone().query(request).await.expect("taken").into_inner())
}

/// Every rpc that names a session, tried on one of another tenant; what each says.
async fn try_everything(
    client: &Client,
    id: &str,
    turn: &str,
    prompt: &str,
) -> Vec<Result<(), Status>> {
    let session_id = id.to_owned();
    let mut client = client.clone();
    let attach = AttachRequest { session_id: session_id.clone(), ..AttachRequest::default() };
    let by_turn = AttachRequest { turn_id: turn.into(), ..attach.clone() };
    let watch = WatchSessionRequest { session_id: session_id.clone(), ..Default::default() };
    let from_start = WatchSessionRequest { from_start: true, ..watch.clone() };
    let allow = Decision::Allow(PromptAllow::default());
    let respond = RespondRequest {
        session_id: session_id.clone(),
        prompt_id: prompt.into(),
        decision: Some(allow),
    };
    let stop = StopTaskRequest { session_id: session_id.clone(), task_id: "b1".into() };
    let options = Some(SessionOptions { model: Some("opus".into()), ..SessionOptions::default() });
    vec![
        client.get_session(GetSessionRequest { session_id: session_id.clone() }).await.map(drop),
        client.attach(attach).await.map(drop),
        client.attach(by_turn).await.map(drop),
        client.watch_session(watch).await.map(drop),
        client.watch_session(from_start).await.map(drop),
        client.respond(respond).await.map(drop),
        client.stop_task(stop).await.map(drop),
        client
            .update_session(UpdateSessionRequest { session_id: session_id.clone(), options })
            .await
            .map(drop),
        client
            .close_session(CloseSessionRequest { session_id: session_id.clone(), forget: false })
            .await
            .map(drop),
        client.close_session(CloseSessionRequest { session_id, forget: true }).await.map(drop),
    ]
}

#[tokio::test]
async fn nobody_reaches_what_is_not_theirs() {
    let (a, b) = (token("a", false, None), token("b", false, None));
    let bed = Bed::start(&[&a, &b]).await;
    let (a, b) = (bed.client(&a), bed.client(&b));
    let mut turn =
        open(&a, query("s", &script(&["ask Bash {\"command\":\"ls\"}", "say done"]))).await;
    let asked = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = asked.kind else { panic!("asked for a prompt") };
    let turn_id = turn.started().turn_id.clone();

    // As with a session that does not exist at all: not even that it exists is told.
    let foreign = try_everything(&b, "s", &turn_id, &prompt.prompt_id).await;
    let unknown = try_everything(&b, "nowhere", &turn_id, &prompt.prompt_id).await;
    for (foreign, unknown) in foreign.into_iter().zip(unknown) {
        let (foreign, unknown) =
            (foreign.expect_err("not theirs"), unknown.expect_err("not there"));
        failure(&foreign, Code::NotFound, "SESSION_NOT_FOUND");
        assert_eq!(foreign.message(), unknown.message());
    }
    for (keep_session, named) in [(true, ""), (false, ""), (true, turn_id.as_str())] {
        let request = InterruptRequest {
            session_id: "s".into(),
            keep_session,
            turn_id: named.into(),
            ..InterruptRequest::default()
        };
        let answer = b.clone().interrupt(request).await.expect("answered").into_inner();
        assert_eq!(answer.outcome(), InterruptOutcome::NotFound);
    }
    let all = b.clone().interrupt_all(InterruptAllRequest::default()).await.expect("answered");
    assert_eq!(all.into_inner().session_count, 0);
    let listed = b.clone().list_sessions(ListSessionsRequest::default()).await.expect("answered");
    assert_eq!(listed.into_inner().sessions, []);
    let stats =
        b.clone().get_stats(GetStatsRequest::default()).await.expect("answered").into_inner();
    assert_eq!((stats.total_sessions, stats.processes, stats.total_messages), (0, 0, 0));
    assert_eq!(stats.counters.map(|counters| counters.turns), Some(0));

    // All that did nothing to the turn.
    let respond = RespondRequest {
        session_id: "s".into(),
        prompt_id: prompt.prompt_id,
        decision: Some(Decision::Allow(PromptAllow::default())),
    };
    a.clone().respond(respond).await.expect("it waits for this");
    turn.finish().await;
    assert_eq!(turn.result().result, "done");
    let listed = a.clone().list_sessions(ListSessionsRequest::default()).await.expect("answered");
    assert_eq!(listed.into_inner().sessions.len(), 1);
    bed.service.stop().await;
}

#[tokio::test]
async fn nobody_reaches_or_wakes_what_is_not_theirs_and_hibernates() {
    let (a, b) = (token("a", false, None), token("b", false, None));
    let bed = Bed::with(&[&a, &b], |config| {
        config.pool.hibernate_after = Duration::from_millis(50);
    })
    .await;
    let (a, b) = (bed.client(&a), bed.client(&b));
    let turn = run(&a, query("s", "remember me")).await;
    let get = || GetSessionRequest { session_id: "s".into() };
    eventually("hibernation", async || {
        let session = a.clone().get_session(get()).await.ok()?.into_inner().session?;
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
    for answer in try_everything(&b, "s", &turn.started().turn_id, "p").await {
        failure(&answer.expect_err("not theirs"), Code::NotFound, "SESSION_NOT_FOUND");
    }
    let resume = Some(turn.started().cli_session_id.clone());
    for fork in [false, true] {
        let options = SessionOptions {
            resume: resume.clone(),
            fork_session: Some(fork),
            ..SessionOptions::default()
        };
        let taken = run(&b, query_with("s", "and now?", options)).await;
        failure(taken.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let session = a.clone().get_session(get()).await.expect("it is there").into_inner();
    assert_eq!(session.session.expect("a session").status(), SessionStatus::Hibernated);
    assert_eq!(run(&a, query("s", &script(&["recite"]))).await.text(), "remember me");
    bed.service.stop().await;
}

#[tokio::test]
async fn two_tenants_may_use_the_same_names() {
    let (a, b) = (token("a", false, None), token("b", false, None));
    let bed = Bed::start(&[&a, &b]).await;
    let (a, b) = (bed.client(&a), bed.client(&b));
    let ask = |prompt: &str| QueryRequest { turn_id: "t".into(), ..query("s", prompt) };
    let first = run(&a, ask("my name is Ada")).await;
    // A turn of the same id is joined only within the tenant.
    let second = run(&b, ask(&script(&["recite", "cwd"]))).await;
    assert_ne!(second.started().client_id, first.started().client_id);
    assert_ne!(second.started().cli_session_id, first.started().cli_session_id);
    assert!(!second.text().contains("Ada"), "{}", second.text());
    assert!(second.text().contains("/tenants/b/"), "{}", second.text());
    let config = run(&a, query("s", &script(&["env CLAUDE_CONFIG_DIR"]))).await;
    assert!(config.text().contains("/tenants/a/"), "{}", config.text());

    // Nor is a conversation taken up whose id somebody learned.
    let resume = SessionOptions {
        resume: Some(first.started().cli_session_id.clone()),
        ..SessionOptions::default()
    };
    let stolen = run(&b, query_with("thief", "what is my name?", resume.clone())).await;
    failure(stolen.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
    let fork = SessionOptions { fork_session: Some(true), ..resume };
    let stolen = run(&b, query_with("thief", "what is my name?", fork)).await;
    failure(stolen.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
    bed.service.stop().await;
}

#[tokio::test]
async fn an_admin_sees_and_stops_everybody_and_only_when_asked_to() {
    let (user, admin) = (token("a", false, None), token("ops", true, None));
    let bed = Bed::start(&[&user, &admin]).await;
    let (user, admin) = (bed.client(&user), bed.client(&admin));
    let mut turn = open(&user, query("s", &script(&["say on my way", "hang"]))).await;
    turn.until_text("way").await;

    let all = GetStatsRequest { all_tenants: true, ..Default::default() };
    let stats = admin.clone().get_stats(all).await.expect("answered").into_inner();
    assert_eq!((stats.total_sessions, stats.streaming_turns, stats.processes), (1, 1, 1));
    let own = admin.clone().get_stats(GetStatsRequest::default()).await.expect("answered");
    assert_eq!(own.into_inner().total_sessions, 0);
    let status = user.clone().get_stats(all).await.expect_err("refused");
    let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata.get("field").map(String::as_str), Some("all_tenants"));
    let everybody = InterruptAllRequest { all_tenants: true };
    let status = user.clone().interrupt_all(everybody).await.expect_err("refused");
    failure(&status, Code::PermissionDenied, "POLICY_DENIED");

    let answer = admin.clone().interrupt_all(everybody).await.expect("answered").into_inner();
    assert_eq!(answer.interrupted_count, 1);
    assert_eq!(answer.results[0].tenant, "a");
    turn.finish().await;
    assert!(turn.result().interrupted);
    // An admin's look-ups are of its own tenant all the same.
    let request = GetSessionRequest { session_id: "s".into() };
    let status = admin.clone().get_session(request).await.expect_err("not its own");
    failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
    bed.service.stop().await;
}

#[tokio::test]
async fn a_tool_server_is_its_tenants_own() {
    let (a, b) = (token("a", false, None), token("b", false, None));
    let bed = Bed::with(&[&a, &b], |config| config.policy.tool_servers = true).await;
    let (a, b) = (bed.client(&a), bed.client(&b));
    let serve = async |client: &Client| {
        let mut client = client.clone();
        let open = Backend::open(|stream| async move { client.serve_tools(stream).await });
        open.await.expect("let in").register(offer("shop", &["look"])).await.expect("offered")
    };
    let mut of_a = serve(&a).await;
    let options = SessionOptions { tool_servers: vec!["shop".into()], ..SessionOptions::default() };
    let prompt = script(&["mcp-list shop", "mcp shop look {}", "say after"]);
    let asking = || query_with("s", &prompt, options.clone());
    // Under the same names in another tenant there is nothing.
    let foreign = run(&b, asking()).await;
    assert!(!foreign.text().contains("look"), "{}", foreign.text());
    assert!(foreign.tool_result().text.contains("nobody serves the tool server \"shop\""));
    // Nor does anybody answer calls that are not theirs.
    let of_b = serve(&b).await;
    let mut turn = open(&a, asking()).await;
    let call = of_a.call().await;
    of_b.answer(&call, words("forged"), false).await;
    of_a.answer(&call, words("own"), false).await;
    turn.finish().await;
    assert_eq!(turn.tool_result().text, "own");

    let nobody = bed.client_saying(None);
    let mut client = nobody.clone();
    let refused = Backend::open(|stream| async move { client.serve_tools(stream).await }).await;
    failure(&refused.err().expect("refused"), Code::Unauthenticated, "UNAUTHENTICATED");
    bed.service.stop().await;
}
