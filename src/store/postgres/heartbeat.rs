//! The node's heartbeat: one row of the database, renewed from time to time on a connection of
//! its own. It also finds out whether a store that failed is well again, and tells when it was
//! last renewed, by a clock that goes on while the machine is suspended.

use std::{sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::error;

use super::{
    nodes::{self, Identity},
    ownership::REPLACED,
    transaction::Database,
};
use crate::store::{StoreError, status::SharedPublisher};

/// Bytes that are written to a store that failed, to try whether it has room.
const BALLAST: usize = 64 << 10;

/// The time since the machine was started, suspended or not.
pub fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

/// Renews a node's heartbeat.
#[derive(Debug)]
pub struct Heartbeat {
    pub database: Database,
    pub me: Arc<Identity>,
    pub every: Duration,
    pub publisher: SharedPublisher,
    /// When it was last renewed, by [`boot_time`]: not later than the database thinks.
    pub renewed: watch::Sender<Duration>,
}

impl Heartbeat {
    /// Ends only when another has taken the name.
    pub async fn run(self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let began = boot_time();
            let is_failing = self.publisher.is_failing();
            let ballast = if is_failing { " ".repeat(BALLAST) } else { String::new() };
            match nodes::beat(&self.database, &self.me, &ballast).await {
                Ok(true) => {
                    self.renewed.send_replace(began);
                    self.publisher.committed();
                }
                Ok(false) => {
                    // Nothing is to be renewed any more: the next life has to begin anew.
                    error!(node = %self.me.name, "node_replaced");
                    self.publisher.failing_for_good(&StoreError::unavailable(REPLACED));
                    return;
                }
                Err(error) => self.publisher.failing(&error),
            }
        }
    }
}
