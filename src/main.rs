//! The program `session-pool`.
use std::process::ExitCode;
#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let config = session_pool::config::load(session_pool::config::Sources {
        file: None,
        env: std::env::vars().collect(),
        flags: vec![],
    })?;
    session_pool::telemetry::init(&config.log)?;
    session_pool::server::serve(config).await
}
