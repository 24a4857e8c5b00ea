//! One spare, and what becomes of it. Knows how to end it, and nothing of how it is started.

use std::path::PathBuf;

use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::{
    cli::{
        connection::Connection,
        process::{Process, StopGrace, stop},
    },
    domain::ids::{CliSessionId, ClientId, TenantId},
    gateway::Pass,
    supply::{folders, prepare::blocking, slots::ProcessSlot},
};

/// What becomes of a spare.
#[derive(Debug)]
pub enum SpareSignal {
    /// A session takes it.
    Taken(oneshot::Sender<Spare>),
    /// Its place is needed, or it is of no use any more.
    Away,
}

/// The key of a spare: its class, and whose it is.
pub type SpareKey = (usize, TenantId);

/// A process that is up and belongs to nobody yet.
#[derive(Debug)]
pub struct Spare {
    /// Its life.
    pub client_id: ClientId,
    /// The conversation that it will begin.
    pub cli_session_id: CliSessionId,
    /// Frames in, lines out.
    pub connection: Connection,
    /// The process.
    pub process: Process,
    /// What it shows at the gateway to the API, where there is one.
    pub pass: Option<Pass>,
    /// Its process slot.
    pub slot: ProcessSlot,
    /// Its working folder.
    pub work: PathBuf,
}

impl Spare {
    /// Ends it, and removes its folder.
    pub async fn end(mut self) {
        let mut words = Vec::new();
        let stopped = stop(self.connection, &mut self.process, StopGrace::FIRM, &mut words).await;
        debug!(client_id = %self.client_id, ?stopped, "spare_stopped");
        remove_folder(self.work).await;
    }
}

/// Removes the folder of a spare that nobody will have.
pub async fn remove_folder(work: PathBuf) {
    if let Err(error) = blocking(move || folders::remove(&work)).await {
        warn!(%error, "spare_folder_not_removed");
    }
}
