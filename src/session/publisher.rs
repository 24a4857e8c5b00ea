//! The published status of a session. [`StatusPublisher`] holds the snapshot that the next
//! publication shows, and is the only one that writes it: others read it, and say what has
//! happened by one of its methods. What is not published yet nobody outside sees.

use std::{ops::Deref, sync::Arc, time::SystemTime};

use tokio::{sync::watch, time::Instant};

use super::{
    open_prompts::ShownPrompt,
    status::{QueuedTurn, SessionState, Status},
};
use crate::{
    cli::background::BackgroundWork,
    counters::Spent,
    domain::{
        acquired::Acquired,
        ids::{CliSessionId, ClientId, TurnId},
        options::Options,
    },
    store::Record,
};

/// What a session is doing, as a change of phase shows it.
#[derive(Debug)]
pub struct Doing {
    /// In a word.
    pub condition: SessionState,
    /// The life of its process, and the process's id.
    pub process: Option<(ClientId, u32)>,
    /// The turn that runs.
    pub running: Option<TurnId>,
    /// What its process asks and waits for.
    pub open_prompts: Vec<ShownPrompt>,
    /// Whether its process has nothing to do and could be let go.
    pub can_hibernate: bool,
}

/// The only writer of a session's status. Those who watch it see that the session has ended
/// when this is dropped.
#[derive(Debug)]
pub struct StatusPublisher {
    status: Status,
    watchers: watch::Sender<Status>,
}

impl Deref for StatusPublisher {
    type Target = Status;

    /// The snapshot that the next publication shows.
    fn deref(&self) -> &Status {
        &self.status
    }
}

impl StatusPublisher {
    /// Publishes a status, and gives the place to watch it.
    pub fn new(status: Status) -> (Self, watch::Receiver<Status>) {
        let (watchers, watch) = watch::channel(status.clone());
        (Self { status, watchers }, watch)
    }

    /// Another place to watch it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.watchers.subscribe()
    }

    /// Publishes the snapshot as it is, with so many turns that wait, of which these are first.
    pub fn publish(&mut self, queued: usize, queue: Arc<[QueuedTurn]>) {
        self.status.queued = queued;
        self.status.queue = queue;
        self.status.generation += 1;
        self.watchers.send_replace(self.status.clone());
    }

    /// A phase begins.
    pub fn enter(&mut self, doing: Doing) {
        let Doing { condition, process, running, open_prompts, can_hibernate } = doing;
        self.status.condition = condition;
        self.status.client_id = process.map(|(client_id, _)| client_id);
        self.status.process_id = process.map(|(_, process_id)| process_id);
        self.status.running = running;
        self.status.open_prompts = open_prompts;
        self.status.can_hibernate = can_hibernate;
        if process.is_none() {
            self.set_work(BackgroundWork::default());
        }
    }

    /// Whether the store has it in the pool.
    pub fn set_stored(&mut self, is_stored: bool) {
        self.status.is_stored = is_stored;
    }

    /// Whether its process has nothing to do and could be let go.
    pub fn set_can_hibernate(&mut self, can_hibernate: bool) {
        self.status.can_hibernate = can_hibernate;
    }

    /// A turn begins or ends.
    pub fn note_use(&mut self) {
        self.status.last_used_at = Instant::now();
    }

    /// A prompt was sent to the CLI.
    pub fn note_prompt(&mut self) {
        self.status.message_count += 1;
    }

    /// Which prompts wait for an answer.
    pub fn set_open_prompts(&mut self, open: Vec<ShownPrompt>) {
        self.status.open_prompts = open;
    }

    /// What works behind the turns of its process.
    pub fn set_work(&mut self, work: BackgroundWork) {
        if *self.status.work != work {
            self.status.work = Arc::new(work);
        }
    }

    /// The end of a turn was told.
    pub fn note_told(&mut self, turn: &TurnId) {
        if self.status.running.as_ref() == Some(turn) {
            self.status.running = None;
        }
        self.note_use();
    }

    /// A turn or a connect failed, or work was ended.
    pub fn note_failure(&mut self, text: String) {
        self.status.error_count += 1;
        self.status.last_error = Some(text);
    }

    /// Money and tokens were spent.
    pub fn note_spent(&mut self, spent: &Spent) {
        self.status.spent.add(spent);
    }

    /// The conversation from here on.
    pub fn converse_in(&mut self, conversation: CliSessionId) {
        self.status.cli_session_id = conversation;
    }

    /// The session is as new from here on, except for its conversation.
    pub fn renew(&mut self) {
        self.status.created_at = Instant::now();
        self.status.create_time = SystemTime::now();
        self.status.message_count = 0;
        self.status.error_count = 0;
        self.status.last_error = None;
    }

    /// Takes over what is known of an earlier life of the session.
    pub fn recall(&mut self, record: Record) {
        self.status.recall(record);
    }

    /// Options were asked for, and hold from here on.
    pub fn ask_anew(&mut self, wanted: &Options) {
        self.acquire(|acquired, options| acquired.asked_anew(options, wanted));
        self.status.options = Arc::new(self.status.options.updated(wanted));
    }

    /// Changes what the session has come to beyond the options that were asked for.
    pub fn acquire<T>(&mut self, change: impl FnOnce(&mut Acquired, &Options) -> T) -> T {
        change(Arc::make_mut(&mut self.status.acquired), &self.status.options)
    }

    /// What the session has come to, as a whole. Returns what it was before.
    pub fn replace_acquired(&mut self, acquired: impl Into<Arc<Acquired>>) -> Arc<Acquired> {
        std::mem::replace(&mut self.status.acquired, acquired.into())
    }

    /// The options as they were before.
    pub fn restore_options(&mut self, options: Arc<Options>) {
        self.status.options = options;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::SessionId;

    fn publisher() -> (StatusPublisher, watch::Receiver<Status>) {
        let id = SessionId::parse("s").expect("a name");
        StatusPublisher::new(Status::new(id, CliSessionId::fresh(), Options::default()))
    }

    #[test]
    fn a_change_is_seen_when_it_is_published_under_the_next_number() {
        let (mut publisher, mut watch) = publisher();
        let seen = watch.borrow_and_update().generation;
        publisher.note_prompt();
        assert_eq!(publisher.message_count, 1);
        assert!(!watch.has_changed().expect("it lives"));
        publisher.publish(3, Arc::default());
        let status = watch.borrow_and_update();
        assert_eq!((status.message_count, status.queued), (1, 3));
        assert_eq!(status.generation, seen + 1);
    }

    #[test]
    fn what_is_large_is_shared_by_all_that_is_published() {
        let (mut publisher, watch) = publisher();
        let wanted = Options { system_prompt: Some("x".repeat(1 << 20)), ..Options::default() };
        publisher.ask_anew(&wanted);
        publisher.publish(0, Arc::default());
        let first = watch.borrow().clone();
        publisher.note_prompt();
        publisher.publish(0, Arc::default());
        let second = watch.borrow().clone();
        assert!(Arc::ptr_eq(&first.options, &second.options));
        assert!(Arc::ptr_eq(&first.acquired, &second.acquired));
    }

    #[test]
    fn what_was_published_does_not_change_with_what_the_session_comes_to() {
        let (mut publisher, watch) = publisher();
        let published = watch.borrow().clone();
        publisher.acquire(|acquired, _| acquired.mode = Some("plan".into()));
        assert_eq!(published.acquired.mode, None);
        assert_eq!(publisher.acquired.mode.as_deref(), Some("plan"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_session_keeps_its_conversation_and_what_it_has_spent() {
        let (mut publisher, _watch) = publisher();
        let conversation = publisher.cli_session_id;
        publisher.note_prompt();
        publisher.note_failure("it failed".into());
        publisher.note_spent(&Spent { cost_usd: 1.0, ..Spent::default() });
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        publisher.renew();
        assert_eq!((publisher.message_count, publisher.error_count), (0, 0));
        assert_eq!(publisher.last_error, None);
        assert_eq!(publisher.age(), std::time::Duration::ZERO);
        assert_eq!(publisher.cli_session_id, conversation);
        assert!((publisher.spent.cost_usd - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn only_the_turn_that_runs_stops_running_when_its_end_is_told() {
        let (mut publisher, _watch) = publisher();
        let [mine, other] = ["mine", "other"].map(|id| TurnId::parse(id).expect("a name"));
        publisher.enter(Doing {
            condition: SessionState::Active,
            process: None,
            running: Some(mine.clone()),
            open_prompts: Vec::new(),
            can_hibernate: false,
        });
        publisher.note_told(&other);
        assert!(publisher.is_busy());
        publisher.note_told(&mine);
        assert!(!publisher.is_busy());
    }

    #[tokio::test]
    async fn those_who_watch_see_the_end_when_the_publisher_is_gone() {
        let (publisher, mut watch) = publisher();
        drop(publisher);
        assert!(watch.changed().await.is_err());
    }
}
