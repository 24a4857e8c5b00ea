//! The life of one spare, from its place among the processes to whoever takes it. A task
//! of its own watches it: one that ends, talks without end or grows old is replaced.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::stock::{Fate, Kind};
use crate::{
    cli::{
        connection::Connection,
        launch::Origin,
        process::{Child as _, Process, StopGrace, stop},
    },
    failure::Cause,
    ids::{CliSessionId, ClientId, TenantId},
    supply::{
        folders, handshake, places::Place, prepare::blocking, process_supply::Shared,
        turns::in_turn,
    },
};

/// A spare that ends before it is this old counts as one that did not start.
const PROOF: Duration = Duration::from_secs(10);

/// A process that is up and belongs to nobody yet.
#[derive(Debug)]
pub struct Parked {
    /// Its life.
    pub client_id: ClientId,
    /// The conversation that it will begin.
    pub cli_session_id: CliSessionId,
    /// Frames in, lines out.
    pub connection: Connection,
    /// The process.
    pub process: Process,
    /// Its place among the processes.
    pub place: Place,
    /// Its working folder.
    pub work: PathBuf,
}

impl Parked {
    /// Ends it, and removes its folder.
    pub async fn end(mut self) {
        let mut words = Vec::new();
        let stopped = stop(self.connection, &mut self.process, StopGrace::FIRM, &mut words).await;
        debug!(client_id = %self.client_id, ?stopped, "spare_stopped");
        remove_folder(self.work).await;
    }
}

async fn remove_folder(work: PathBuf) {
    if let Err(error) = blocking(move || folders::remove(&work)).await {
        warn!(%error, "spare_folder_not_removed");
    }
}

/// What happened to a spare that waited.
enum Event {
    Heard(Fate),
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
        if !self.stock.is_kept() {
            return;
        }
        let stopping = self.tasks.stopping().clone();
        loop {
            let plan = self.stock.plan();
            for kind in plan.start {
                let shared = Arc::clone(&self);
                let span = tracing::error_span!(parent: None, "spare", tenant = %kind.1);
                self.tasks.spawn(span, async move { shared.keep_spare(kind).await });
            }
            let again = async {
                match plan.again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stock.changed.notified() => {}
                () = again => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// One spare, from its start to its end.
    async fn keep_spare(&self, kind: Kind) {
        let parked = match self.start_spare(&kind).await {
            Ok(parked) => parked,
            Err(Cause::ShuttingDown) => return,
            Err(cause) => {
                warn!(%cause, "spare_start_failed");
                return self.stock.failed(&kind);
            }
        };
        debug!(client_id = %parked.client_id, pid = parked.process.id(), "spare_ready");
        let (number, fate) = self.stock.park(kind.clone());
        self.make_room(&kind.1);
        self.wait_for_fate(parked, &kind, number, fate).await;
    }

    async fn wait_for_fate(
        &self,
        mut parked: Parked,
        kind: &Kind,
        number: u64,
        mut fate: oneshot::Receiver<Fate>,
    ) {
        let ready_at = Instant::now();
        let event = self.next_event(&mut parked, &mut fate).await;
        let lost = matches!(event, Event::Lost);
        let fate = match event {
            Event::Heard(fate) => Some(fate),
            // It may have been taken in the same moment.
            _ if self.stock.unpark(number) => None,
            _ => fate.await.ok(),
        };
        self.stock.lasted(kind, !lost || ready_at.elapsed() >= PROOF);
        match fate {
            Some(Fate::Taken(reply)) if !lost => {
                if let Err(unwanted) = reply.send(parked) {
                    unwanted.end().await;
                }
            }
            Some(Fate::Taken(reply)) => {
                // Whoever took it hears that it is gone, and need not wait for its end.
                drop(reply);
                parked.end().await;
            }
            Some(Fate::Away) => {
                parked.end().await;
                self.stock.left(&kind.1);
                // The place may have gone to another than who it was meant for.
                self.places.joined().notify_waiters();
            }
            None => parked.end().await,
        }
    }

    async fn next_event(&self, parked: &mut Parked, fate: &mut oneshot::Receiver<Fate>) -> Event {
        let old = Instant::now() + self.stock.max_age();
        let mut frames = Vec::new();
        loop {
            tokio::select! {
                heard = &mut *fate => return heard.map_or(Event::Lost, Event::Heard),
                read = parked.connection.read(&mut frames) => match read {
                    // What it prints now is of no turn.
                    Ok(()) => frames.clear(),
                    Err(_) => return Event::Lost,
                },
                exit = parked.process.wait() => {
                    warn!(client_id = %parked.client_id, %exit, "spare_exited");
                    return Event::Lost;
                }
                () = sleep_until(old) => return Event::Old,
                () = self.tasks.stopping().cancelled() => return Event::Stopping,
            }
        }
    }

    /// Starts a process and waits until it is up, behind everybody who waits for one.
    async fn start_spare(&self, (class, tenant): &Kind) -> Result<Parked, Cause> {
        let in_line = async {
            let place = self.places.take_last(tenant).await;
            (place, self.starts.take_last(tenant).await)
        };
        let (place, turn) = tokio::select! {
            places = in_line => places,
            () = self.tasks.stopping().cancelled() => return Err(Cause::ShuttingDown),
        };
        in_turn(&self.starts, tenant, turn, self.start_in_turn(*class, tenant, place)).await
    }

    async fn start_in_turn(
        &self,
        class: usize,
        tenant: &TenantId,
        place: Place,
    ) -> Result<Parked, Cause> {
        let mut folders = folders::of_spare(&self.settings.state_dir, tenant);
        let options = self.stock.options(class).clone();
        folders.extra = options.add_dirs.iter().map(Into::into).collect();
        let made = blocking(move || {
            folders::make(&mut folders.work)?;
            folders::make_tenants(&mut folders)?;
            Ok(folders)
        });
        let folders = made.await.map_err(|error| Cause::Internal {
            detail: format!("the folders of a spare cannot be made: {error}"),
        })?;
        let (client_id, cli_session_id) = (ClientId::fresh(), CliSessionId::fresh());
        let origin = Origin::New(cli_session_id);
        let work = folders.work.clone();
        let spawned = self.spawn(origin, &options, &folders, client_id).await;
        let (process, connection) = match spawned {
            Ok(spawned) => spawned,
            Err(cause) => {
                remove_folder(work).await;
                return Err(cause);
            }
        };
        let mut parked = Parked { client_id, cli_session_id, connection, process, place, work };
        let up = handshake::probe(
            &mut parked.connection,
            &mut parked.process,
            self.limits.connect_timeout,
        );
        let up = tokio::select! {
            up = up => up,
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        };
        match up {
            Ok(()) => Ok(parked),
            Err(cause) => {
                parked.end().await;
                Err(cause)
            }
        }
    }
}
