//! What others on the same store see of this node, and whether its heartbeat is renewed in time.
//! Once its lease is over others may have its sessions: the store refuses what it would commit,
//! and this is said. Knows the store's hook and the configuration; ends nothing.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::store::{PostgresStore, boot_time};

/// Tells other nodes that this one takes no new sessions. Never ends.
pub async fn drain(node: Option<&PostgresStore>) {
    if let Some(node) = node
        && let Err(error) = node.drain().await
    {
        warn!(%error, "node_not_drained");
    }
    pending().await
}

/// Tells when the lease is over, and when it is renewed again. Never ends.
pub async fn watch(node: Option<Arc<PostgresStore>>, lease: Duration) {
    let Some(node) = node else { return pending().await };
    let mut renewed = node.renewed();
    let mut is_over = false;
    loop {
        let age = boot_time().saturating_sub(*renewed.borrow_and_update());
        if age >= lease && !is_over {
            error!(seconds = age.as_secs_f64(), "node_lease_over");
        } else if age < lease && is_over {
            info!("node_lease_renewed");
        }
        is_over = age >= lease;
        let rest = if is_over { lease } else { lease - age };
        tokio::select! {
            // Timers do not count while the machine is suspended; then the next renewal says so.
            () = sleep(rest) => {}
            changed = renewed.changed() => if changed.is_err() { return pending().await },
        }
    }
}
