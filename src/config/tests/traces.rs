//! The section `traces`: what is refused, in which words, and what is never said.

use super::*;

const ENDPOINT: (&str, &str) = ("traces.otlp_endpoint", "http://127.0.0.1:4317");

#[test]
fn an_exporter_needs_no_more_than_its_collector() {
    let config = with_flags(&[]).unwrap();
    assert!(!config.traces.are_exported());
    let config = with_flags(&[ENDPOINT]).unwrap();
    assert!(config.traces.are_exported());
    assert_eq!(config.traces.service_name, "session-pool");
    for endpoint in ["https://collector.example:4317", "http://collector", "http://[::1]:4317/"] {
        with_flags(&[("traces.otlp_endpoint", endpoint)]).expect(endpoint);
    }
}

#[test]
fn variables_of_other_programs_turn_nothing_on() {
    let env = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")]);
    let config = load(Sources { env, ..Sources::default() }).unwrap();
    assert!(!config.traces.are_exported());
}

#[test]
fn values_that_are_not_good_are_refused() {
    for (key, value, words) in [
        ("traces.otlp_endpoint", "127.0.0.1:4317", "must be http://HOST:PORT or https://"),
        ("traces.otlp_endpoint", "grpc://collector:4317", "must be http://HOST:PORT"),
        ("traces.otlp_endpoint", "http://collector/v1/traces", "without a path"),
        ("traces.service_name", " ", "must have from 1 to 255 bytes"),
        ("traces.sample_ratio", "1.1", "must be from 0 to 1"),
        ("traces.sample_ratio", "-0.1", "must be from 0 to 1"),
        ("traces.export_interval", "0s", "must be over 0 and at most 1m"),
        ("traces.export_timeout", "2m", "must be over 0 and at most 1m"),
        ("traces.max_queued_spans", "0", "must be from 1 to 1000000"),
        ("traces.cli_telemetry", "1", "must be true or false"),
    ] {
        let told = refusal(&[(key, value)]);
        assert!(told.starts_with(key) && told.contains(words), "{told}");
    }
}

#[test]
fn what_is_of_no_use_alone_is_refused_alone() {
    for (key, value) in
        [("traces.headers_file", "/h"), ("traces.ca", "/ca"), ("traces.cli_telemetry", "true")]
    {
        let told = refusal(&[(key, value)]);
        assert!(told.starts_with(key) && told.contains("needs traces.otlp_endpoint"), "{told}");
    }
    let told = refusal(&[ENDPOINT, ("traces.ca", "/ca")]);
    assert!(told.contains("begins with https://"), "{told}");
    let told =
        refusal(&[ENDPOINT, ("traces.headers_file", "/h"), ("traces.cli_telemetry", "true")]);
    assert!(told.contains("excludes traces.headers_file"), "{told}");
}

#[test]
fn credentials_in_the_address_are_refused_and_not_shown() {
    let told = refusal(&[("traces.otlp_endpoint", "https://me:s3cret@collector:4317")]);
    assert!(told.contains("must have no credentials in it") && !told.contains("s3cret"), "{told}");
    let told = refusal(&[("traces.otlp_endpoint", "s3cret@collector:4317")]);
    assert!(!told.contains("s3cret"), "{told}");
}
