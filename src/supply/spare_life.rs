//! Keeps spares: starts those that are missing, and sees to each from its process slot to whoever
//! takes it. A task of its own watches it: one that ends, talks without end or grows old is
//! replaced.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    folders, handshake,
    prepare::blocking,
    shared::Shared,
    slots::ProcessSlot,
    spares::spare::{Spare, SpareKey, SpareSignal, remove_folder},
    turns::in_turn,
};
use crate::{
    cli::{launch::ConversationOrigin, process::Child as _},
    domain::{
        failure::Cause,
        ids::{CliSessionId, ClientId, TenantId},
    },
};

/// A spare that ends before it is this old counts as one that did not start.
const PROOF: Duration = Duration::from_secs(10);

/// What happened to a spare that waited.
enum Event {
    Heard(SpareSignal),
    /// It is of no use any more.
    Lost,
    Old,
    /// The service stops.
    Stopping,
}

impl Shared {
    /// Keeps spares for as long as the service lives.
    pub async fn keep_spares(self: Arc<Self>) {
        let state_dir = self.settings.state_dir.clone();
        if let Err(error) = blocking(move || folders::sweep(&state_dir)).await {
            warn!(%error, "spare_folders_not_swept");
        }
        if !self.spares.is_kept() {
            return;
        }
        let stopping = self.tasks.stopping().clone();
        loop {
            let plan = self.spares.plan();
            for key in plan.start {
                let shared = Arc::clone(&self);
                let span = tracing::error_span!(parent: None, "spare", tenant = %key.1);
                self.tasks.spawn(span, async move { shared.keep_spare(key).await });
            }
            let again = async {
                match plan.again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.spares.changed.notified() => {}
                () = again => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// One spare, from its start to its end.
    async fn keep_spare(&self, key: SpareKey) {
        let spare = match self.start_spare(&key).await {
            Ok(spare) => spare,
            Err(Cause::ShuttingDown) => return,
            Err(cause) => {
                warn!(%cause, "spare_start_failed");
                return self.spares.failed(&key);
            }
        };
        debug!(client_id = %spare.client_id, pid = spare.process.id(), "spare_ready");
        let (number, signal) = self.spares.park(key.clone());
        self.make_room(&key.1);
        self.wait_for_fate(spare, &key, number, signal).await;
    }

    async fn wait_for_fate(
        &self,
        mut spare: Spare,
        key: &SpareKey,
        number: u64,
        mut signal: oneshot::Receiver<SpareSignal>,
    ) {
        let ready_at = Instant::now();
        let event = self.next_event(&mut spare, &mut signal).await;
        let lost = matches!(event, Event::Lost);
        let signal = match event {
            Event::Heard(signal) => Some(signal),
            // It may have been taken in the same moment.
            _ if self.spares.unpark(number) => None,
            _ => signal.await.ok(),
        };
        self.spares.lasted(key, !lost || ready_at.elapsed() >= PROOF);
        match signal {
            Some(SpareSignal::Taken(reply)) if !lost => {
                if let Err(unwanted) = reply.send(spare) {
                    unwanted.end().await;
                }
            }
            Some(SpareSignal::Taken(reply)) => {
                // Whoever took it hears that it is gone, and need not wait for its end.
                drop(reply);
                spare.end().await;
            }
            Some(SpareSignal::Away) => {
                spare.end().await;
                self.spares.left(&key.1);
                // The place may have gone to another than who it was meant for.
                self.slots.joined().notify_waiters();
            }
            None => spare.end().await,
        }
    }

    async fn next_event(
        &self,
        spare: &mut Spare,
        signal: &mut oneshot::Receiver<SpareSignal>,
    ) -> Event {
        let old = Instant::now() + self.spares.max_age();
        let mut frames = Vec::new();
        loop {
            tokio::select! {
                heard = &mut *signal => return heard.map_or(Event::Lost, Event::Heard),
                read = spare.connection.read(&mut frames) => match read {
                    // What it prints now is of no turn.
                    Ok(()) => frames.clear(),
                    Err(_) => return Event::Lost,
                },
                exit = spare.process.wait() => {
                    warn!(client_id = %spare.client_id, %exit, "spare_exited");
                    return Event::Lost;
                }
                () = sleep_until(old) => return Event::Old,
                () = self.tasks.stopping().cancelled() => return Event::Stopping,
            }
        }
    }

    /// Starts a process and waits until it is up, behind everybody who waits for one.
    async fn start_spare(&self, (class, tenant): &SpareKey) -> Result<Spare, Cause> {
        let in_line = async {
            let slot = self.slots.take_low_priority(tenant).await;
            (slot, self.starts.take_low_priority(tenant).await)
        };
        let (slot, turn) = tokio::select! {
            slots = in_line => slots,
            () = self.tasks.stopping().cancelled() => return Err(Cause::ShuttingDown),
        };
        in_turn(&self.starts, tenant, turn, self.start_in_turn(*class, tenant, slot)).await
    }

    async fn start_in_turn(
        &self,
        class: usize,
        tenant: &TenantId,
        slot: ProcessSlot,
    ) -> Result<Spare, Cause> {
        let mut folders = folders::of_spare(&self.settings.state_dir, tenant);
        let options = self.spares.options(class).clone();
        folders.extra = options.add_dirs.iter().map(Into::into).collect();
        let walls = self.settings.sandbox.is_wall();
        let made = blocking(move || {
            folders::make(&mut folders.work)?;
            folders::make_others(&mut folders, walls)?;
            Ok(folders)
        });
        let folders = made.await.map_err(|error| Cause::Internal {
            detail: format!("the folders of a spare cannot be made: {error}"),
        })?;
        let (client_id, cli_session_id) = (ClientId::fresh(), CliSessionId::fresh());
        let origin = ConversationOrigin::New(cli_session_id);
        let work = folders.work.clone();
        let spawned =
            self.spawn((tenant, &BTreeMap::new()), origin, &options, &folders, client_id).await;
        let (process, connection, pass) = match spawned {
            Ok(spawned) => spawned,
            Err(cause) => {
                remove_folder(work).await;
                return Err(cause);
            }
        };
        let mut spare = Spare { client_id, cli_session_id, connection, process, pass, slot, work };
        let up = handshake::probe(
            &mut spare.connection,
            &mut spare.process,
            self.limits.connect_timeout,
        );
        let up = tokio::select! {
            up = up => up,
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        };
        match up {
            Ok(()) => Ok(spare),
            Err(cause) => {
                spare.end().await;
                Err(cause)
            }
        }
    }
}
