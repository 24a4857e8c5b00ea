//! Rules of the section `gateway`: what would show a credential to agents is refused.

use http::Uri;

use super::{Config, Findings};
use crate::{
    config::{EgressConfig, secrets::shown_address},
    policy::variables::WAYS_TO_A_MODEL,
};

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    let gateway = &config.gateway;
    if let Some(problem) = problem_of(&gateway.upstream) {
        findings.refuse(
            "gateway.upstream",
            format!("{:?}", shown_address(&gateway.upstream)),
            problem,
        );
    }
    if !gateway.listen.ip().to_canonical().is_loopback() {
        let problem = "must be a loopback address: only CLIs of this machine have a use for it";
        findings.refuse("gateway.listen", gateway.listen.to_string(), problem);
    }
    if gateway.api_key_file.is_some() && gateway.bearer_token_file.is_some() {
        let problem = "excludes gateway.api_key_file: one of the two is shown to the API";
        findings.refuse("gateway.bearer_token_file", "set", problem);
    }
    if gateway.ca.is_some() && gateway.upstream.starts_with("http:") {
        let problem = "needs a gateway.upstream that begins with https://";
        findings.refuse("gateway.ca", "set", problem);
    }
    let sound = ["gateway.api_key_file", "gateway.bearer_token_file", "gateway.tenant"];
    if gateway.enabled
        && !gateway.has_credential()
        && sound.iter().all(|key| findings.is_sound(key))
    {
        let problem = "needs a credential: gateway.api_key_file, gateway.bearer_token_file or \
                       [[gateway.tenant]]";
        findings.refuse("gateway.enabled", "true", problem);
    }
    if config.policy.egress == EgressConfig::Gateway
        && !gateway.enabled
        && findings.is_sound("gateway.enabled")
    {
        let problem = "needs gateway.enabled: no session could reach the API";
        findings.refuse("policy.egress", "gateway", problem);
    }
    if gateway.enabled {
        check_variables(config, findings);
    } else if config.policy.tenant_max_tokens_per_minute > 0 && findings.is_sound("gateway.enabled")
    {
        let value = config.policy.tenant_max_tokens_per_minute.to_string();
        let problem = "needs gateway.enabled: nobody else counts tokens in time";
        findings.refuse("policy.tenant_max_tokens_per_minute", value, problem);
    }
}

/// What agents can read of a credential is not to be had beside the gateway.
fn check_variables(config: &Config, findings: &mut Findings<'_>) {
    let cli = &config.cli;
    for name in WAYS_TO_A_MODEL {
        let in_files = cli.variables_in_files().any(|(known, _)| known == name);
        let keys = [
            (format!("cli.env.{name}"), cli.env.contains_key(name)),
            ("cli.env_files".to_owned(), in_files),
            ("cli.env_passthrough".to_owned(), cli.env_passthrough.iter().any(|it| it == name)),
        ];
        for (key, _) in keys.into_iter().filter(|(_, set)| *set) {
            let problem = "leads past the gateway, or agents would read it: gateway.upstream and \
                           gateway.api_key_file have a place for it, or gateway.enabled = false";
            findings.refuse(&key, name, problem);
        }
    }
}

/// What is wrong with the address of the API, if anything is.
fn problem_of(upstream: &str) -> Option<&'static str> {
    if upstream.contains('@') {
        return Some("must have no credentials in it: gateway.api_key_file has a place for them");
    }
    let uri = upstream.parse::<Uri>().ok().filter(|uri| {
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        is_known && uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty())
    });
    uri.is_none().then_some("must be http://HOST or https://HOST, with a port and a path at most")
}
