//! Logs: where they go and what they look like, and how often a refusal is worth a line
//! ([`log_limit`]). Knows its part of the configuration.
//!
//! Every line is an event with a name, at a level by who has to act on it; all of them
//! are in `docs/log-events.md`. Prompts and answers are logged nowhere, at no level; what
//! callers choose (ids) and what the CLI says of its own failures (stderr) may be.

mod json;
pub mod log_limit;

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{LogConfig, LogFormat};

/// Where events of the service come from; those of its libraries have other targets.
const OWN: &str = env!("CARGO_CRATE_NAME");

/// Sends events to stderr. Fails if that was done before or the level is no filter.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(own(&config.level)).context("log.level is not a filter")?;
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Json => registry.with(json::layer(std::io::stderr)).try_init(),
        LogFormat::Pretty => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())),
            )
            .try_init(),
    }
    .context("logging was set up before")
}

/// The filter with its bare levels limited to the service's own events: those of a library
/// come only where the filter names it.
fn own(filter: &str) -> String {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directive = |directive: &str| {
        let word = directive.trim();
        let is_level = LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
            || (word.len() == 1 && ("0"..="5").contains(&word));
        if is_level { format!("{OWN}={word}") } else { directive.to_owned() }
    };
    filter.split(',').map(directive).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f3_a_bare_level_is_about_the_service_and_no_library() {
        assert_eq!(own("info"), "session_pool=info");
        assert_eq!(own("DEBUG"), "session_pool=DEBUG");
        assert_eq!(own("2"), "session_pool=2");
        assert_eq!(own("debug,h2=trace, warn"), "session_pool=debug,h2=trace,session_pool=warn");
        assert_eq!(
            own("info,session_pool::store=debug"),
            "session_pool=info,session_pool::store=debug"
        );
        assert_eq!(own("sqlx,[turn]=trace"), "sqlx,[turn]=trace");
        for filter in ["info", "debug,h2=trace", "off", "5"] {
            assert!(EnvFilter::try_new(own(filter)).is_ok(), "{filter}");
        }
    }
}
