//! What the real CLI makes of the trace that it is told of: its own spans, its requests to the API
//! and the programs that it runs go on with that, turn by turn, however its process was come by.

use std::time::Duration;

use session_pool::proto::{QueryRequest, SessionOptions, TurnOrigin};

use crate::{
    bed::{Bed, Version, each_version, origin},
    support::{
        collector::{Collector, Span},
        eventually,
        service::query_with,
        turn::Turn,
    },
};

each_version!(newest: every_turn_is_one_trace_from_its_caller_to_the_api);

const PARENT: &str = "b7ad6b7169203331";

/// Runs a turn in a caller's trace.
async fn run(bed: &Bed, request: QueryRequest, trace: &str) -> Turn {
    let mut call = tonic::Request::new(request);
    let parent = format!("00-{trace}-{PARENT}-01");
    call.metadata_mut().insert("traceparent", parent.parse().expect("a value"));
    let stream = bed.service.client.clone().query(call).await.expect("taken").into_inner();
    let mut turn = Turn::new(stream);
    turn.finish().await;
    turn
}

/// The span of this name in a trace, once it is there.
async fn span(collector: &Collector, trace: &str, name: &str) -> Span {
    let found = async || {
        let mut spans = collector.spans().into_iter();
        spans.find(|span| span.trace_id == trace && span.name == name)
    };
    eventually(name, found).await
}

async fn every_turn_is_one_trace_from_its_caller_to_the_api(version: Version) {
    let collector = Collector::start().await;
    let bed = Bed::with(version, |config| {
        config.traces.otlp_endpoint = collector.endpoint();
        config.traces.export_interval = Duration::from_millis(5);
        config.traces.cli_telemetry = true;
        // How long the CLI keeps spans back; five seconds otherwise.
        config.cli.env.insert("OTEL_TRACES_EXPORT_INTERVAL".into(), "100".into());
    })
    .await;
    let options =
        SessionOptions { allowed_tools: vec!["Bash".into()], ..SessionOptions::default() };
    for (number, wanted) in
        [(1, TurnOrigin::Created), (2, TurnOrigin::Reused), (3, TurnOrigin::Resumed)]
    {
        let trace = format!("{number:032x}");
        let turn = run(&bed, query_with("s", "[[bash env]]", options.clone()), &trace).await;
        assert_eq!(origin(&turn), wanted);
        let own = span(&collector, &trace, "invoke_agent claude-code").await;
        assert_eq!(own.says("session_pool.turn_id"), turn.started().turn_id);
        // What the CLI reports is a part of the turn.
        let interaction = span(&collector, &trace, "claude_code.interaction").await;
        assert_eq!(interaction.parent, own.id);
        assert_eq!(interaction.resource["service.name"], "claude-code");
        assert!(!interaction.says("user_prompt").contains("bash"), "{interaction:?}");
        // The API is asked, and commands are run, below that.
        let request = bed.last_request(&turn.result().cli_session_id);
        let asked = request.header("traceparent").expect("it is told").to_owned();
        let parent = |id: &str| format!("00-{trace}-{id}-01");
        let ran = span(&collector, &trace, "claude_code.tool.execution").await;
        let told = &turn.tool_result().text;
        assert!(told.contains(&format!("TRACEPARENT={}\n", parent(&ran.id))), "{told}");
        let is_asked =
            |span: &Span| span.name == "claude_code.llm_request" && parent(&span.id) == asked;
        eventually("the request's span", async || collector.spans().into_iter().find(is_asked))
            .await;
        if number == 2 {
            bed.kill_after(&turn).await;
        }
    }
    bed.stop().await;
}
