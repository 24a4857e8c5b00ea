//! Partial messages: each caller sees them or does not, whatever others chose.

use session_pool::proto::{
    AttachRequest, PromptAllow, QueryRequest, RespondRequest, SessionOptions, UpdateSessionRequest,
    respond_request::Decision, turn_event::Kind,
};

use crate::support::{
    service::{Service, query, query_with, script},
    turn::{Turn, text_of},
};

fn with_partials(session: &str, prompt: &str) -> QueryRequest {
    let options =
        SessionOptions { include_partial_messages: Some(true), ..SessionOptions::default() };
    query_with(session, prompt, options)
}

async fn attach(service: &Service, partials: bool, from: u64) -> Turn {
    let request = AttachRequest {
        session_id: "a".into(),
        include_partial_messages: partials,
        from_sequence: from,
        ..AttachRequest::default()
    };
    Turn::attached(service.client.clone().attach(request).await.expect("kept").into_inner())
}

fn pieces(turn: &Turn) -> String {
    let piece = |kind: &Kind| match kind {
        Kind::StreamEvent(_) => text_of(kind),
        _ => None,
    };
    turn.events.iter().filter_map(|event| piece(event.kind.as_ref()?)).collect()
}

/// Every event, counted from 1 on.
fn assert_counted(turn: &Turn) {
    let sequences: Vec<u64> = turn.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=turn.events.len() as u64).collect::<Vec<_>>());
    assert!(matches!(turn.events[0].kind, Some(Kind::Started(_))));
    assert!(matches!(turn.events.last().and_then(|it| it.kind.as_ref()), Some(Kind::Result(_))));
}

#[tokio::test]
async fn f1_partial_messages_are_a_choice_of_each_query_on_one_session() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["partial 30 8"]);
    let mut client = String::new();
    for asks in [false, true, false, true] {
        let request = if asks { with_partials("a", &prompt) } else { query("a", &prompt) };
        let turn = service.run(request).await;
        assert!(turn.end.as_ref().is_some_and(Result::is_ok), "{:?}", turn.end);
        assert_counted(&turn);
        assert_eq!(pieces(&turn), if asks { turn.text() } else { String::new() });
        let started = turn.started();
        assert!(client.is_empty() || client == started.client_id, "the process stays");
        client.clone_from(&started.client_id);
    }
    let options = service.session("a").await.expect("there").options.expect("shown");
    assert_eq!(options.include_partial_messages, None, "no option of the session");
    let options =
        SessionOptions { include_partial_messages: Some(true), ..SessionOptions::default() };
    let request = UpdateSessionRequest { session_id: "a".into(), options: Some(options) };
    let updated = service.client.clone().update_session(request).await.expect("no mismatch");
    assert!(updated.into_inner().changed_options.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn f1_listeners_of_one_turn_see_what_each_of_them_asked_for() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say begun", "partial 30 8", "ask Bash {}", "partial 20 8"]);
    let mut asking = service.open(with_partials("a", &prompt)).await.expect("runs");
    asking.until_text("begun").await;
    let mut silent = attach(&service, false, 0).await;
    let mut late = attach(&service, true, 0).await;
    let event = asking.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { unreachable!("just seen") };
    let request = RespondRequest {
        session_id: "a".into(),
        prompt_id: prompt.prompt_id,
        decision: Some(Decision::Allow(PromptAllow::default())),
    };
    service.client.clone().respond(request).await.expect("taken");
    for turn in [&mut asking, &mut silent, &mut late] {
        turn.finish().await;
        assert_counted(turn);
    }
    // Texts of several messages are told with line ends in between.
    assert_eq!(pieces(&asking), asking.text().replace('\n', ""));
    assert_eq!(pieces(&silent), "");
    assert_eq!(silent.text(), asking.text());
    assert_eq!(late.events, asking.events);
    // Where a stream broke off, the same choice goes on.
    let from = silent.events.len() as u64 - 1;
    let mut rest = attach(&service, false, from).await;
    rest.finish().await;
    assert_eq!(rest.events, silent.events[silent.events.len() - 2..]);
    let mut rest = attach(&service, true, 7).await;
    rest.finish().await;
    assert_eq!(rest.events, asking.events[6..]);
    service.stop().await;
}
