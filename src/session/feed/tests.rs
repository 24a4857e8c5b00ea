//! A feed in memory and in paused time: turns are logs without a session, and each of their
//! events says its own number among all that ever happened.

mod gone;
mod model;

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use tokio::{
    sync::Notify,
    time::{advance, timeout},
};
use tracing::Span;

use super::*;
use crate::{
    domain::ids::{CliSessionId, ClientId, TenantId},
    test_support::SECOND,
    turn::{
        event::{Event, ProcessOrigin, Started},
        storage::Storage,
    },
};

/// A session's feed and the turns that it was given.
struct Bed {
    feed: Arc<Feed>,
    storage: Storage,
    gone: Arc<Notify>,
    turns: VecDeque<TurnLog>,
    happened: u64,
}

/// What a watcher was told, in short.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Started(String),
    Event(u64),
    Aside(u64),
    Failed(&'static str),
    Gap,
    Live,
    Over(Option<&'static str>),
}
use Seen::{Aside, Gap, Live, Over};

fn session() -> SessionId {
    SessionId::parse("s").expect("a name")
}

impl Bed {
    fn new() -> Self {
        Self::with(1 << 20)
    }

    fn with(buffer_bytes: usize) -> Self {
        let storage = Storage::in_memory(buffer_bytes);
        let memory = storage.accounts(&TenantId::default()).memory;
        let feed = Arc::new(Feed::new(session(), memory));
        Self { feed, storage, gone: Arc::default(), turns: VecDeque::new(), happened: 0 }
    }

    fn begin(&mut self, name: &str) -> TurnLog {
        let id = TurnId::parse(name).expect("a name");
        let accounts = self.storage.accounts(&TenantId::default());
        let log = self.storage.log(
            id.clone(),
            &accounts,
            Arc::clone(&self.gone),
            Span::none(),
            crate::traces::TurnTrace::default(),
        );
        log.start(Started {
            session_id: session(),
            turn_id: id,
            client_id: ClientId::fresh(),
            cli_session_id: CliSessionId::fresh(),
            origin: ProcessOrigin::Created,
            queued_for: Duration::ZERO,
            connect_time: Duration::ZERO,
            start_time: SystemTime::UNIX_EPOCH,
            background: false,
        });
        self.feed.begin(&log);
        self.turns.push_back(log.clone());
        log
    }

    /// The next thing that happens, as a line.
    fn line(&mut self) -> Bytes {
        self.happened += 1;
        self.happened.to_string().into()
    }

    fn happen(&mut self, log: &TurnLog, class: Class) {
        let line = self.line();
        log.append([(class, line)]);
    }

    fn aside(&mut self) {
        let line = self.line();
        self.feed.aside(Class::System, line);
    }

    /// A turn with so many events behind its beginning.
    fn turn(&mut self, name: &str, events: usize) -> TurnLog {
        let log = self.begin(name);
        (0..events).for_each(|_| self.happen(&log, Class::Other));
        log.end(Ok(()));
        log
    }

    fn watch(&self, from: &From) -> Watch {
        self.try_watch(from).expect("taken")
    }

    fn try_watch(&self, from: &From) -> Result<Watch, Failure> {
        let watcher = Watcher::new(Arc::clone(&self.feed), from, Partials::Hidden)?;
        Ok(Watch { watcher, cursors: Vec::new() })
    }

    fn resume(&self, cursor: &str) -> Result<Watch, Failure> {
        self.try_watch(&from(cursor))
    }
}

fn from(cursor: &str) -> From {
    From::Cursor(Cursor::parse(cursor, &session()).expect("a cursor"), cursor.to_owned())
}

/// A watcher, and the cursors that it was told.
struct Watch {
    watcher: Watcher,
    cursors: Vec<String>,
}

impl Watch {
    /// All that it is told before it would have to wait, or up to its end.
    async fn all(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Ok(step) = timeout(SECOND, self.watcher.next()).await {
            self.take(step, &mut seen);
            if matches!(seen.last(), Some(Over(_))) {
                break;
            }
        }
        seen
    }

    fn take(&mut self, step: Step, seen: &mut Vec<Seen>) {
        let number = |line: &[u8]| std::str::from_utf8(line).expect("text").parse().expect("one");
        match step {
            Step::Events { turn, position, batch } => {
                for (sequence, event) in (batch.first..).zip(batch.events) {
                    self.cursors.push(self.watcher.cursor(position, sequence));
                    seen.push(match event {
                        Event::Started(started) => {
                            assert_eq!((sequence, &started.turn_id), (1, &turn));
                            Seen::Started(turn.to_string())
                        }
                        Event::Frame(_, line) => Seen::Event(number(&line)),
                    });
                }
            }
            Step::Failed { failure, cursor, .. } => {
                self.cursors.push(cursor);
                seen.push(Seen::Failed(failure.cause.reason()));
            }
            Step::Aside { bytes, cursor, .. } => {
                self.cursors.push(cursor);
                seen.push(Aside(number(&bytes)));
            }
            Step::Gap { after, before } => {
                assert_ne!(after, before);
                self.cursors.push(before);
                seen.push(Gap);
            }
            Step::CaughtUp { cursor } => {
                self.cursors.push(cursor);
                seen.push(Live);
            }
            Step::Over(end) => seen.push(Over(end.err().map(|failure| failure.cause.reason()))),
        }
    }
}

fn started(name: &str) -> Seen {
    Seen::Started(name.to_owned())
}

fn events(numbers: std::ops::RangeInclusive<u64>) -> Vec<Seen> {
    numbers.map(Seen::Event).collect()
}

fn seen(parts: &[&[Seen]]) -> Vec<Seen> {
    parts.concat()
}

fn first_kept(refused: Result<Watch, Failure>) -> String {
    let cause = refused.map(|_| ()).expect_err("refused").cause;
    let Cause::CursorExpired { first_kept } = cause else { panic!("{cause:?}") };
    first_kept
}

#[tokio::test(start_paused = true)]
async fn who_follows_from_now_on_sees_what_happens_from_then_on() {
    let mut bed = Bed::new();
    bed.turn("before", 2);
    let mut watch = bed.watch(&From::Now);
    assert_eq!(watch.all().await, [Live]);
    let log = bed.begin("a");
    assert_eq!(watch.all().await, [started("a")]);
    bed.happen(&log, Class::Other);
    assert_eq!(watch.all().await, events(3..=3));
    bed.aside();
    assert_eq!(watch.all().await, [], "behind the turn that runs");
    log.end(Ok(()));
    assert_eq!(watch.all().await, [Aside(4)]);
    bed.turn("b", 1);
    assert_eq!(watch.all().await, seen(&[&[started("b")], &events(5..=5)]));
}

#[tokio::test(start_paused = true)]
async fn who_follows_in_the_middle_of_a_turn_sees_the_rest_of_it() {
    let mut bed = Bed::new();
    let log = bed.begin("a");
    bed.happen(&log, Class::Other);
    let mut watch = bed.watch(&From::Now);
    assert_eq!(watch.all().await, [Live]);
    bed.happen(&log, Class::Other);
    assert_eq!(watch.all().await, events(2..=2));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_replayed_before_what_comes() {
    let mut bed = Bed::new();
    bed.turn("a", 2);
    let log = bed.begin("b");
    bed.happen(&log, Class::Other);
    let mut watch = bed.watch(&From::Start);
    bed.happen(&log, Class::Other);
    let all = watch.all().await;
    let kept = seen(&[&[started("a")], &events(1..=2), &[started("b")], &events(3..=4), &[Live]]);
    assert_eq!(all, kept, "exactly once, with what came meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_goes_on_behind_every_event() {
    let mut bed = Bed::new();
    bed.turn("a", 3);
    bed.aside();
    bed.turn("b", 2);
    let failed = bed.begin("c");
    failed.end(Err(Cause::TurnInterrupted.into()));
    bed.turn("d", 1);
    let mut watch = bed.watch(&From::Start);
    let all = watch.all().await;
    assert!(all.contains(&Seen::Failed("TURN_INTERRUPTED")), "{all:?}");
    let all: Vec<_> = all.into_iter().filter(|seen| *seen != Live).collect();
    assert_eq!(all.len(), 12);
    for (behind, cursor) in watch.cursors.clone().iter().enumerate().take(all.len()) {
        let mut again = bed.resume(cursor).expect("kept");
        let rest: Vec<_> = again.all().await.into_iter().filter(|seen| *seen != Live).collect();
        assert_eq!(rest, all[behind + 1..], "behind {:?}", all[behind]);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_only_watches_keeps_a_turn_alive_or_its_memory() {
    let mut bed = Bed::new();
    let mut watch = bed.watch(&From::Now);
    let log = bed.begin("a");
    let caller = log.listen(1, Partials::Hidden).expect("room");
    watch.all().await;
    assert_eq!(log.listeners(), 1);
    drop(caller);
    assert_eq!(log.listeners(), 0);
    timeout(SECOND, bed.gone.notified()).await.expect("the session is told");
    drop(watch);
    timeout(SECOND, bed.gone.notified()).await.expect_err("of callers alone");
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_no_turn_is_kept_within_bounds() {
    let mut bed = Bed::new();
    let total = MOST_ASIDES as u64 + 10;
    (0..total).for_each(|_| bed.aside());
    let kept: Vec<_> = (11..=total).map(Aside).collect();
    assert_eq!(bed.watch(&From::Start).all().await, seen(&[&kept, &[Live]]));
    let bytes = || Bytes::from(vec![b'1'; ASIDE_BYTES / 2 + 1]);
    bed.feed.aside(Class::System, bytes());
    bed.feed.aside(Class::System, bytes());
    assert_eq!(bed.feed.lock().entries.len(), 1, "the newest alone");
    let used = bed.storage.usage(None).memory;
    assert!(used > (ASIDE_BYTES / 2) as u64, "{used}");
    advance(2 * SECOND).await;
    bed.feed.aside(Class::System, Bytes::from_static(b"1"));
    assert!(bed.feed.forget_asides(SECOND).is_some());
    assert_eq!(bed.feed.lock().entries.len(), 1);
    advance(2 * SECOND).await;
    assert_eq!(bed.feed.forget_asides(SECOND), None);
    assert_eq!(bed.storage.usage(None).memory, 0);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_has_ended_is_read_to_its_end() {
    let mut bed = Bed::new();
    let mut waits = bed.watch(&From::Now);
    assert_eq!(waits.all().await, [Live]);
    bed.turn("a", 1);
    bed.feed.end(Ok(()));
    bed.feed.end(Err(Cause::ShuttingDown.into()));
    assert_eq!(waits.all().await, seen(&[&[started("a")], &events(1..=1), &[Over(None)]]));
    let bed = Bed::new();
    let mut waits = bed.watch(&From::Now);
    bed.feed.end(Err(Cause::ShuttingDown.into()));
    assert_eq!(waits.all().await, [Live, Over(Some("SHUTTING_DOWN"))]);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_bound_of_watchers() {
    let bed = Bed::new();
    let mut all: Vec<_> = (0..MAX_WATCHERS).map(|_| bed.watch(&From::Now)).collect();
    let full = bed.try_watch(&From::Now).map(|_| ()).expect_err("full").cause;
    assert_eq!(full, Cause::TooManyListeners { limit: MAX_WATCHERS });
    all.pop();
    assert!(bed.try_watch(&From::Now).is_ok());
}

#[tokio::test(start_paused = true)]
async fn partial_messages_have_a_count_of_their_own() {
    let mut bed = Bed::new();
    let log = bed.begin("a");
    let shown = Watcher::new(Arc::clone(&bed.feed), &From::Start, Partials::Shown);
    let mut shown = Watch { watcher: shown.expect("taken"), cursors: Vec::new() };
    shown.all().await;
    bed.happen(&log, Class::StreamEvent);
    bed.happen(&log, Class::Assistant);
    assert_eq!(shown.all().await, events(1..=2));
    let mut hidden = bed.watch(&From::Start);
    assert_eq!(hidden.all().await, [started("a"), Seen::Event(2), Live]);
    let cursor = hidden.cursors[1].clone();
    assert_eq!(bed.resume(&cursor).expect("kept").all().await, [Live]);
}
