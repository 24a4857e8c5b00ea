//! What listeners of a log see, and what it keeps.

mod disk;

use super::*;

use std::time::Duration;

use crate::{
    budget::{Bounds, Budget},
    domain::ids::TenantId,
    turn::{event::Event, storage::StorageSettings},
};

const PLENTY: u64 = 1 << 30;

fn budget(total: u64) -> Budget {
    Budget::new(Bounds { key: "all", total, tenant_key: "each", of_tenant: None })
}

fn settings(folder: &std::path::Path, buffer_bytes: usize, spill_bytes: u64) -> StorageSettings {
    StorageSettings {
        buffer_bytes,
        spill_bytes,
        spill_folder: folder.to_owned(),
        disk_reserve: 0,
        memory: budget(PLENTY),
        disk: budget(PLENTY),
    }
}

fn log_of(storage: &Storage, tenant: &str) -> TurnLog {
    let accounts = storage.accounts(&TenantId::parse(tenant).expect("a name"));
    let log =
        storage.log(TurnId::fresh(), &accounts, Arc::default(), Span::none(), TurnTrace::default());
    log.start(started(log.id()));
    log
}

fn log(folder: &std::path::Path, buffer_bytes: usize, spill_bytes: u64) -> TurnLog {
    log_of(&Storage::new(settings(folder, buffer_bytes, spill_bytes)), "a")
}

/// Appends as a session does.
async fn append(log: &TurnLog, frames: impl IntoIterator<Item = (Class, Bytes)>) {
    log.room().await;
    log.append(frames);
}

/// Waits until nothing is on its way to a file.
async fn settled(log: &TurnLog) {
    while log.shared.lock().writing.is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn until(what: &str, probe: impl Fn() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while !probe() {
        assert!(tokio::time::Instant::now() < limit, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn large(n: u8, length: usize) -> (Class, Bytes) {
    (Class::Assistant, vec![n; length].into())
}

fn started(turn: &TurnId) -> Started {
    use crate::{domain::ids::*, turn::event::ProcessOrigin};
    Started {
        session_id: SessionId::anonymous(),
        turn_id: turn.clone(),
        client_id: ClientId::fresh(),
        cli_session_id: CliSessionId::fresh(),
        origin: ProcessOrigin::Created,
        queued_for: std::time::Duration::ZERO,
        connect_time: std::time::Duration::ZERO,
        start_time: std::time::SystemTime::UNIX_EPOCH,
        background: false,
    }
}

fn frame(n: u64) -> (Class, Bytes) {
    (Class::Assistant, format!("{{\"n\":{n},\"pad\":\"{}\"}}", "p".repeat(100)).into())
}

async fn read_all(listener: &mut Listener) -> Result<Vec<(u64, Bytes)>, Failure> {
    let mut all = Vec::new();
    while let Some(batch) = listener.batch().await? {
        for (offset, event) in batch.events.into_iter().enumerate() {
            let line = match event {
                Event::Started(_) => Bytes::new(),
                Event::Frame(_, line) => line,
            };
            all.push((batch.first + offset as u64, line));
        }
    }
    Ok(all)
}

#[tokio::test]
async fn every_listener_sees_every_event_from_where_it_joined() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 2000, 1 << 20);
    let mut early = log.listen(0, Partials::Hidden).expect("kept");
    for n in 2..=100 {
        append(&log, [frame(n)]).await;
    }
    let mut late = log.listen(50, Partials::Hidden).expect("kept");
    assert!(log.end(Ok(())));
    let events = read_all(&mut early).await.expect("all kept");
    assert_eq!(events.len(), 100);
    for (n, (sequence, line)) in (1..).zip(&events) {
        assert_eq!(*sequence, n);
        assert!(n == 1 || *line == frame(n).1, "{n}");
    }
    assert_eq!(read_all(&mut late).await.expect("all kept"), events[49..]);
}

#[tokio::test]
async fn a_listener_that_falls_behind_what_is_kept_is_told_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 2000, 8000);
    let mut slow = log.listen(1, Partials::Hidden).expect("kept");
    let mut quick = log.listen(1, Partials::Hidden).expect("kept");
    let mut seen = 1;
    for n in 2..=1000 {
        append(&log, [frame(n)]).await;
        while seen < n {
            let batch = quick.batch().await.expect("kept").expect("not ended");
            seen = batch.first + batch.events.len() as u64 - 1;
        }
    }
    slow.batch().await.expect("event 1 is always kept");
    let lost = slow.batch().await.expect_err("too slow");
    assert!(matches!(lost.cause, Cause::ListenerTooSlow { .. }), "{lost}");
    let expired = log.listen(2, Partials::Hidden).expect_err("expired");
    assert!(matches!(expired.cause, Cause::EventsExpired { .. }), "{expired}");
}

#[tokio::test]
async fn a_waiting_listener_wakes_for_events_and_for_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 2000, 0);
    let mut listener = log.listen(1, Partials::Hidden).expect("kept");
    let reader = crate::tasks::spawn_owned(async move { read_all(&mut listener).await });
    tokio::task::yield_now().await;
    log.append([frame(2)]);
    tokio::task::yield_now().await;
    assert!(log.end(Err(Cause::TurnInterrupted.into())));
    assert!(!log.end(Ok(())), "only the first end counts");
    log.append([frame(3)]);
    let failure = reader.await.expect("no panic").expect_err("interrupted");
    assert_eq!(failure.cause, Cause::TurnInterrupted);
}

#[tokio::test]
async fn listeners_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 2000, 0);
    let mut listeners: Vec<_> =
        (0..MAX_LISTENERS).map(|_| log.listen(1, Partials::Hidden).expect("room")).collect();
    let refused = log.listen(1, Partials::Hidden).expect_err("one too many");
    assert_eq!(refused.cause, Cause::TooManyListeners { limit: MAX_LISTENERS });
    listeners.pop();
    assert!(log.listen(1, Partials::Hidden).is_ok());
}

#[tokio::test]
async fn the_last_listener_to_go_is_noticed() {
    let gone = Arc::new(Notify::new());
    let storage = Storage::in_memory(1000);
    let accounts = storage.accounts(&TenantId::default());
    let log = storage.log(
        TurnId::fresh(),
        &accounts,
        Arc::clone(&gone),
        Span::none(),
        TurnTrace::default(),
    );
    let (a, b) = (
        log.listen(1, Partials::Hidden).expect("kept"),
        log.listen(1, Partials::Hidden).expect("kept"),
    );
    drop(a);
    assert_eq!(log.listeners(), 1);
    drop(b);
    gone.notified().await;
    assert_eq!(log.listeners(), 0);
}

#[tokio::test]
async fn c7_ended_turns_give_way_the_first_that_ended_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits =
        StorageSettings { memory: budget(1_000_000), ..settings(folder.path(), 1 << 20, 0) };
    let storage = Storage::new(limits);
    let ended: Vec<_> = (0..4)
        .map(|n| {
            let log = log_of(&storage, "a");
            log.append([large(n, 200_000)]);
            log.end(Ok(()));
            log
        })
        .collect();
    let reader = ended[0].listen(1, Partials::Hidden).expect("kept");
    let account = storage.accounts(&TenantId::parse("a").expect("a name")).memory;
    let held = storage.reserve(&account, 300_000).expect("an ended turn gives way");
    // The oldest has a listener; the one after it goes.
    let kept: Vec<_> = ended.iter().map(|log| log.listen(1, Partials::Hidden).is_ok()).collect();
    assert_eq!(kept, [true, false, true, true]);
    let expired = ended[1].listen(1, Partials::Hidden).expect_err("gone");
    assert!(matches!(expired.cause, Cause::EventsExpired { .. }), "{expired}");
    assert_eq!(storage.usage(None).dropped, 1);
    // What more than all of them hold is refused, by name, and nothing is used up by it.
    let refused = storage.reserve(&account, 2_000_000).expect_err("too much");
    assert_eq!((refused.key, storage.usage(None).refused), ("all", 1));
    drop((held, reader, ended));
    until("everything is given back", || storage.usage(None).memory == 0).await;
}

#[tokio::test]
async fn c7_no_tenant_loses_anything_to_one_that_holds_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits =
        StorageSettings { memory: budget(1_000_000), ..settings(folder.path(), 1 << 20, 0) };
    let storage = Storage::new(limits);
    let modest = log_of(&storage, "modest");
    modest.append([large(1, 200_000)]);
    modest.end(Ok(()));
    let greedy = storage.accounts(&TenantId::parse("greedy").expect("a name")).memory;
    let _held = storage.reserve(&greedy, 700_000).expect("room");
    assert!(storage.reserve(&greedy, 200_000).is_err());
    assert!(modest.listen(1, Partials::Hidden).is_ok());
    // The other way round, the greedy one's turns go.
    drop(_held);
    let theirs: Vec<_> = (0..4).map(|_| log_of(&storage, "greedy")).collect();
    for log in &theirs {
        log.append([large(2, 180_000)]);
        log.end(Ok(()));
    }
    let account = storage.accounts(&TenantId::parse("modest").expect("a name")).memory;
    assert!(storage.reserve(&account, 150_000).is_ok());
    assert!(
        theirs[0].listen(1, Partials::Hidden).is_err()
            && modest.listen(1, Partials::Hidden).is_ok()
    );
}

#[tokio::test]
async fn c7_a_running_turn_goes_to_disk_when_the_budget_is_used_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits =
        StorageSettings { memory: budget(2_000_000), ..settings(folder.path(), 4 << 20, 1 << 30) };
    let storage = Storage::new(limits);
    let log = log_of(&storage, "a");
    let mut slow = log.listen(1, Partials::Hidden).expect("kept");
    for n in 0..100 {
        append(&log, [large(n, 60_000)]).await;
    }
    settled(&log).await;
    let usage = storage.usage(None);
    assert!(usage.memory < 2_500_000 && usage.disk > 3_000_000, "{usage:?}");
    log.end(Ok(()));
    assert_eq!(read_all(&mut slow).await.expect("all kept").len(), 101);
}

#[tokio::test]
async fn c7_a_small_line_does_not_keep_the_read_that_it_came_with() {
    let log = log_of(&Storage::in_memory(1 << 20), "a");
    let read = Bytes::from(vec![b'x'; 64 * 1024]);
    log.append([(Class::Other, read.slice(..10))]);
    assert!(read.is_unique(), "the rest of the read is free");
}

fn piece(n: u64) -> (Class, Bytes) {
    (Class::StreamEvent, format!("{{\"piece\":{n},\"pad\":\"{}\"}}", "q".repeat(100)).into())
}

fn lines(events: &[(u64, Bytes)]) -> Vec<&str> {
    let line = |line| std::str::from_utf8(line).expect("UTF-8");
    events.iter().map(|(_, bytes)| line(bytes)).filter(|line| !line.is_empty()).collect()
}

/// A waker, and whether it was used.
fn flag() -> (Arc<Flag>, std::task::Waker) {
    let flag = Arc::new(Flag::default());
    (Arc::clone(&flag), flag.into())
}

#[derive(Debug, Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, std::sync::atomic::Ordering::SeqCst)
    }
}

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Numbers without a gap, from `first` on.
fn assert_numbered(events: &[(u64, Bytes)], first: u64) {
    for (wanted, (sequence, _)) in (first..).zip(events) {
        assert_eq!(*sequence, wanted);
    }
}

#[tokio::test]
async fn f1_each_listener_sees_and_counts_what_it_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    // Small, so that most of it is read back from files.
    let log = log(folder.path(), 4000, 1 << 20);
    let mut all = log.listen(1, Partials::Shown).expect("kept");
    let mut whole = log.listen(1, Partials::Hidden).expect("kept");
    for n in 1..=300 {
        append(&log, [piece(2 * n), piece(2 * n + 1), frame(n)]).await;
    }
    assert!(log.end(Ok(())));
    // One who has not read yet, for whose sake the files stay.
    let _unread = log.listen(1, Partials::Hidden).expect("kept");
    let all = read_all(&mut all).await.expect("kept");
    assert_eq!(all.len(), 901);
    assert_numbered(&all, 1);
    let whole = read_all(&mut whole).await.expect("kept");
    assert_eq!(whole.len(), 301);
    assert_numbered(&whole, 1);
    assert!(lines(&whole).iter().all(|line| line.starts_with("{\"n\"")));
    for from in [2, 3, 42, 43, 44, 128, 129, 250, 300, 301] {
        let mut late = log.listen(from, Partials::Hidden).expect("kept");
        let seen = read_all(&mut late).await.expect("kept");
        assert_eq!(seen, whole[usize::try_from(from).expect("small") - 1..], "from {from}");
        let mut late = log.listen(from, Partials::Shown).expect("kept");
        let seen = read_all(&mut late).await.expect("kept");
        assert_eq!(seen, all[usize::try_from(from).expect("small") - 1..], "from {from}");
    }
}

#[tokio::test]
async fn f1_pieces_that_nobody_asks_for_are_not_kept_and_wake_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 100_000, 0);
    let mut whole = log.listen(2, Partials::Hidden).expect("kept");
    let (woken, waker) = flag();
    let mut waiting = std::task::Context::from_waker(&waker);
    // The listener begins behind event 1, which it does not see.
    while whole.poll_batch(&mut waiting).is_pending() && woken.take() {}
    log.append((0..10_000).map(piece));
    assert!(!woken.take(), "it does not see them");
    assert!(log.shared.lock().memory_bytes < 1000, "they are not of the log");
    log.append([frame(2)]);
    assert!(woken.take());
    // The block that is being written is there from its start, earlier ones are not.
    log.append([piece(1), piece(2)]);
    let mut late = log.listen(1, Partials::Shown).expect("kept");
    log.append([piece(3), frame(3)]);
    assert!(log.end(Ok(())));
    let seen = read_all(&mut late).await.expect("kept");
    assert_numbered(&seen, 1);
    let wanted = [frame(2), piece(1), piece(2), piece(3), frame(3)].map(|(_, line)| line);
    assert_eq!(seen[1..].iter().map(|(_, line)| line.clone()).collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn f1_a_listener_without_pieces_learns_in_its_own_count_what_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 2000, 8000);
    let shown = log.listen(1, Partials::Shown).expect("kept");
    for n in 2..=500 {
        append(&log, [piece(n), piece(n), piece(n), frame(n)]).await;
    }
    drop(shown);
    settled(&log).await;
    let expired = log.listen(2, Partials::Hidden).expect_err("expired");
    let Cause::EventsExpired { first_kept } = expired.cause else { panic!("{expired}") };
    assert!((3..500).contains(&first_kept), "{first_kept}");
    assert!(log.listen(first_kept - 1, Partials::Hidden).is_err());
    let mut rest = log.listen(first_kept, Partials::Hidden).expect("kept");
    assert!(log.end(Ok(())));
    let seen = read_all(&mut rest).await.expect("kept");
    assert_eq!(seen.first().map(|(_, line)| line.clone()), Some(frame(first_kept).1));
    assert_eq!(seen.last().map(|(_, line)| line.clone()), Some(frame(500).1));
    assert_numbered(&seen, first_kept);
}
