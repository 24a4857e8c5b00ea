//! The spans of a Query: their tree, what they say, and how they end.

use std::collections::BTreeMap;

use session_pool::proto::{DisconnectPolicy, GetSessionRequest, QueryRequest};
use tonic::Code;

use super::{CALL, PARENT, TRACE, TURN, exporting, open, parent, run, trace, with};
use crate::support::{
    collector::{Collector, Span},
    eventually,
    service::{model, query, query_with, script},
};

/// Spans by their names, of which each is there once.
fn by_name(spans: Vec<Span>) -> BTreeMap<String, Span> {
    let count = spans.len();
    let named: BTreeMap<_, _> = spans.into_iter().map(|span| (span.name.clone(), span)).collect();
    assert_eq!(named.len(), count, "{named:?}");
    named
}

#[tokio::test]
async fn a_query_is_a_tree_below_its_callers_span() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |config| {
        config.traces.service_name = "pool-of-tests".into();
        config.cluster.node = "node-1".into();
    })
    .await;
    let request = query_with("s", &script(&["say a secret answer"]), model("some-model"));
    let turn = run(&service, request, &parent(TRACE, "01")).await;
    turn.result();
    let spans = by_name(collector.of_trace(TRACE, 5).await);
    let names: Vec<_> = spans.keys().map(String::as_str).collect();
    assert_eq!(names, ["commit", "connect", TURN, "queue", CALL]);

    let (call, own) = (&spans[CALL], &spans[TURN]);
    assert_eq!(call.parent, PARENT);
    for name in ["queue", "connect", TURN] {
        assert_eq!(spans[name].parent, call.id, "{name}");
    }
    assert_eq!(spans["commit"].parent, own.id);
    let kinds = |span: &Span| (span.name == CALL, span.kind);
    assert!(spans.values().all(|span| [(true, 2), (false, 1)].contains(&kinds(span))));
    assert!(spans.values().all(|span| span.error.is_none() && span.began <= span.ended));
    assert!(spans["queue"].ended <= spans["connect"].ended && spans["connect"].ended <= own.ended);

    let said = |span: &Span, wanted: &[(&str, &str)]| {
        for (name, value) in wanted {
            assert_eq!(span.says(name), *value, "{name} of {}", span.name);
        }
    };
    said(
        call,
        &[
            ("rpc.system", "grpc"),
            ("rpc.service", "sessionpool.v1.SessionPoolService"),
            ("rpc.method", "Query"),
            ("rpc.grpc.status_code", "0"),
            ("error.type", ""),
        ],
    );
    said(&spans["connect"], &[("session_pool.process", "created")]);
    let started = turn.started();
    said(
        own,
        &[
            ("gen_ai.operation.name", "invoke_agent"),
            ("gen_ai.provider.name", "anthropic"),
            ("gen_ai.system", "anthropic"),
            ("gen_ai.conversation.id", "s"),
            ("gen_ai.request.model", "some-model"),
            ("gen_ai.response.model", "some-model"),
            ("session_pool.turn_id", &started.turn_id),
            ("session_pool.client_id", &started.client_id),
            ("session_pool.tenant", "default"),
            ("session_pool.process", "created"),
            ("session_pool.outcome", "completed"),
        ],
    );
    let usage = turn.result().usage.clone().expect("told");
    let read =
        usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens;
    assert_eq!(own.says("gen_ai.usage.input_tokens"), read.to_string());
    assert_eq!(own.says("gen_ai.usage.output_tokens"), usage.output_tokens.to_string());
    for (name, value) in [("service.name", "pool-of-tests"), ("service.instance.id", "node-1")] {
        assert_eq!(call.resource[name], value);
    }
    assert!(!format!("{spans:?}").contains("secret"), "no prompt and no answer");
    service.stop().await;
}

#[tokio::test]
async fn a_query_without_a_trace_begins_one_and_other_calls_have_their_own() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |_| {}).await;
    service.query("s", "one").await.result();
    let call = collector.named(CALL).await;
    assert_eq!(call.parent, "");
    let spans = by_name(collector.of_trace(&call.trace_id, 5).await);
    assert_eq!(spans[TURN].parent, call.id);

    // What is no trace is none, and no error.
    let turn = run(&service, query("s", "two"), "00-0-0-01").await;
    turn.result();
    let id = turn.started().turn_id.clone();
    let is_its = |span: &Span| span.says("session_pool.turn_id") == id;
    let own = eventually("its span", async || collector.spans().into_iter().find(is_its)).await;
    let second = own.trace_id;
    assert_ne!(second, call.trace_id);
    let warm = by_name(collector.of_trace(&second, 4).await);
    assert_eq!(warm.keys().collect::<Vec<_>>(), ["commit", TURN, "queue", CALL], "no start");
    assert_eq!(warm[TURN].says("session_pool.process"), "reused");

    service.session("s").await.expect("there");
    let name = "sessionpool.v1.SessionPoolService/GetSession";
    let got = collector.named(name).await;
    assert_eq!((got.parent.as_str(), got.says("rpc.grpc.status_code")), ("", "0"));
    let missing = GetSessionRequest { session_id: "nobody".into() };
    let missing = with(missing, &[("traceparent", &parent(TRACE, "01"))]);
    service.client.clone().get_session(missing).await.expect_err("it is not there");
    let got = collector.of_trace(TRACE, 1).await.remove(0);
    assert_eq!((got.name.as_str(), got.parent.as_str()), (name, PARENT));
    assert_eq!((got.says("rpc.grpc.status_code"), got.says("error.type")), ("5", "NotFound"));
    assert_eq!(got.error, None, "that is the caller's fault");
    service.stop().await;
    assert!(collector.spans().iter().all(|span| !span.name.contains("Health")));
}

#[tokio::test]
async fn a_caller_says_whether_its_trace_is_recorded_and_the_ratio_where_nobody_does() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |config| config.traces.sample_ratio = 0.0).await;
    service.query("s", "one").await.result();
    run(&service, query("s", "two"), &parent(&trace(1), "00")).await.result();
    run(&service, query("s", "three"), &parent(&trace(2), "01")).await.result();
    service.stop().await;
    let spans = collector.spans();
    assert!(!spans.is_empty() && spans.iter().all(|span| span.trace_id == trace(2)), "{spans:?}");
}

#[tokio::test]
async fn an_interrupted_turn_has_not_failed_and_outlives_its_caller() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |_| {}).await;
    let hang = script(&["say w", "hang"]);
    let mut stopped = open(&service, query("s", &hang), &parent(&trace(1), "01")).await;
    stopped.until_text("w").await;
    service.interrupt("s", true).await;
    stopped.finish().await;
    let spans = by_name(collector.of_trace(&trace(1), 5).await);
    assert_eq!(spans[TURN].says("session_pool.outcome"), "interrupted");
    assert_eq!(spans[TURN].error, None);

    // Its caller goes; the turn ends when it ends.
    let prompt = script(&["say w", "sleep 300", "say done"]);
    let lasting =
        QueryRequest { on_disconnect: DisconnectPolicy::Continue.into(), ..query("s", &prompt) };
    let mut left = open(&service, lasting, &parent(&trace(3), "01")).await;
    left.until_text("w").await;
    let id = left.started().turn_id.clone();
    left.leave();
    let spans = by_name(collector.of_trace(&trace(3), 4).await);
    let (call, own) = (&spans[CALL], &spans[TURN]);
    assert_eq!(own.says("session_pool.turn_id"), id);
    assert_eq!(own.says("session_pool.outcome"), "completed");
    assert_eq!((call.says("rpc.grpc.status_code"), &call.error), ("1", &None));
    assert!(call.ended < own.ended);
    service.stop().await;
}

#[tokio::test]
async fn what_fails_says_why_in_the_words_of_the_contract() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |_| {}).await;
    let exits = script(&["say a secret", "exit 3"]);
    let died = run(&service, query("s", &exits), &parent(&trace(1), "01")).await;
    let spans = by_name(collector.of_trace(&trace(1), 5).await);
    assert_eq!(spans[TURN].error.as_deref(), Some("CLI_EXITED"));
    assert_eq!(spans[TURN].says("error.type"), "CLI_EXITED");
    assert_eq!(spans[TURN].says("session_pool.outcome"), "failed");
    let code = died.error().code();
    assert_eq!(spans[CALL].says("rpc.grpc.status_code"), (code as i32).to_string());
    let of_server = [Code::Unavailable, Code::Internal, Code::Unknown].contains(&code);
    assert_eq!(spans[CALL].error.is_some(), of_server);
    assert!(!format!("{spans:?}").contains("secret"));

    let cannot = query_with("t", "hello", model("fake:exit=3"));
    run(&service, cannot, &parent(&trace(2), "01")).await.error();
    let spans = by_name(collector.of_trace(&trace(2), 3).await);
    assert_eq!(spans.keys().collect::<Vec<_>>(), ["connect", "queue", CALL], "it never began");
    assert_eq!(spans["connect"].error.as_deref(), Some("CONNECT_FAILED"));
    assert_eq!(spans["queue"].error, None, "its turn had come");
    service.stop().await;
}
