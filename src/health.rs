//! Whether the service can take new turns, as health checks see it: the CLI answers,
//! the pool is enabled and the service is not stopping. Knows how to ask the CLI for
//! its version; nothing of sessions.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{sync::watch, time::timeout};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{debug, info, warn};

use crate::proto::SERVICE_NAME;

/// The name that is SERVING for as long as the process works.
pub const LIVENESS: &str = "liveness";

/// How long the CLI may take to say its version: a cold page cache made it 1.1 s.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// The wait before a CLI that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// Publishes what health checks see.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    version: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("version", &*self.version.borrow()).finish_non_exhaustive()
    }
}

impl Health {
    /// Not ready yet, but alive.
    pub async fn new(reporter: HealthReporter) -> Self {
        let health = Self { reporter, version: watch::Sender::new(None) };
        health.set_ready(false).await;
        health.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        health
    }

    /// Says whether new turns are taken.
    pub async fn set_ready(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", SERVICE_NAME] {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// The version of the CLI, once it has said it.
    pub fn cli_version(&self) -> Option<String> {
        self.version.borrow().clone()
    }

    /// Asks the CLI for its version until it answers, then says that new turns are
    /// taken if `enabled`.
    pub async fn probe(&self, program: PathBuf, enabled: bool) {
        loop {
            match version(&program).await {
                Ok(version) => {
                    info!(%version, program = %program.display(), "cli_found");
                    self.version.send_replace(Some(version));
                    self.set_ready(enabled).await;
                    return;
                }
                Err(error) => {
                    warn!(%error, program = %program.display(), "cli_not_found");
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
            debug!("cli_probed_again");
        }
    }
}

async fn version(program: &PathBuf) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--version")
        .env_clear()
        .envs(std::env::var("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(VERSION_LIMIT, command.output()).await??;
    anyhow::ensure!(output.status.success(), "--version ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
