//! Logs: where they go and what they look like. Knows its part of the configuration.
//!
//! Prompts and answers are logged nowhere, at no level; what callers choose (ids) and
//! what the CLI says of its own failures (stderr) may be.

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{LogConfig, LogFormat};

/// Sends events to stderr. Fails if that was done before or the level is no filter.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.level).context("log.level is not a filter")?;
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Json => registry
            .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init(),
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
