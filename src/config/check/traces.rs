//! Rules of the section `traces`.

use http::Uri;

use super::{Config, Findings};
use crate::config::secrets::shown_address;

/// Bytes of a name.
const LONGEST_NAME: usize = 255;

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    let traces = &config.traces;
    if let Some(problem) = problem_of(&traces.otlp_endpoint) {
        let shown = format!("{:?}", shown_address(&traces.otlp_endpoint));
        findings.refuse("traces.otlp_endpoint", shown, problem);
    }
    let name = &traces.service_name;
    if name.trim().is_empty() || name.len() > LONGEST_NAME {
        let problem = format!("must have from 1 to {LONGEST_NAME} bytes");
        findings.refuse("traces.service_name", format!("{name:?}"), problem);
    }
    for (key, set) in [
        ("traces.headers_file", traces.headers_file.is_some()),
        ("traces.ca", traces.ca.is_some()),
        ("traces.cli_telemetry", traces.cli_telemetry),
    ] {
        if set && !traces.are_exported() && findings.is_sound("traces.otlp_endpoint") {
            findings.refuse(key, "set", "needs traces.otlp_endpoint");
        }
    }
    let is_plain = traces.otlp_endpoint.starts_with("http:");
    if traces.ca.is_some() && is_plain && findings.is_sound("traces.otlp_endpoint") {
        findings.refuse(
            "traces.ca",
            "set",
            "needs a traces.otlp_endpoint that begins with https://",
        );
    }
    if traces.cli_telemetry && traces.headers_file.is_some() {
        let problem = "excludes traces.headers_file: the CLI would have to be given the headers, and \
                       agents read what it is given";
        findings.refuse("traces.cli_telemetry", "true", problem);
    }
}

/// What is wrong with the address of a collector, if anything is.
fn problem_of(endpoint: &str) -> Option<&'static str> {
    if endpoint.is_empty() {
        return None;
    }
    if endpoint.contains('@') {
        return Some("must have no credentials in it: traces.headers_file has a place for them");
    }
    let uri = endpoint.parse::<Uri>().ok().filter(|uri| {
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        is_known && is_bare && uri.host().is_some_and(|host| !host.is_empty())
    });
    let form = "must be http://HOST:PORT or https://HOST:PORT, without a path";
    uri.is_none().then_some(form)
}
