//! Finds out before the service says that it is ready whether a session could have a CLI:
//! asks the executable for its version, and starts one as sessions get it, in its sandbox, up
//! to its answer. Tries again for as long as that fails. Knows the supply and the health
//! state; nothing of sessions.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    cli::{
        process::StopGrace,
        versions::{Installed, NEWEST_TESTED, OLDEST, Version},
    },
    domain::{
        failure::Failure,
        grants::Grants,
        ids::{CliSessionId, SessionId, SessionKey, TenantId},
        options::Options,
    },
    health::{Health, part},
    supply::{Conversation, Order, ProcessSupply, Supply as _},
};

/// How long the CLI may take to say its version: a cold page cache made it 1.1 s.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// The wait before the second attempt; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest of these waits.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is tried.
#[derive(Debug)]
pub struct Probe {
    /// `cli.path`.
    pub program: PathBuf,
    /// Learns its version.
    pub installed: Installed,
    /// Starts CLIs as sessions get them; `None` if only the version is asked for.
    pub supply: Option<ProcessSupply>,
}

impl Probe {
    /// Tries until it succeeds, and has the health state say meanwhile why it does not.
    pub async fn run(&self, health: &Health) {
        let mut wait = FIRST_WAIT;
        while let Err(reason) = self.attempt(health).await {
            health.hold(part::CLI, reason);
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            debug!("cli_probed_again");
        }
        health.release(part::CLI);
    }

    /// Fails with the reason, which is in the log then.
    async fn attempt(&self, health: &Health) -> Result<(), String> {
        let program = self.program.display();
        let version = version(&self.program).await.map_err(|error| {
            warn!(%error, %program, "cli_not_found");
            format!("cli.path: {program}: {error}")
        })?;
        info!(%version, %program, "cli_found");
        health.found_cli(&version);
        let told = Version::find(&version);
        self.installed.found(told);
        if let Some(problem) = too_old(told) {
            // It may be replaced while the service runs.
            warn!(%problem, "cli_too_old");
            return Err(format!("cli.path: {problem}"));
        }
        let Some(supply) = &self.supply else { return Ok(()) };
        start_one(supply).await.map_err(|failure| {
            warn!(error = %failure, %program, "cli_does_not_start");
            format!("cli.path: {program}: a session would get no process: {failure}")
        })
    }
}

/// Starts a CLI up to its answer to `initialize`, and ends it. Nothing of it stays.
async fn start_one(supply: &ProcessSupply) -> Result<(), Failure> {
    let session = SessionKey::new(TenantId::default(), SessionId::anonymous());
    let conversation = CliSessionId::fresh();
    let order = Order {
        session: session.clone(),
        conversation: Conversation::Own(conversation),
        begins: true,
        said: None,
        options: Options::default(),
        grants: Grants::default(),
        tools: None,
        variables: BTreeMap::new(),
        deadline: None,
        cancelled: CancellationToken::new(),
    };
    let leased = supply.lease(order).await;
    if let Ok(lease) = leased {
        let connect_time = lease.connect_time;
        lease.end(StopGrace::GENTLE).await;
        info!(connect_ms = connect_time.as_secs_f64() * 1e3, "cli_starts");
        return Ok(supply.forget(&session, &[conversation]).await?);
    }
    // What a failed start left; why it failed says more than why that cannot be removed.
    supply.forget(&session, &[conversation]).await.ok();
    leased.map(drop)
}

/// Why a version cannot be worked with. Says in the log what is only doubtful.
fn too_old(told: Option<Version>) -> Option<String> {
    match told {
        Some(version) if version < OLDEST => {
            Some(format!("version {version} is older than {OLDEST}, the oldest that works"))
        }
        Some(version) if version > NEWEST_TESTED => {
            warn!(%version, newest_tested = %NEWEST_TESTED, "cli_newer_than_tested");
            None
        }
        Some(_) => None,
        None => {
            warn!(oldest = %OLDEST, newest_tested = %NEWEST_TESTED, "cli_version_not_known");
            None
        }
    }
}

async fn version(program: &Path) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--version")
        .env_clear()
        .envs(std::env::var("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    crate::os::descriptors::restore_in(command.as_std_mut());
    let output = timeout(VERSION_LIMIT, command.output()).await??;
    anyhow::ensure!(output.status.success(), "--version ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
