//! What an operator is warned of at the start: set-ups that work, and that promise less than
//! they seem to. Looks at the configuration and at the sandbox; changes nothing.

use std::{net::SocketAddr, path::Path};

use tracing::warn;

use super::Enclosure;
use crate::{
    access::authenticator::Authenticator,
    cli::sandbox::Sandbox,
    config::{Config, EgressConfig},
};

/// Logs one line for each.
pub fn give(config: &Config, enclosure: &Enclosure, authenticator: &Authenticator) {
    let mode = enclosure.sandbox.name();
    if authenticator.tells_tenants_apart() && !enclosure.sandbox.is_wall() {
        warn!(
            mode,
            passed_over = %enclosure.passed_over,
            detail = "agents of one tenant can read and change what others have; set \
                      cli.sandbox_required = true to refuse such a start",
            "tenants_not_kept_apart"
        );
    }
    if config.policy.egress != EgressConfig::Open && !enclosure.sandbox.has_own_network() {
        warn!(
            mode,
            passed_over = %enclosure.passed_over,
            detail = "only programs that go by HTTPS_PROXY heed policy.egress; set \
                      cli.sandbox_required = true to refuse such a start",
            "egress_not_enforced"
        );
    }
    if rustix::process::geteuid().is_root() {
        warn!(mode, detail = "so do its agents: give it a user of its own", "running_as_root");
    }
    if let Sandbox::Bubblewrap(plan) = &enclosure.sandbox {
        for path in config.sandbox.hidden.iter().filter(|path| !Path::new(path).exists()) {
            warn!(
                path,
                detail = "it is not there, and will be seen if it comes later",
                "sandbox_hides_nothing"
            );
        }
        for name in hidden_variables(config, |path| plan.hides(path)) {
            warn!(
                variable = name,
                detail = "the sandbox hides the file that it names: add it to sandbox.readable",
                "variable_names_a_hidden_file"
            );
        }
    }
}

/// Names of the CLI's variables whose value is a path that exists and is hidden.
fn hidden_variables(config: &Config, hides: impl Fn(&Path) -> bool) -> Vec<&str> {
    let own = config.cli.env.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let passed_on = config
        .cli
        .env_passthrough
        .iter()
        .filter_map(|name| Some((name.as_str(), std::env::var(name).ok()?)));
    let mut hidden: Vec<&str> = own
        .chain(passed_on)
        .filter(|(_, value)| value.starts_with('/') && hides(Path::new(value)))
        .map(|(name, _)| name)
        .collect();
    hidden.dedup();
    hidden
}

/// Says what whoever reaches the address, or listens on the way to it, can do.
pub fn warn_of_exposure(config: &Config, address: SocketAddr, asks: bool) {
    if !asks {
        // The agents' tools are among those who can reach it, in every sandbox.
        warn!(
            detail = "anybody who reaches the address may call, as an admin",
            "callers_are_not_authenticated"
        );
    }
    if config.auth.insecure && !asks {
        warn!(
            detail = "auth.insecure is set: whoever reaches the address can use the service",
            "service_is_open"
        );
    }
    let encrypted = config.tls.cert.is_some();
    if asks && !encrypted && !address.ip().to_canonical().is_loopback() {
        warn!(
            detail = "tls.cert is not set: unless something encrypts, tokens can be read",
            "tokens_travel_in_the_open"
        );
    }
    let cluster = &config.cluster;
    let nodes_are_far = cluster.listen.is_none_or(|it| !it.ip().to_canonical().is_loopback());
    if cluster.token_file.is_some() && cluster.is_reachable() && nodes_are_far {
        warn!(
            detail = "unless something encrypts, whoever reads cluster.token_file on its way to \
                      another node can call as anybody: cluster.ca has nodes show certificates",
            "node_token_travels_in_the_open"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b4_variables_that_name_hidden_files_are_found() {
        let mut config = Config::default();
        let variables = [
            ("NODE_EXTRA_CA_CERTS", "/run/secrets/ca.pem"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/gcp.json"),
            ("ANTHROPIC_BASE_URL", "http://proxy"),
        ];
        for (name, value) in variables {
            config.cli.env.insert(name.to_owned(), value.to_owned());
        }
        let hidden = hidden_variables(&config, |path| path.starts_with("/run"));
        assert_eq!(hidden, ["NODE_EXTRA_CA_CERTS"]);
    }
}
