//! What a CLI is told of the trace of its turn: `TRACEPARENT`, for each turn anew, and nothing else.

use session_pool::proto::SessionOptions;

use super::{CALL, PARENT, TURN, exporting, parent, run, trace, with};
use crate::support::{
    collector::{Collector, Span},
    eventually,
    service::{Service, query, query_with, script},
    turn::Turn,
};

/// What the CLI has for its trace.
async fn told(service: &Service, session: &str, metadata: &[(&'static str, &str)]) -> [String; 2] {
    let mut told = [const { String::new() }; 2];
    for (told, name) in told.iter_mut().zip(["TRACEPARENT", "TRACESTATE"]) {
        let call = with(query(session, &script(&[&format!("env {name}")])), metadata);
        let stream = service.client.clone().query(call).await.expect("taken").into_inner();
        let mut turn = Turn::new(stream);
        turn.finish().await;
        *told = turn.text();
    }
    told
}

#[tokio::test]
async fn without_an_exporter_a_caller_s_trace_reaches_the_cli_turn_by_turn() {
    let service = Service::start(|_| {}).await;
    let (first, second) = (parent(&trace(1), "01"), parent(&trace(2), "00"));
    assert_eq!(
        told(&service, "s", &[("traceparent", &first), ("tracestate", "a=1, b=2")]).await,
        [first.as_str(), "a=1,b=2"]
    );
    let process = service.session("s").await.expect("there").process_id;
    assert_eq!(told(&service, "s", &[("traceparent", &second)]).await, [second.as_str(), ""]);
    assert_eq!(told(&service, "s", &[]).await, [""; 2], "it is of none");
    assert_eq!(told(&service, "s", &[("traceparent", &second)]).await, [second.as_str(), ""]);
    assert_eq!(service.session("s").await.expect("there").process_id, process, "one process");
    for none in ["", "00-x", "00-1-1-01", "00-1-1-01\tPATH=/"] {
        assert_eq!(told(&service, "t", &[("traceparent", none)]).await, ["unset"; 2], "{none}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_spare_is_told_when_it_is_taken() {
    let service = Service::start(|config| config.pool.spares = 1).await;
    eventually("a spare", async || (service.stats().await.spares > 0).then_some(())).await;
    let sent = parent(&trace(1), "01");
    let told = told(&service, "s", &[("traceparent", &sent)]).await;
    assert_eq!(told, [sent.as_str(), "unset"]);
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.from_spare, 1);
    service.stop().await;
}

#[tokio::test]
async fn with_an_exporter_the_cli_goes_on_where_the_turn_is() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |_| {}).await;
    let sent = parent(&trace(1), "01");
    // On a process that was started for it, and on the same for another.
    for spans in [5, 9] {
        let turn = run(&service, query("s", &script(&["env TRACEPARENT"])), &sent).await;
        let all = collector.of_trace(&trace(1), spans).await;
        let is_its = |span: &&Span| {
            span.name == TURN && span.says("session_pool.turn_id") == turn.started().turn_id
        };
        let own = all.iter().find(is_its).expect("the turn's");
        assert_eq!(turn.text(), format!("00-{}-{}-01", trace(1), own.id));
        let call = all.iter().find(|span| span.id == own.parent).expect("the call's");
        assert_eq!((call.name.as_str(), call.parent.as_str()), (CALL, PARENT));
    }
    service.stop().await;
}

#[tokio::test]
async fn who_sets_the_variable_says_what_it_is() {
    let service = Service::start(|config| {
        config.cli.env.insert("TRACEPARENT".into(), "the operator's".into());
    })
    .await;
    for (session, number) in [("s", 1), ("s", 2)] {
        let sent = parent(&trace(number), "01");
        let told = told(&service, session, &[("traceparent", &sent)]).await;
        assert_eq!(told, ["the operator's", "unset"]);
    }
    service.stop().await;

    let service = Service::start(|config| config.policy.env = vec!["TRACEPARENT".into()]).await;
    let options = SessionOptions {
        env: [("TRACEPARENT".to_owned(), "the caller's".to_owned())].into(),
        ..SessionOptions::default()
    };
    for number in [1, 2] {
        let request = query_with("s", &script(&["env TRACEPARENT"]), options.clone());
        let turn = run(&service, request, &parent(&trace(number), "01")).await;
        assert_eq!(turn.text(), "the caller's");
    }
    service.stop().await;
}

#[tokio::test]
async fn the_cli_is_told_to_export_only_where_the_operator_wants_that() {
    const NAMES: [&str; 6] = [
        "CLAUDE_CODE_ENABLE_TELEMETRY",
        "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA",
        "CLAUDE_CODE_PROPAGATE_TRACEPARENT",
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let names = NAMES.map(|name| format!("env {name}"));
    let prompt = script(&names.each_ref().map(String::as_str));
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    for (wanted, values) in
        [(false, ["unset"; 6]), (true, ["1", "1", "1", "otlp", "grpc", endpoint.as_str()])]
    {
        let service = exporting(&collector, |config| config.traces.cli_telemetry = wanted).await;
        assert_eq!(service.query("s", &prompt).await.text().lines().collect::<Vec<_>>(), values);
        service.stop().await;
    }
}

/// By whichever key the operator says what a variable is, and also where that leaves it unset.
#[tokio::test]
async fn what_the_operator_says_of_the_clis_own_telemetry_counts() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |config| {
        config.traces.cli_telemetry = true;
        config.cli.env.insert("OTEL_EXPORTER_OTLP_PROTOCOL".into(), "http/json".into());
        config.cli.env_passthrough.push("OTEL_TRACES_EXPORTER".into());
    })
    .await;
    let names = ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER"];
    let prompt = script(&names.map(|name| format!("env {name}")).each_ref().map(String::as_str));
    assert!(std::env::var_os("OTEL_TRACES_EXPORTER").is_none(), "the tests' own");
    assert_eq!(service.query("s", &prompt).await.text(), "http/json\nunset");
    service.stop().await;
}
