//! Has the process of [`lease_watch`](crate::os::lease_watch) end what this node has started when
//! the node is stopped for so long that others may take its sessions over.

use std::{io, path::Path, time::Duration};

use anyhow::Context as _;
use tracing::{error, error_span};

use crate::{os::lease_watch::LeaseWatch, store::Lease, tasks::Tasks};

/// Starts the watch, by `program`, and tells it of each renewal for as long as the store is open.
/// One that is gone is replaced.
pub fn watch(mut lease: Lease, program: &Path, tasks: &Tasks) -> anyhow::Result<()> {
    let mut watch = LeaseWatch::start(program, lease.outlived_at())
        .with_context(|| format!("the watch of the lease: cannot start {}", program.display()))?;
    let program = program.to_owned();
    // By then everything that the node has started has ended.
    let stopping = tasks.stopping().clone();
    tasks.spawn(error_span!("lease"), async move {
        while let Some(Ok(())) = stopping.run_until_cancelled(lease.renewed.changed()).await {
            let deadline = lease.outlived_at();
            if let Err(error) = watch.put_forward(deadline) {
                match replaced(&mut watch, &program, deadline) {
                    Ok(()) => error!(%error, "lease_watch_replaced"),
                    // Tried again when the lease is renewed next.
                    Err(error) => error!(%error, "lease_watch_missing"),
                }
            }
        }
    });
    Ok(())
}

fn replaced(watch: &mut LeaseWatch, program: &Path, deadline: Duration) -> io::Result<()> {
    *watch = LeaseWatch::start(program, deadline)?;
    Ok(())
}
