//! Sessions in memory: the real session task over in-memory pipes, a CLI that is a
//! task, and a paused clock. What needs a real process is tested in `tests/`.

mod busy;
mod dying;
mod followed;
mod hibernation;
mod journal;
mod lifecycle;
mod locked;
mod model;
mod moved;
mod named;
mod options;
mod permissions;
mod prompts;
mod sent_again;
mod starting;
mod steering;
mod watchdogs;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{
    InterruptReport, InterruptTarget, Refusal, SessionContext, SessionHandle, SessionTask,
    Settings, feed::Feed,
};
use crate::{
    domain::ids::{CliSessionId, SessionId, TenantId},
    measures::Measures,
    store::Store as _,
    tasks::spawn_owned,
    tenant::{Quotas, Tenant},
    test_support::{
        Seen, answered, cause,
        gated_store::{self, GatedStore},
        memory_supply::MemorySupply,
        read, text,
    },
    tools::ToolServers,
    turn::{event::Partials, listener::Listener, storage::Storage},
};

pub(super) use crate::test_support::{SECOND, request, settings};

impl SessionHandle {
    /// Stops the turn that runs.
    pub(crate) async fn interrupt(&self, keep: bool) -> Result<InterruptReport, Refusal> {
        self.stop(InterruptTarget::Running, keep).await
    }
}

/// A session and the supply that serves it.
struct Session {
    handle: SessionHandle,
    supply: Arc<MemorySupply>,
    store: Arc<GatedStore>,
    tenant: Arc<Tenant>,
    feed: Arc<Feed>,
}

impl Session {
    /// Joins the running turn, else the last.
    async fn join(&self) -> Result<Listener, Refusal> {
        self.handle.attach(None, 0, Partials::Hidden).await
    }

    fn start(settings: Settings) -> Self {
        let (task, session) = Self::task(settings);
        // Ends with the runtime at the latest; tests that close it wait for its end.
        drop(spawn_owned(async move { Box::new(task).run().await.send() }));
        session
    }

    /// A session whose task does not run.
    fn task(settings: Settings) -> (SessionTask, Self) {
        let supply = Arc::new(MemorySupply::default());
        let store = Arc::new(GatedStore::default());
        let tenant =
            Arc::new(Tenant::new(TenantId::default(), Quotas::default(), &Measures::default()));
        let context = SessionContext {
            settings: Arc::new(settings),
            supply: supply.clone(),
            store: store.clone(),
            hibernatable: Arc::default(),
            tenant: Arc::clone(&tenant),
            turns: TaskTracker::new(),
            logs: Storage::in_memory(64 * 1024),
            tools: ToolServers::new(SECOND),
            traces: crate::traces::Traces::default(),
        };
        let id = SessionId::parse("s").expect("a name");
        let memory = context.logs.accounts(tenant.id()).memory;
        let feed = Arc::new(Feed::new(id.clone(), memory));
        let (task, handle) = SessionTask::new(id, false, Arc::clone(&feed), context);
        (task, Self { handle, supply, store, tenant, feed })
    }

    /// How many lines of a conversation are kept.
    async fn lines(&self, conversation: CliSessionId) -> usize {
        let mut lines = 0;
        let mut from = None;
        loop {
            let piece = self.store.piece(self.tenant.id(), conversation, from).await;
            let piece = piece.expect("read");
            lines += piece.lines.len();
            from = piece.next;
            if from.is_none() {
                return lines;
            }
        }
    }

    async fn run(&self, prompt: &str) -> Listener {
        self.handle.run(request(prompt)).await.expect("taken")
    }
}
