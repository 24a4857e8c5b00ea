//! The node's heartbeat: one row of the database, renewed from time to time on a connection of
//! its own. It also finds out whether a store that failed is well again.
//!
//! A node whose heartbeat could not be renewed ends its incarnation before others may take it for
//! dead ([`FENCED_AFTER`] of its lease): whoever serves sessions hears that and stops. The time is
//! counted from before the request, and by a clock that goes on while the machine is suspended:
//! never later than the database counts. When the database answers again the node registers as
//! another incarnation, unless somebody else has its name by then. For a node that cannot end anything
//! itself, since it is stopped, somebody else does so a little later ([`Lease`]).

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, info};
use uuid::Uuid;

use super::{
    last_life::LastLife,
    me::Me,
    nodes::{self, Identity, Registered},
    ownership::REPLACED,
    transaction::Database,
};
use crate::{
    os::clock::boot_time,
    store::{Expiry, StoreError, status::SharedPublisher},
};

/// Bytes that are written to a store that failed, to try whether it has room.
const BALLAST: usize = 64 << 10;

/// The part of its lease after which a node stops to serve, in quarters. The rest is for ending its
/// processes.
const FENCED_AFTER: u32 = 3;

/// How often the time is looked at in a lease. It is not slept through: timers do not count while
/// the machine, or the service, is stopped.
const LOOKS: u32 = 40;

/// A lease, for whoever ends what the node has started if the node itself does not.
#[derive(Debug, Clone)]
pub struct Lease {
    /// When it was renewed last, by [`boot_time`].
    pub renewed: watch::Receiver<Duration>,
    pub length: Duration,
}

impl Lease {
    /// When everything that the node has started must be ended, by [`boot_time`]: after the node
    /// should have done so ([`FENCED_AFTER`]), and before others may have its sessions.
    pub fn outlived_at(&mut self) -> Duration {
        self.renewed.borrow_and_update().saturating_add(self.length * 7 / 8)
    }
}

/// When a lease that was renewed last as `renewed` says is over for the node itself; `None` where
/// it never is: a lease of no time is of tests, in which whoever claims last is the owner.
pub fn expiry(renewed: watch::Receiver<Duration>, lease: Duration) -> Option<Expiry> {
    #[cfg(feature = "test-tools")]
    if super::guards::is_missing(super::guards::Guard::SelfFencing) {
        return None;
    }
    (!lease.is_zero()).then(|| Expiry { renewed, after: lease * FENCED_AFTER / 4 })
}

/// Renews a node's heartbeat.
#[derive(Debug)]
pub struct Heartbeat {
    pub database: Database,
    pub me: Arc<Me>,
    pub every: Duration,
    /// Slots by which it writes.
    pub slots: usize,
    /// Where its incarnation is noted, if anywhere.
    pub last_life: Option<LastLife>,
    pub publisher: SharedPublisher,
    /// When it was last renewed, by [`boot_time`].
    pub renewed: watch::Sender<Duration>,
}

impl Heartbeat {
    /// Ends only when another has taken the name.
    pub async fn run(self) {
        tokio::select! {
            () = self.renew() => {}
            () = self.guard() => {}
        }
    }

    /// Ends the incarnation in time. Never ends itself.
    async fn guard(&self) {
        if self.me.expiry().is_none() {
            return pending().await;
        }
        loop {
            self.end_in_time();
            sleep(self.me.identity().lease / LOOKS).await;
        }
    }

    /// Ends the incarnation if it was not renewed in time.
    fn end_in_time(&self) {
        if self.me.expiry().is_some_and(Expiry::has_passed) && self.me.end() {
            let age = boot_time().saturating_sub(*self.renewed.borrow());
            error!(seconds = age.as_secs_f64(), "node_lease_over");
            self.publisher.failing(&StoreError::unavailable(LATE));
        }
    }

    async fn renew(&self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The incarnation that is registered next: the same until the database has said that it is,
        // since a registration whose answer was lost may have taken effect.
        let mut next = None;
        loop {
            ticks.tick().await;
            // When this service was stopped the guard may not have looked at the time since.
            self.end_in_time();
            let began = boot_time();
            let renewed = if self.me.is_over() {
                self.begin_anew(&mut next).await
            } else {
                self.beat().await
            };
            match renewed {
                Ok(true) => {
                    self.renewed.send_replace(began);
                    self.publisher.committed();
                }
                Ok(false) => {}
                Err(StoreError::Fenced { .. }) => {
                    // Nothing is to be renewed any more: the next life has to begin anew.
                    error!(node = %self.me.identity().name, "node_replaced");
                    return self.publisher.failing_for_good(&StoreError::unavailable(REPLACED));
                }
                Err(error) => self.publisher.failing(&error),
            }
        }
    }

    /// Renews the heartbeat. Returns whether it still is this incarnation's.
    async fn beat(&self) -> Result<bool, StoreError> {
        let is_failing = self.publisher.is_failing();
        let ballast = if is_failing { " ".repeat(BALLAST) } else { String::new() };
        let (identity, last) = (self.me.identity(), self.me.beat());
        let beat = nodes::beat(&self.database, &identity, &ballast, last).await?;
        match beat {
            Some(beat) => self.me.note_beat(beat),
            None => drop(self.me.end()),
        }
        // An answer that came too late renews nothing, whatever the database says by then.
        self.end_in_time();
        // One that ended meanwhile is not to be served any longer.
        Ok(beat.is_some() && !self.me.is_over())
    }

    /// Registers as another incarnation. Where the database has forgotten the last heartbeat, other
    /// nodes may have processes for sessions that it says are free, until they have found out: for
    /// a lease nothing is claimed.
    async fn begin_anew(&self, pending: &mut Option<Identity>) -> Result<bool, StoreError> {
        let last = self.me.identity();
        let next = pending.get_or_insert_with(|| Identity {
            incarnation: Uuid::new_v4().to_string(),
            ..Identity::clone(&last)
        });
        let began = boot_time();
        let known = (&*last, self.me.beat());
        let anew = (&*next, self.me.drains());
        match nodes::register_again(&self.database, known, anew, self.slots).await? {
            Registered::Taken => Err(StoreError::Fenced { owner: next.name.clone() }),
            Registered::Done { beat, was_known } => {
                let Identity { name, incarnation, lease, .. } = next;
                info!(node = %name, %incarnation, was_known, "node_registered_again");
                if let Some(last_life) = &self.last_life {
                    last_life.begins(incarnation).await;
                }
                let claims_from = if was_known { Duration::ZERO } else { boot_time() + *lease };
                // Before it begins: the guard counts from here.
                self.renewed.send_replace(began);
                self.me.begin(next.clone(), beat, claims_from);
                *pending = None;
                Ok(true)
            }
        }
    }
}

/// Why a node whose heartbeat was not renewed does nothing.
const LATE: &str = "this node could not renew its lease, and other nodes may have its sessions";
