//! What environment variables are called that are settings.

use super::fields::ENV_TABLE;

/// What an environment variable begins with that is a setting.
pub(super) const PREFIX: &str = "SESSION_POOL__";

/// `SESSION_POOL__POOL__MAX_SESSIONS` is `pool.max_sessions`. The names of the
/// CLI's own variables keep their case: `SESSION_POOL__CLI__ENV__FOO` is
/// `cli.env.FOO`.
pub(super) fn key_of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    Some(match rest.strip_prefix("CLI__ENV__") {
        Some(variable) => format!("{ENV_TABLE}.{variable}"),
        None => rest.to_ascii_lowercase().replace("__", "."),
    })
}
