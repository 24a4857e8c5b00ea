//! What an operator reads: one line for each turn, ids on every line, levels by who has
//! to act, and nothing of the libraries.

use serde_json::Value;
use session_pool::proto::InterruptRequest;
use tracing::Level;

use crate::support::{
    daemon::Daemon,
    eventually, log, processes,
    service::{Service, query, script},
};

const MESSAGE: &str = "turn_ended";

/// The lines about the ended turns of a session, once there are as many.
async fn ended(id: &str, count: usize) -> Vec<log::Logged> {
    let found = || {
        let events = log::events(MESSAGE, id);
        (events.len() >= count).then_some(events)
    };
    let events = eventually("the turns are logged", async || found()).await;
    assert_eq!(events.len(), count, "{events:?}");
    events
}

#[tokio::test]
async fn f3_every_turn_has_one_line_however_it_ends() {
    let service = Service::start(|_| {}).await;
    let id = "f3-lines";
    let done = service.query(id, "hello").await;
    service.query(id, &script(&["error API Error: 500"])).await.result();
    let mut stopped = service.open(query(id, &script(&["say w", "hang"]))).await.expect("taken");
    stopped.until_text("w").await;
    // It waits, and its caller leaves: it never begins.
    let waiting = service.open(query(id, "never")).await.expect("queued");
    waiting.leave();
    ended(id, 3).await;
    service.interrupt(id, true).await;
    stopped.finish().await;
    let mut killed = service.open(query(id, &script(&["say w", "hang"]))).await.expect("taken");
    killed.until_text("w").await;
    processes::kill(service.session(id).await.expect("there").process_id);
    killed.finish().await;
    let events = ended(id, 5).await;
    let field = |event: &log::Logged, name: &str| {
        let value = event.fields.get(name);
        value.cloned().unwrap_or_default()
    };
    let outcomes: Vec<_> = events.iter().map(|event| field(event, "outcome")).collect();
    assert_eq!(outcomes, ["completed", "error", "interrupted", "interrupted", "failed"]);
    let reasons: Vec<_> = events.iter().map(|event| field(event, "reason")).collect();
    assert_eq!(reasons, ["", "", "TURN_INTERRUPTED", "", "CLI_EXITED"]);
    for event in &events {
        assert_eq!(event.level, Level::INFO);
        assert_eq!(field(event, "tenant"), "default");
        assert!(!field(event, "turn_id").is_empty());
        for number in ["queue_ms", "connect_ms", "turn_ms", "input_tokens", "output_tokens"] {
            assert!(field(event, number).parse::<u64>().is_ok(), "{number}: {event:?}");
        }
        assert!(field(event, "cost_usd").parse::<f64>().is_ok(), "{event:?}");
    }
    assert_eq!(field(&events[0], "turn_id"), done.started().turn_id);
    assert_eq!(field(&events[0], "client_id"), done.started().client_id);
    assert!(field(&events[0], "cost_usd").parse::<f64>().is_ok_and(|cost| cost > 0.0));
    assert!(field(&events[2], "client_id").is_empty(), "it had no process");
    service.stop().await;
}

#[tokio::test]
async fn f3_a_cancel_is_nothing_to_warn_of_and_a_killed_cli_is() {
    let service = Service::start(|_| {}).await;
    let id = "f3-levels";
    let hang = script(&["say w", "hang"]);
    for keep in [true, false] {
        let mut turn = service.open(query(id, &hang)).await.expect("taken");
        turn.until_text("w").await;
        service.interrupt(id, keep).await;
        turn.finish().await;
    }
    let mut left = service.open(query(id, &hang)).await.expect("taken");
    left.until_text("w").await;
    left.leave();
    ended(id, 3).await;
    let alarming = || -> Vec<String> {
        let of_session = log::mentioning(id);
        let loud = of_session.into_iter().filter(|event| event.level <= Level::WARN);
        loud.map(|event| event.message).collect()
    };
    assert_eq!(alarming(), [""; 0]);
    let mut killed = service.open(query(id, &hang)).await.expect("taken");
    killed.until_text("w").await;
    processes::kill(service.session(id).await.expect("there").process_id);
    killed.finish().await;
    assert_eq!(alarming(), ["cli_exited_in_turn"]);
    service.stop().await;
}

#[tokio::test]
async fn f3_lines_of_a_turn_carry_its_ids_and_libraries_are_silent() {
    let daemon = Daemon::start(&[("LOG__LEVEL", "debug")]).await;
    let mut turn = daemon.open(query("f3-ids", &script(&["say w", "hang"]))).await;
    turn.until_text("w").await;
    let request = InterruptRequest {
        session_id: "f3-ids".into(),
        keep_session: true,
        ..InterruptRequest::default()
    };
    daemon.client.clone().interrupt(request).await.expect("answered");
    turn.finish().await;
    let turn_id = turn.started().turn_id.clone();
    let lines = eventually("the turn is logged", async || {
        let lines = daemon.log();
        lines.iter().any(|line| line["message"] == MESSAGE).then_some(lines)
    })
    .await;
    for line in &lines {
        let target = line["target"].as_str().expect("a target");
        assert!(target.starts_with("session_pool"), "{line}");
        let spans = line["spans"].as_array().cloned().unwrap_or_default();
        if spans.iter().any(|span| span == "turn") {
            assert_eq!(
                (&line["turn_id"], &line["session_id"]),
                (&turn_id.as_str().into(), &"f3-ids".into())
            );
        }
        if spans.iter().any(|span| span == "session" || span == "query") {
            assert_eq!(
                (&line["session_id"], &line["tenant"]),
                (&"f3-ids".into(), &"default".into())
            );
        }
        for (name, value) in line.as_object().expect("an object") {
            let is_time = name.ends_with("_ms") || name.ends_with("_seconds") || name == "elapsed";
            assert!(!is_time || value.is_number(), "{name} in {line}");
        }
    }
    let of_turn: Vec<&str> = lines
        .iter()
        .filter(|line| line["turn_id"] == turn_id.as_str())
        .filter_map(|line| line["message"].as_str())
        .collect();
    for wanted in ["cli_starting", "cli_started", "session_created", "session_interrupted", MESSAGE]
    {
        assert!(of_turn.contains(&wanted), "{wanted} is not among {of_turn:?}");
    }
    let started = lines.iter().find(|line| line["message"] == "cli_started").expect("logged");
    assert_eq!(started["spans"], serde_json::json!(["query", "turn", "cli.start"]));
}

#[tokio::test]
async fn f3_at_the_default_level_a_turn_is_one_line() {
    let daemon = Daemon::start(&[]).await;
    let of_session = |lines: &[Value]| -> Vec<Value> {
        lines.iter().filter(|line| line["session_id"] == "f3-quiet").cloned().collect()
    };
    for _ in 0..3 {
        let mut turn = daemon.open(query("f3-quiet", "hello")).await;
        turn.finish().await;
        turn.result();
    }
    let lines = eventually("the turns are logged", async || {
        let lines = of_session(&daemon.log());
        (lines.len() >= 3).then_some(lines)
    })
    .await;
    assert!(
        lines.iter().all(|line| line["message"] == MESSAGE && line["level"] == "INFO"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 3);
}
