//! Environment variables that begin like ours and are not known: wrong spellings, which would
//! otherwise be ignored without a word. Kubernetes makes some that begin so, too: it tells every
//! container of the Services in its namespace, and ours may well be named `session-pool`.

use super::{
    Config, ValueOrigin, Violation,
    fields::{ENV_TABLE, fields},
    names::{PREFIX, key_of_variable},
    spelling::nearest,
};

/// What every variable of the program begins with.
const FAMILY: &str = "SESSION_POOL_";

/// What the variable that names the configuration file has after that.
const CONFIG: &str = "CONFIG";

/// Those of the subcommands that ask a running service.
const OF_CLIENT: [&str; 6] = ["ADDRESS", "CA_CERT", "CERT", "KEY", "TOKEN", "TOKEN_FILE"];

/// Those that the service gives to its own processes, and those by which developers say
/// where the tests find what they need.
const OTHERS: [&str; 5] = ["CLAUDE_DIR", "CLIENT", "KEPT", "STATE", "TOOLS"];

/// A variable that nothing reads, and that is not plainly a wrong spelling of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// The one that may have been meant.
    pub nearest: Option<String>,
}

impl std::fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, nearest } = self;
        write!(f, "nothing reads the environment variable {name}")?;
        match nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => write!(f, "; settings are {PREFIX}SECTION__KEY"),
        }
    }
}

/// What becomes of a variable whose name begins like ours.
enum Verdict {
    Known,
    /// Of a setting, whose key this is.
    Misspelt {
        key: String,
        variable: String,
    },
    Unknown(UnknownVariable),
}

/// Those that are wrong spellings of settings.
pub fn misspelt<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Violation> {
    let refused = |name: &str| match verdict(name) {
        Verdict::Misspelt { key, variable } => Some(Violation {
            key,
            value: None,
            problem: format!("the variable must be written {variable}"),
            origin: ValueOrigin::Environment(name.into()),
        }),
        Verdict::Known | Verdict::Unknown(_) => None,
    };
    names.filter_map(refused).collect()
}

/// Those that nothing reads.
pub fn unknown<'a>(names: impl Iterator<Item = &'a str>) -> Vec<UnknownVariable> {
    let unknown = |name: &str| match verdict(name) {
        Verdict::Unknown(variable) => Some(variable),
        Verdict::Known | Verdict::Misspelt { .. } => None,
    };
    names.filter_map(unknown).collect()
}

fn verdict(name: &str) -> Verdict {
    let Some(rest) = name.strip_prefix(FAMILY) else { return Verdict::Known };
    let is_known = rest == CONFIG || OF_CLIENT.contains(&rest) || OTHERS.contains(&rest);
    // What begins as a setting is told as a key that is not known.
    if is_known || key_of_variable(name).is_some() || is_service_link(name) {
        return Verdict::Known;
    }
    if let Some(variable) = rest.strip_prefix("CLI_ENV_")
        && !variable.is_empty()
        && nearest(rest, keys()).is_none()
    {
        return Verdict::Misspelt {
            key: format!("{ENV_TABLE}.{variable}"),
            variable: format!("{PREFIX}CLI__ENV__{variable}"),
        };
    }
    let others = OF_CLIENT.into_iter().chain([CONFIG]);
    let other = nearest(rest, others).filter(|near| near.whole).map(|near| near.name);
    match (nearest(rest, keys()), other) {
        (Some(near), _) if near.whole => {
            Verdict::Misspelt { key: near.name.into(), variable: variable_of(near.name) }
        }
        (_, Some(CONFIG)) => {
            Verdict::Misspelt { key: "--config".into(), variable: format!("{FAMILY}{CONFIG}") }
        }
        (near, other) => Verdict::Unknown(UnknownVariable {
            name: name.into(),
            nearest: other
                .map(|other| format!("{FAMILY}{other}"))
                .or(near.map(|near| variable_of(near.name))),
        }),
    }
}

/// Whether a variable of this name sets a key of the configuration.
pub fn is_setting(variable: &str) -> bool {
    variable.starts_with(PREFIX)
}

/// The variable of a setting.
pub fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// All keys, but for the one that is a list of tables.
pub fn keys() -> impl Iterator<Item = &'static str> {
    let keys: Vec<_> =
        fields(&mut Config::defaults(|_| None)).iter().map(|field| field.key).collect();
    keys.into_iter()
}

/// Whether Kubernetes makes a variable of this name for a Service: `…_SERVICE_HOST`,
/// `…_SERVICE_PORT`, `…_SERVICE_PORT_GRPC`, `…_PORT`, `…_PORT_50051_TCP` and what follows that.
fn is_service_link(name: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") {
        return true;
    }
    if name.contains("_SERVICE_PORT_") {
        return true;
    }
    name.match_indices("_PORT_").any(|(at, separator)| {
        let mut parts = name[at + separator.len()..].split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part));
        let last = parts.next().is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part));
        number && protocol && last && parts.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str) -> (Vec<String>, Vec<String>) {
        let refused = misspelt([name].into_iter());
        let unread = unknown([name].into_iter());
        (
            refused.iter().map(ToString::to_string).collect(),
            unread.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn a_wrong_spelling_of_a_setting_is_refused_with_the_right_one() {
        for (name, key, meant) in [
            ("POOL_MAX_SESSIONS", "pool.max_sessions", "SESSION_POOL__POOL__MAX_SESSIONS"),
            ("POOL__MAX_SESSIONS", "pool.max_sessions", "SESSION_POOL__POOL__MAX_SESSIONS"),
            ("POOL_MAX_SESSION", "pool.max_sessions", "SESSION_POOL__POOL__MAX_SESSIONS"),
            ("SERVER_LISTEN", "server.listen", "SESSION_POOL__SERVER__LISTEN"),
            ("STATE_DIR", "state_dir", "SESSION_POOL__STATE_DIR"),
            ("CLI_ENV_FILES", "cli.env_files", "SESSION_POOL__CLI__ENV_FILES"),
            ("CLI_ENV_REGION", "cli.env.REGION", "SESSION_POOL__CLI__ENV__REGION"),
            ("CONFG", "--config", "SESSION_POOL_CONFIG"),
        ] {
            let name = format!("SESSION_POOL_{name}");
            let (refused, unread) = told(&name);
            let line = format!("{key} (environment {name}): the variable must be written {meant}");
            assert_eq!((refused, unread), (vec![line], vec![]));
        }
    }

    #[test]
    fn what_nothing_reads_is_told_and_refused_by_nobody() {
        for (name, words) in [
            ("ADRESS", "did you mean SESSION_POOL_ADDRESS?"),
            ("CERTS", "did you mean SESSION_POOL_CERT?"),
            ("MAX_SESSIONS", "did you mean SESSION_POOL__POOL__MAX_SESSIONS?"),
            ("IMAGE_TAG", "settings are SESSION_POOL__SECTION__KEY"),
            ("SOAK_SECONDS", "settings are"),
        ] {
            let name = format!("SESSION_POOL_{name}");
            let (refused, unread) = told(&name);
            assert!(refused.is_empty(), "{refused:?}");
            assert_eq!(unread.len(), 1);
            let start = format!("nothing reads the environment variable {name}; ");
            assert!(unread[0].starts_with(&start) && unread[0].contains(words), "{unread:?}");
        }
    }

    #[test]
    fn what_is_known_or_made_by_kubernetes_is_let_be() {
        for name in [
            "CONFIG",
            "TOKEN",
            "ADDRESS",
            "CLAUDE_DIR",
            "TOOLS",
            "STATE",
            "_POOL__MAX_SESSIONS",
            // Of a Service named session-pool, and of one named session-pool-metrics.
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_GRPC",
            "PORT",
            "PORT_50051_TCP",
            "PORT_50051_TCP_PROTO",
            "PORT_50051_TCP_PORT",
            "PORT_50051_TCP_ADDR",
            "METRICS_SERVICE_HOST",
            "METRICS_SERVICE_PORT",
            "METRICS_PORT",
            "METRICS_PORT_9090_UDP_ADDR",
        ] {
            let (refused, unread) = told(&format!("SESSION_POOL_{name}"));
            assert!(refused.is_empty() && unread.is_empty(), "{refused:?} {unread:?}");
        }
        for name in ["SESSION_POOLS", "PATH", "SESSION_POOL"] {
            assert_eq!(told(name), (vec![], vec![]));
        }
    }

    #[test]
    fn no_setting_has_a_name_that_kubernetes_gives() {
        for key in keys() {
            assert!(!is_service_link(&variable_of(key).replace("__", "_")), "{key}");
        }
    }
}
