//! Hands out connected CLI processes. Knows `cli` and how many processes there may
//! be; nothing of sessions' turns or of gRPC.
//!
//! A [`Lease`] is a connection, its process and its process slot as one
//! value: there is no process without a place, and the place is free again when the
//! lease is gone. [`Supply`] is a trait so that a session can be tested in memory,
//! over a pipe and a child that is no process.

mod bind;
mod folders;
mod handshake;
mod passes;
mod prepare;
mod process_supply;
mod recheck;
mod shared;
mod slots;
mod spare_life;
mod spares;
mod starting;
mod turns;

use std::{
    collections::BTreeMap, future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use folders::sweep_anonymous;
pub use passes::noticed;
pub use process_supply::ProcessSupply;
pub use shared::SupplyLimits;
#[cfg(test)]
pub use slots::ProcessSlots;
pub use slots::{Contest, ProcessSlot, Shortage};
pub use spares::{Miss, SpareClass, SpareSettings, SpareUse};

use crate::{
    cli::{
        connection::Connection,
        cost::Meter,
        frame::Frame,
        process::{Child, StopGrace, stop},
        request::ControlRequest,
        transcript::Entry,
    },
    domain::{
        acquired::Acquired,
        failure::{Cause, Failure},
        grants::Grants,
        ids::{CliSessionId, ClientId, SessionKey, TenantId},
        notice::Notice,
        options::Options,
    },
    gateway::Pass,
    tools::SessionTools,
};

/// Which conversation a process is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversation {
    /// The one of this id: taken up if there is a transcript of it, else begun.
    Own(CliSessionId),
    /// The one of this id, which must exist.
    Existing(CliSessionId),
    /// A copy of one that must exist.
    CopyOf {
        /// That one.
        from: CliSessionId,
        /// The copy's own id.
        to: CliSessionId,
    },
}

impl Conversation {
    /// The id that it will have.
    pub fn id(&self) -> CliSessionId {
        match *self {
            Self::Own(id) | Self::Existing(id) | Self::CopyOf { to: id, .. } => id,
        }
    }
}

/// What [`Said`] promises.
pub type Saying<'a, T> = Pin<Box<dyn Future<Output = Result<T, Cause>> + Send + 'a>>;

/// What was said in a conversation, as whoever keeps it tells it: piece by piece, since
/// nobody holds a conversation whole.
pub trait Said: Send + Sync + std::fmt::Debug {
    /// The next entries, to be written to where the process looks for them; none where all
    /// were told. If there is none at all, what is on disk counts.
    fn next(&self) -> Saying<'_, Vec<Entry>>;

    /// Keeps entries that were found on disk, behind those before.
    fn take_up(&self, entries: Vec<Entry>) -> Saying<'_, ()>;

    /// All that is on disk was taken up.
    fn taken_up(&self) -> Saying<'_, ()>;

    /// No process came up: what was taken up is not to be kept.
    fn give_up(&self) -> Saying<'_, ()>;
}

/// Asks for a process.
#[derive(Debug, Clone)]
pub struct Order {
    /// The session, which has folders of its own.
    pub session: SessionKey,
    /// The conversation.
    pub conversation: Conversation,
    /// Whether it begins: nothing was ever said in it.
    pub begins: bool,
    /// What was said in it (in the one that it is a copy of), where anybody keeps that.
    pub said: Option<Arc<dyn Said>>,
    /// The options that it starts with, and works with.
    pub options: Options,
    /// The rules that it is given before anything else.
    pub grants: Grants,
    /// The tool servers that it is given.
    pub tools: Option<SessionTools>,
    /// Variables that say for which trace it works at first.
    pub variables: BTreeMap<String, String>,
    /// Until when the caller waits; `None` is as long as the supply lets anybody wait.
    pub deadline: Option<Instant>,
    /// Cancelled when the process is not wanted any more.
    pub cancelled: CancellationToken,
}

impl Order {
    /// Whose process it is, and which variables it alone is given.
    fn for_whom(&self) -> (&TenantId, &BTreeMap<String, String>) {
        (&self.session.tenant, &self.variables)
    }

    /// What the process is told before its first prompt: its rules, and then the rest.
    fn told(&self, rest: Vec<ControlRequest>) -> Vec<ControlRequest> {
        let rules = self.grants.has_rules().then(|| self.grants.request());
        rules.into_iter().chain(rest).collect()
    }

    /// Serves a process its tools and its hooks: it may ask for them before it has answered
    /// anything.
    fn serve(&self, connection: &mut Connection) {
        connection.register_hooks(&self.options.hooks);
        if let Some(tools) = &self.tools {
            connection.serve_tools(tools.clone());
        }
    }

    /// No process came up, or nobody wants it any more. What cannot be removed is seen by
    /// nobody, and whoever keeps it says so.
    async fn give_up(&self) {
        if let Some(said) = &self.said {
            said.give_up().await.ok();
        }
    }
}

/// A connected process.
#[derive(Debug)]
pub struct Lease {
    /// This life of the process.
    pub client_id: ClientId,
    /// The conversation that it serves.
    pub cli_session_id: CliSessionId,
    /// Whether it took up a conversation.
    pub resumed: bool,
    /// Whether it had been a spare.
    pub spare: SpareUse,
    /// How long the start took, waiting for a place included.
    pub connect_time: Duration,
    /// Frames in, lines out.
    pub connection: Connection,
    /// What it costs.
    pub meter: Meter,
    /// Whether it was born with options that hold no longer: the next turn gets another.
    pub outdated: bool,
    /// The process.
    pub child: Box<dyn Child>,
    /// What it shows at the gateway to the API, where there is one; good as long as the process.
    pub pass: Option<Pass>,
    /// Its place among `pool.max_processes`; `None` where nobody counts.
    pub slot: Option<ProcessSlot>,
}

impl Lease {
    /// What is to be told of the process and was not yet.
    pub fn notices(&self) -> Vec<Notice> {
        self.pass.as_ref().map(Pass::notices).unwrap_or_default()
    }

    /// Asks the CLI what it has spent.
    pub fn ask_cost(&mut self) {
        self.meter.ask(&mut self.connection);
    }

    /// Ends the process and what it left; its place is free afterwards. Returns what it
    /// said last.
    pub async fn end(mut self, grace: StopGrace) -> Vec<Frame> {
        let mut words = Vec::new();
        let stopped = stop(self.connection, self.child.as_mut(), grace, &mut words).await;
        debug!(client_id = %self.client_id, ?stopped, "cli_stopped");
        words
    }
}

/// The future of a lease.
pub type Leasing = Pin<Box<dyn Future<Output = Result<Lease, Failure>> + Send>>;

/// Hands out connected processes, and takes care of what a session leaves on disk.
pub trait Supply: Send + Sync + std::fmt::Debug {
    /// Starts and connects a process. When the future is dropped or the order is
    /// cancelled, a process that was already started is ended all the same.
    fn lease(&self, order: Order) -> Leasing;

    /// Looks once more at the folders that a living process works in, by what its session
    /// was allowed: one may have become a link to elsewhere since the last turn.
    fn recheck(
        &self,
        _options: &Options,
    ) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// What a session may keep of what it has come to, by what it may ask for today.
    fn allowed(
        &self,
        acquired: &Acquired,
    ) -> Pin<Box<dyn Future<Output = Result<Acquired, Cause>> + Send>> {
        Box::pin(std::future::ready(Ok(acquired.clone())))
    }

    /// Who waits for a process slot.
    fn shortage(&self) -> Shortage;

    /// The tenants that wait for a place while others hold more.
    fn contests(&self) -> Vec<Contest> {
        Vec::new()
    }

    /// Told when somebody joins those who wait.
    fn joined(&self) -> Arc<Notify>;

    /// The real path of the working folder that a session has by itself, if there is one. Reads
    /// the file system: not for a runtime's own threads.
    fn work_folder(&self, _session: &SessionKey) -> Option<PathBuf> {
        None
    }

    /// Removes conversations and the session's folder for good. Fails if some of it is left.
    fn forget(
        &self,
        session: &SessionKey,
        conversations: &[CliSessionId],
    ) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>>;
}
