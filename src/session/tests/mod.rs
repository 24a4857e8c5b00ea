//! Sessions in memory: the real session task over in-memory pipes, a CLI that is a
//! task, and a paused clock. What needs a real process is tested in `tests/`.

mod gated_store;
mod hibernation;
mod journal;
mod lifecycle;
mod locked;
mod memory_cli;
mod model;
mod options;
mod permissions;
mod sent_again;
mod starting;
mod watchdogs;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{
    BusyPolicy, DisconnectPolicy, MismatchPolicy, Refusal, SessionContext, SessionHandle,
    SessionTask, Settings, TurnRequest,
};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::{CliSessionId, SessionId, TenantId},
        input::Input,
        options::Options,
    },
    store::Store as _,
    tasks::spawn_owned,
    tenant::{Quotas, Tenant},
    turn::{
        event::{Class, Event, Started},
        listener::{Listener, Partials},
        storage::Storage,
    },
};
use gated_store::{GatedStore, LOCK_LIMIT};
use memory_cli::MemorySupply;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn settings() -> Settings {
    Settings {
        session_ttl: 3600 * SECOND,
        connection_recovery: true,
        first_chunk_timeout: 10 * SECOND,
        ongoing_timeout: 60 * SECOND,
        stall_timeout: Some(600 * SECOND),
        stuck_threshold: Some(900 * SECOND),
        interrupt_timeout: 10 * SECOND,
        max_queued_turns: 4,
        turn_retention: 60 * SECOND,
        named_turn_retention: 3600 * SECOND,
        hibernate_after: None,
        commit_timeout: LOCK_LIMIT,
    }
}

/// A session and the supply that serves it.
struct Session {
    handle: SessionHandle,
    supply: Arc<MemorySupply>,
    store: Arc<GatedStore>,
    tenant: Arc<Tenant>,
}

impl Session {
    /// Joins the running turn, else the last.
    async fn join(&self) -> Result<Listener, Refusal> {
        self.handle.attach(None, 0, Partials::Hidden).await
    }

    fn start(settings: Settings) -> Self {
        let (task, session) = Self::task(settings);
        // Ends with the runtime at the latest; tests that close it wait for its end.
        drop(spawn_owned(async move { task.run().await.send() }));
        session
    }

    /// A session whose task does not run.
    fn task(settings: Settings) -> (SessionTask, Self) {
        let supply = Arc::new(MemorySupply::default());
        let store = Arc::new(GatedStore::default());
        let tenant = Arc::new(Tenant::new(TenantId::default(), Quotas::default()));
        let context = SessionContext {
            settings: Arc::new(settings),
            supply: supply.clone(),
            store: store.clone(),
            hibernatable: Arc::default(),
            tenant: Arc::clone(&tenant),
            turns: TaskTracker::new(),
            logs: Storage::in_memory(64 * 1024),
        };
        let id = SessionId::parse("s").expect("a name");
        let (task, handle) = SessionTask::new(id, false, context);
        (task, Self { handle, supply, store, tenant })
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

pub(super) fn request(prompt: &str) -> TurnRequest {
    TurnRequest {
        turn_id: None,
        input: Arc::new(Input::Text(prompt.to_owned())),
        options: Options::default(),
        resume: None,
        new_conversation: false,
        on_busy: BusyPolicy::Queue,
        on_disconnect: DisconnectPolicy::Interrupt,
        on_mismatch: MismatchPolicy::Fail,
        partials: Partials::Hidden,
        asked_at: Instant::now(),
        deadline: None,
        span: tracing::Span::none(),
        held: None,
    }
}

/// A turn as its listener saw it.
#[derive(Debug)]
struct Seen {
    sequences: Vec<u64>,
    started: Vec<Arc<Started>>,
    frames: Vec<(Class, String)>,
    end: Result<(), Failure>,
}

async fn read(mut listener: Listener) -> Seen {
    let mut seen =
        Seen { sequences: Vec::new(), started: Vec::new(), frames: Vec::new(), end: Ok(()) };
    loop {
        match listener.batch().await {
            Ok(Some(batch)) => {
                for (sequence, event) in (batch.first..).zip(batch.events) {
                    seen.sequences.push(sequence);
                    match event {
                        Event::Started(started) => seen.started.push(started),
                        Event::Frame(class, line) => {
                            seen.frames.push((class, String::from_utf8_lossy(&line).into_owned()));
                        }
                    }
                }
            }
            Ok(None) => return seen,
            Err(failure) => {
                seen.end = Err(failure);
                return seen;
            }
        }
    }
}

fn text(seen: &Seen) -> String {
    seen.frames.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
}

fn cause(seen: &Seen) -> Cause {
    seen.end.clone().expect_err("the turn failed").cause
}
