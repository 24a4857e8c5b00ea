//! The keys of the section `traces`.

use super::{Field, MINUTE, Slot, duration, field};
use crate::config::TracesConfig;

pub(super) fn fields(traces: &mut TracesConfig) -> impl IntoIterator<Item = Field<'_>> {
    let TracesConfig {
        otlp_endpoint,
        headers_file,
        ca,
        service_name,
        sample_ratio,
        export_interval,
        export_timeout,
        max_queued_spans,
        cli_telemetry,
    } = traces;
    [
        field("traces.otlp_endpoint", Slot::Url(otlp_endpoint)),
        field("traces.headers_file", Slot::OptionalPath(headers_file)),
        field("traces.ca", Slot::OptionalPath(ca)),
        field("traces.service_name", Slot::Text(service_name)),
        field("traces.sample_ratio", Slot::Amount(sample_ratio, 0.0..=1.0)),
        duration("traces.export_interval", export_interval, MINUTE),
        duration("traces.export_timeout", export_timeout, MINUTE),
        field("traces.max_queued_spans", Slot::Count(max_queued_spans, 1..=1_000_000)),
        field("traces.cli_telemetry", Slot::Flag(cli_telemetry)),
    ]
}
