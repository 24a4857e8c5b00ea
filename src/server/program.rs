//! The service as a program: what happens between a configuration that was read and the end of
//! the process. Everything that has to be so before the first thread is started is done here, in
//! this order: descriptors, signals, the sandbox, the supervisor, logging, the runtime.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use super::{EarlyStop, Enclosure, serve, settings};
use crate::{
    access::credentials::Credentials,
    config::{Config, UnknownVariable},
    os::{descriptors, group_watch, lease_watch, supervisor},
    telemetry, traces,
};

/// How long threads that wait for a disk are waited for once everything else has ended.
const STUCK_THREADS: Duration = Duration::from_secs(1);

/// How long threads for work that waits for a disk are kept for the next. There may be as many of them as the
/// runtime allows by itself, since a disk may hang; they need not stay for that. Whoever watches what sessions
/// hold wakes one after the other, ten times a second: kept for longer than that, none of a burst would ever go.
const UNUSED_THREADS: Duration = Duration::from_millis(50);

/// Runs one of the processes that the service needs beside itself, if these arguments of the program
/// ask for that: the supervisor of one CLI, the watch of the lease, or that of process groups. They
/// are none of the commands: nobody but the service uses them.
pub fn run_helper(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let first = arguments.next()?;
    if first == supervisor::SUBCOMMAND {
        return Some(supervisor::run_subcommand(arguments));
    }
    if first == group_watch::SUBCOMMAND {
        return Some(group_watch::run_subcommand());
    }
    (first == lease_watch::SUBCOMMAND).then(lease_watch::run_subcommand)
}

/// Serves until a signal stops it. Agents are kept from reading the files `secrets`, which the
/// configuration was read from; `unknown` variables are warned about.
///
/// Blocks, and makes a runtime of its own: there must be no other thread yet.
///
/// # Errors
///
/// Whatever keeps the service from starting, as a text for people.
pub fn run(
    config: Config,
    secrets: &[PathBuf],
    unknown: &[UnknownVariable],
) -> anyhow::Result<ExitCode> {
    let (enclosure, early) = enclose(&config, secrets)?;
    telemetry::init(&config.log)?;
    for UnknownVariable { name, nearest } in unknown {
        tracing::warn!(name, nearest, "variable_not_known");
    }
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "file_descriptors_not_raised");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(UNUSED_THREADS)
        .build()?;
    let served = runtime.block_on(serve(config, enclosure, early));
    // A thread may be stuck in a disk that does not answer.
    runtime.shutdown_timeout(STUCK_THREADS);
    served
}

/// Finds out what encloses CLIs, and puts this process itself under a supervisor if it needs one.
fn enclose(config: &Config, secrets: &[PathBuf]) -> anyhow::Result<(Enclosure, EarlyStop)> {
    descriptors::keep_to_ourselves()?;
    let early = EarlyStop::hold_back()?;
    let enclosure = match Enclosure::of_supervisor(config, secrets) {
        Some(enclosure) => Ok(enclosure),
        None => Enclosure::choose(config, secrets).and_then(|enclosure| {
            early.arm()?;
            if enclosure.needs_supervisor() {
                enclosure.keep_ourselves(&early)?.repeat();
            }
            Ok(enclosure)
        }),
    };
    early.arm()?;
    Ok((enclosure?, early))
}

/// Reads the files that a configuration names: tokens, certificates, keys, and headers for a
/// collector.
///
/// # Errors
///
/// What is wrong with the first file that is not accepted, with its path.
pub fn check_files(config: &Config) -> anyhow::Result<()> {
    Credentials::read(config)?;
    settings::traces(config).map_or(Ok(()), |settings| traces::check_files(&settings))
}
