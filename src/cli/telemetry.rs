//! The variables by which a CLI exports spans of its own, by OTLP over gRPC, below the turn that it
//! is told of in `TRACEPARENT`. Observed on 2.1.197 and 2.1.332; what else it may say in them, such
//! as prompts, it says only if the operator sets further variables.

/// Spans go to the collector at this URL.
pub fn variables(endpoint: &str) -> [(&'static str, String); 6] {
    [
        ("CLAUDE_CODE_ENABLE_TELEMETRY", "1"),
        ("CLAUDE_CODE_ENHANCED_TELEMETRY_BETA", "1"),
        ("CLAUDE_CODE_PROPAGATE_TRACEPARENT", "1"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}
