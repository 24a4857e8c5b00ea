//! One who follows a session, whether or not it has a task. Nothing here gives it one: who
//! follows a session that only the store has waits until a turn loads it, and reads the same feed
//! on. What a session without a task shows of itself is asked of the store.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{SessionPool, lookup::Found, sessions::Entry};
use crate::{
    budget::Reservation,
    domain::{
        failure::{Cause, Failure},
        ids::{ClientId, SessionKey, TurnId},
    },
    session::{
        ShownPrompt,
        feed::{Feed, From, Step, Watcher},
        status::{BackgroundWork, SessionState, Status},
    },
    turn::event::Partials,
};

/// What one who follows a session is told next.
#[derive(Debug)]
pub enum Told {
    /// What happened in it.
    Step(Step),
    /// What it shows of itself, now that this has changed.
    Status(Box<Status>),
}

/// One who follows a session. Dropping it is how it leaves.
#[derive(Debug)]
pub struct Watch {
    watcher: Watcher,
    sight: Sight,
}

/// What it sees of the session's own picture.
#[derive(Debug)]
struct Sight {
    pool: SessionPool,
    key: SessionKey,
    feed: Arc<Feed>,
    /// Told when the session may have got a task.
    changes: watch::Receiver<()>,
    /// Whether the store has been asked since the session's last task ended.
    asked: bool,
    /// What the session's task shows, while it has one.
    status: Option<watch::Receiver<Status>>,
    shown: Option<Shown>,
    /// It is shown as it is now, and not as it was when older events happened.
    has_caught_up: bool,
}

/// What has to change for a picture to be told.
#[derive(Debug, PartialEq)]
struct Shown {
    condition: SessionState,
    client_id: Option<ClientId>,
    running: Option<TurnId>,
    queued: usize,
    open_prompts: Vec<ShownPrompt>,
    work: Arc<BackgroundWork>,
    error_count: u64,
}

/// How often it is looked where a session is that is followed and has no task here.
const LOOK: Duration = Duration::from_secs(1);

impl SessionPool {
    /// Who follows a session without a task waits here for what happens in it. Where another service
    /// takes it up meanwhile they are told, and find it there when they ask again.
    pub(super) async fn follow_moves_for_ever(&self) {
        let mut rounds = interval(LOOK);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let followed = self.lock().followed_without_task();
            for key in followed {
                // A store that fails says so elsewhere.
                if let Ok(true) = self.shared().parts.store.is_elsewhere(&key).await {
                    self.lock().hand_over_feeds(|it| *it == key);
                }
            }
        }
    }

    /// Follows a session that is in the pool.
    pub async fn watch(
        &self,
        key: &SessionKey,
        from: From,
        partials: Partials,
    ) -> Result<Watch, Failure> {
        let watcher = loop {
            match self.look_up(key).await {
                Found::Live(_) => {
                    let mut sessions = self.lock();
                    // It may have ended just now: its feed ends with it, under the same lock.
                    if let Some(Entry::Live { .. }) = sessions.get(key) {
                        break self.watcher(&mut sessions, key, &from, partials)?;
                    }
                }
                // Nothing happens in it here any more.
                Found::Absent(_) if self.leaves_to_others() => {
                    let failure = Failure::from(Cause::ShuttingDown);
                    return Err(failure.concerning(Some(&key.session), None));
                }
                Found::Absent(lookup) => {
                    // Nobody makes or ends it before the lookup is dropped.
                    let record = lookup.ask().await?.filter(|record| record.in_pool);
                    if record.is_none() {
                        let failure = Failure::from(Cause::SessionNotFound);
                        return Err(failure.concerning(Some(&key.session), None));
                    }
                    let mut sessions = self.lock();
                    let watcher = self.watcher(&mut sessions, key, &from, partials);
                    drop(sessions);
                    drop(lookup);
                    break watcher?;
                }
            }
        };
        let sight = Sight {
            pool: self.clone(),
            key: key.clone(),
            feed: Arc::clone(watcher.feed()),
            changes: watcher.feed().changes(),
            asked: false,
            status: None,
            shown: None,
            has_caught_up: false,
        };
        Ok(Watch { watcher, sight })
    }

    fn watcher(
        &self,
        sessions: &mut super::sessions::Sessions,
        key: &SessionKey,
        from: &From,
        partials: Partials,
    ) -> Result<Watcher, Failure> {
        if sessions.feeds.are_shut() {
            let failure = Failure::from(Cause::ShuttingDown);
            return Err(failure.concerning(Some(&key.session), None));
        }
        let memory = || self.shared().parts.logs.accounts(&key.tenant).memory;
        Watcher::new(sessions.feeds.of(key, memory), from, partials)
    }
}

impl Watch {
    /// The cursor behind an event of a turn.
    pub fn cursor(&self, position: u64, sequence: u64) -> String {
        self.watcher.cursor(position, sequence)
    }

    /// Claims memory that is there for this follower alone.
    pub fn claim(&self, bytes: usize) -> Reservation {
        self.watcher.feed().claim(bytes)
    }

    /// What it is told next. Cancel safe.
    pub async fn next(&mut self) -> Told {
        let Self { watcher, sight } = self;
        tokio::select! {
            step = watcher.next() => {
                sight.has_caught_up |= matches!(step, Step::CaughtUp { .. });
                Told::Step(step)
            }
            status = sight.changed(), if sight.has_caught_up => Told::Status(status.into()),
        }
    }
}

impl Sight {
    /// The session's picture, when it differs from the one that was shown last. Cancel safe.
    async fn changed(&mut self) -> Status {
        loop {
            let Some(status) = self.status.as_mut() else {
                if let Some(status) = self.of_store_or_task().await {
                    return status;
                }
                continue;
            };
            if status.changed().await.is_err() {
                // Its task has ended.
                (self.status, self.asked) = (None, false);
                continue;
            }
            let status = status.borrow_and_update().clone();
            if let Some(status) = self.if_new(status) {
                return status;
            }
        }
    }

    /// Without a task: waits for one, and asks the store once meanwhile.
    async fn of_store_or_task(&mut self) -> Option<Status> {
        // Before it is looked: what comes afterwards is seen as a change.
        self.changes.mark_unchanged();
        if let Some(mut status) = self.feed.status().filter(|it| it.has_changed().is_ok()) {
            status.mark_changed();
            self.status = Some(status);
            return None;
        }
        if !self.asked {
            let status = self.pool.get(&self.key).await;
            self.asked = true;
            // One that cannot be read now is shown when it has a task again.
            if let Some(status) = status.ok().and_then(|status| self.if_new(status)) {
                return Some(status);
            }
        }
        // The feed is there as long as this is.
        drop(self.changes.changed().await);
        None
    }

    /// The picture, unless all that is told of it was shown before.
    fn if_new(&mut self, mut status: Status) -> Option<Status> {
        status.condition = status.condition_at(self.pool.shared().settings.session_ttl);
        let shown = Some(Shown {
            condition: status.condition,
            client_id: status.client_id,
            running: status.running.clone(),
            queued: status.queued,
            open_prompts: status.open_prompts.clone(),
            work: Arc::clone(&status.work),
            error_count: status.error_count,
        });
        if self.shown == shown {
            return None;
        }
        self.shown = shown;
        Some(status)
    }
}
