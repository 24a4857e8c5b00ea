//! Every line of a turn says of which trace it is.

use std::fs;

use serde_json::Value;
use session_pool::{
    internals::{access::tokens::fresh, domain::ids::TenantId},
    proto::InterruptRequest,
};
use tempfile::TempDir;
use tonic::Request;

use super::{parent, trace, with};
use crate::support::{
    collector::Collector,
    daemon::Daemon,
    eventually,
    service::{query, script},
    turn::Turn,
};

/// A program that logs all of its steps and asks who calls, and the header for that.
async fn daemon(settings: &[(&str, &str)]) -> (Daemon, String, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let (token, entry) = fresh(&TenantId::parse("acme").expect("a name"), false, None);
    let tokens = folder.path().join("tokens.toml");
    fs::write(&tokens, entry + "name = \"ci\"\n").expect("written");
    let tokens = tokens.display().to_string();
    let own = [("LOG__LEVEL", "debug"), ("AUTH__TOKENS_FILE", tokens.as_str())];
    let daemon = Daemon::start(&[&own, settings].concat()).await;
    (daemon, format!("Bearer {token}"), folder)
}

/// A turn that is interrupted, and one more on the same process.
async fn two_turns(daemon: &Daemon, bearer: &str, traceparent: Option<&str>) -> Vec<String> {
    let metadata: Vec<_> = [("authorization", bearer)]
        .into_iter()
        .chain(traceparent.map(|parent| ("traceparent", parent)))
        .collect();
    let mut ids = Vec::new();
    for prompt in [script(&["say w", "hang"]), "hello".to_owned()] {
        let call = with(query("s", &prompt), &metadata);
        let stream = daemon.client.clone().query(call).await.expect("taken").into_inner();
        let mut turn = Turn::new(stream);
        if prompt != "hello" {
            turn.until_text("w").await;
            let request = InterruptRequest {
                session_id: "s".into(),
                keep_session: true,
                ..InterruptRequest::default()
            };
            let call: Request<_> = with(request, &[("authorization", bearer)]);
            daemon.client.clone().interrupt(call).await.expect("answered");
        }
        turn.finish().await;
        ids.push(turn.started().turn_id.clone());
    }
    ids
}

/// The lines of a turn, once its end is logged.
async fn lines_of(daemon: &Daemon, turn: &str) -> Vec<Value> {
    eventually("its end", async || {
        let mut lines = daemon.log();
        lines.retain(|line| line["turn_id"] == turn);
        lines.iter().any(|line| line["message"] == "turn_ended").then_some(lines)
    })
    .await
}

fn assert_whole(lines: &[Value], trace: &str) {
    assert!(lines.len() > 1, "{lines:?}");
    for line in lines {
        for (name, value) in
            [("session_id", "s"), ("tenant", "acme"), ("caller", "ci"), ("trace_id", trace)]
        {
            assert_eq!(line[name], value, "{name} in {line}");
        }
    }
}

#[tokio::test]
async fn a_caller_s_trace_is_on_every_line_without_an_exporter() {
    let (daemon, bearer, _folder) = daemon(&[]).await;
    let ids = two_turns(&daemon, &bearer, Some(&parent(&trace(7), "00"))).await;
    let (first, second) = (lines_of(&daemon, &ids[0]).await, lines_of(&daemon, &ids[1]).await);
    for (lines, wanted) in [
        (&first, &["cli_starting", "cli_started", "session_created", "turn_ended"][..]),
        (&second, &["session_pool_reusing_healthy_session", "turn_ended"]),
    ] {
        assert_whole(lines, &trace(7));
        assert!(lines.iter().all(|line| line.get("span_id").is_none()), "it has no span");
        for name in wanted {
            assert!(lines.iter().any(|line| line["message"] == *name), "{name}: {lines:?}");
        }
    }
    let none = two_turns(&daemon, &bearer, None).await;
    let lines = lines_of(&daemon, &none[0]).await;
    assert!(lines.iter().all(|line| line.get("trace_id").is_none()), "{lines:?}");
}

#[tokio::test]
async fn with_an_exporter_every_turn_has_a_trace_and_its_lines_a_span() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let settings =
        [("TRACES__OTLP_ENDPOINT", endpoint.as_str()), ("TRACES__EXPORT_INTERVAL", "5ms")];
    let (daemon, bearer, _folder) = daemon(&settings).await;
    for id in two_turns(&daemon, &bearer, None).await {
        let lines = lines_of(&daemon, &id).await;
        let trace = lines[0]["trace_id"].as_str().expect("a trace").to_owned();
        assert_whole(&lines, &trace);
        let spans = collector.of_trace(&trace, 4).await;
        let own = spans.iter().find(|span| span.says("session_pool.turn_id") == id);
        let own = own.expect("the turn's span").id.clone();
        assert!(lines.iter().all(|line| line["span_id"] == own.as_str()), "{own}: {lines:?}");
    }
}
