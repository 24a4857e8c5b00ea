//! The rules of the sections `store` and `cluster`.

use super::Findings;
use crate::config::{
    ClusterConfig, Config, StoreConfig, StoreKind, places::SQLITE, secrets::shown_url,
    units::show_duration,
};

/// What a connection string of PostgreSQL begins with.
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// The parameters that it may have. Others would be ignored, but for a line in the log.
const PARAMETERS: [&str; 14] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "ssl-mode",
    "ssl-root-cert",
    "ssl-cert",
    "ssl-key",
    "host",
    "port",
    "user",
    "password",
    "application_name",
    "options",
];

/// What is needed of the name of a node.
const NODE_BYTES: usize = 255;

pub fn check(config: &Config, findings: &mut Findings<'_>) {
    let Config { store, cluster, .. } = config;
    match store.kind {
        StoreKind::Sqlite | StoreKind::Memory => check_file(store, findings),
        StoreKind::Postgres => check_server(store, findings),
    }
    check_times(store, cluster, findings);
    let node = &cluster.node;
    if node.is_empty() || node.len() > NODE_BYTES || node.chars().any(char::is_control) {
        let problem = format!("must have 1 to {NODE_BYTES} bytes, and no control characters");
        findings.refuse("cluster.node", format!("{node:?}"), problem);
    }
}

fn check_file(store: &StoreConfig, findings: &mut Findings<'_>) {
    let path = store.url.strip_prefix(SQLITE).map(|path| path.trim_start_matches('/'));
    if !store.url.is_empty() && path.is_none_or(str::is_empty) {
        let problem = if is_server(&store.url) {
            "must be sqlite:PATH, or empty for a file in the state folder; a server needs \
             store.kind = \"postgres\""
        } else {
            "must be sqlite:PATH, or empty for a file in the state folder"
        };
        findings.refuse("store.url", format!("{:?}", shown_url(&store.url)), problem);
    }
    if let Some(file) = &store.url_file {
        let problem = "needs store.kind = \"postgres\"";
        findings.refuse("store.url_file", format!("{:?}", file.display().to_string()), problem);
    }
}

fn check_server(store: &StoreConfig, findings: &mut Findings<'_>) {
    let sound = findings.is_sound("store.url") && findings.is_sound("store.url_file");
    match (store.url.is_empty(), &store.url_file) {
        (true, None) if sound => {
            let problem = "must be set, or store.url_file, with store.kind = \"postgres\"";
            findings.refuse("store.url", "\"\"", problem);
        }
        (false, Some(file)) => {
            let shown = format!("{:?}", file.display().to_string());
            findings.refuse("store.url_file", shown, "must not be set beside store.url");
        }
        (false, None) => {
            if let Some(problem) = problem_of_url(&store.url) {
                findings.refuse("store.url", format!("{:?}", shown_url(&store.url)), problem);
            }
        }
        (true, _) => {}
    }
}

fn is_server(url: &str) -> bool {
    POSTGRES.iter().any(|scheme| url.starts_with(scheme))
}

/// What is wrong with a connection string of PostgreSQL. Never says what is in it.
pub fn problem_of_url(url: &str) -> Option<String> {
    if !is_server(url) {
        return Some("must be postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned());
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter_map(|pair| pair.split('=').next());
    let unknown = names.filter(|name| !name.is_empty()).any(|name| {
        let is_option = name.starts_with("options[") && name.ends_with(']');
        !is_option && !PARAMETERS.contains(&name)
    });
    unknown.then(|| format!("must have no parameters but {}", PARAMETERS.join(", ")))
}

fn check_times(store: &StoreConfig, cluster: &ClusterConfig, findings: &mut Findings<'_>) {
    let ClusterConfig { heartbeat, lease, .. } = cluster;
    if !findings.is_sound("cluster.lease") {
        return;
    }
    let told = format!("{} ({})", show_duration(*lease), findings.settings.origin("cluster.lease"));
    if heartbeat.saturating_mul(3) > *lease {
        let problem = format!("must be at most a third of cluster.lease = {told}");
        findings.refuse("cluster.heartbeat", show_duration(*heartbeat), problem);
    }
    if store.statement_timeout >= *lease {
        let problem = format!("must be less than cluster.lease = {told}");
        findings.refuse("store.statement_timeout", show_duration(store.statement_timeout), problem);
    }
}
