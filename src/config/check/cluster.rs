//! Rules of the section `cluster`: whoever is taken for a node speaks for every caller, so
//! nobody may be taken for one by accident.

use std::net::IpAddr;

use http::uri::Authority;

use super::{Config, Findings};

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    check_files(config, findings);
    check_advertise(config, findings);
    check_trust(config, findings);
    check_listener(config, findings);
}

/// Certificates come with all that belongs to them, and are not mixed with a token.
fn check_files(config: &Config, findings: &mut Findings<'_>) {
    let cluster = &config.cluster;
    let (ca, cert, key) = (cluster.ca.is_some(), cluster.cert.is_some(), cluster.key.is_some());
    for (name, set, needs, other) in [
        ("cluster.ca", ca, "cluster.cert", cert),
        ("cluster.cert", cert, "cluster.key", key),
        ("cluster.key", key, "cluster.ca", ca),
    ] {
        if set && !other && findings.is_sound(needs) {
            findings.refuse(name, "set", format!("needs {needs}"));
        }
    }
    if ca && cluster.token_file.is_some() {
        let problem = "excludes cluster.ca: nodes recognise each other in one way";
        findings.refuse("cluster.token_file", "set", problem);
    }
    if ca && cluster.ca == config.tls.client_ca {
        let problem = "must not be tls.client_ca: every caller would be taken for a node";
        findings.refuse("cluster.ca", "set", problem);
    }
}

fn check_advertise(config: &Config, findings: &mut Findings<'_>) {
    let advertise = &config.cluster.advertise;
    if !advertise.is_empty() && host_and_port(advertise).is_none() {
        let problem = "must be HOST:PORT, such as \"10.0.0.1:50052\"";
        findings.refuse("cluster.advertise", format!("{advertise:?}"), problem);
    }
}

/// Without certificates and tokens whoever is on this machine is taken for a node. That is for
/// trying it out, where callers are not told apart either.
fn check_trust(config: &Config, findings: &mut Findings<'_>) {
    let cluster = &config.cluster;
    if cluster.asks() || !["cluster.ca", "cluster.token_file"].iter().all(|k| findings.is_sound(k))
    {
        return;
    }
    const OTHERWISE: &str = "set cluster.ca, cluster.cert and cluster.key, or cluster.token_file";
    let advertised = host_and_port(&cluster.advertise).filter(|(host, _)| !is_loopback(host));
    let listens = cluster.listen.filter(|listen| !listen.ip().to_canonical().is_loopback());
    let problem =
        format!("is not a loopback address, and nodes do not recognise each other: {OTHERWISE}");
    if let Some((host, port)) = advertised {
        findings.refuse("cluster.advertise", format!("{host}:{port}"), problem.clone());
    }
    if let Some(listen) = listens {
        findings.refuse("cluster.listen", listen.to_string(), problem);
    }
    let asks = config.auth.tokens_file.is_some() || config.tls.client_ca.is_some();
    if asks && cluster.is_reachable() {
        let key = if cluster.listen.is_some() { "cluster.listen" } else { "cluster.advertise" };
        let problem = format!(
            "callers are asked who they are, and nodes, which speak for them, are not: {OTHERWISE}"
        );
        findings.refuse(key, "set", problem);
    }
}

/// The ordinary listener speaks TLS to callers, or none; nodes have their own certificates.
fn check_listener(config: &Config, findings: &mut Findings<'_>) {
    let cluster = &config.cluster;
    if cluster.advertise.is_empty() || cluster.listen.is_some() {
        return;
    }
    for (key, set) in
        [("cluster.ca", cluster.ca.is_some()), ("tls.cert", config.tls.cert.is_some())]
    {
        if set && findings.is_sound(key) && findings.is_sound("cluster.listen") {
            let problem = format!("needs cluster.listen where {key} is set");
            findings.refuse("cluster.advertise", "set", problem);
            return;
        }
    }
}

/// Takes an address apart. An IPv6 address stands in brackets.
fn host_and_port(address: &str) -> Option<(String, u16)> {
    let authority: Authority = address.parse().ok().filter(|_| !address.contains('@'))?;
    let port = authority.port_u16().filter(|port| *port != 0)?;
    Some((authority.host().to_owned(), port)).filter(|(host, _)| !host.is_empty())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
