//! What is not shown to anybody: values that look like credentials by their name.

use std::{collections::BTreeMap, fmt};

use super::CliConfig;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "<hidden>";

/// Whether what goes by this name should not be shown.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "AUTH", "CREDENTIAL"]
        .iter()
        .any(|word| name.contains(word))
}

impl fmt::Debug for CliConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, extra_args, env, env_passthrough, max_frame_bytes } = self;
        let env: BTreeMap<_, _> = env
            .iter()
            .map(|(name, value)| (name, if is_secret(name) { HIDDEN } else { value.as_str() }))
            .collect();
        f.debug_struct("CliConfig")
            .field("path", path)
            .field("extra_args", extra_args)
            .field("env", &env)
            .field("env_passthrough", env_passthrough)
            .field("max_frame_bytes", max_frame_bytes)
            .finish()
    }
}
