//! What listeners of a log see, and what it keeps.

use super::*;

fn log(folder: &std::path::Path, buffer_bytes: usize, spill_bytes: u64) -> TurnLog {
    let limits = LogLimits { buffer_bytes, spill_bytes, spill_folder: folder.to_owned() };
    let log = TurnLog::new(TurnId::fresh(), limits, Arc::default());
    log.start(started(log.id()));
    log
}

fn started(turn: &TurnId) -> Started {
    use crate::{ids::*, turn::event::Origin};
    Started {
        session_id: SessionId::anonymous(),
        turn_id: turn.clone(),
        client_id: ClientId::fresh(),
        cli_session_id: CliSessionId::fresh(),
        origin: Origin::Created,
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
    let mut early = log.listen(0).expect("kept");
    for n in 2..=100 {
        log.append([frame(n)]);
    }
    let mut late = log.listen(50).expect("kept");
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
    let mut slow = log.listen(1).expect("kept");
    let mut quick = log.listen(1).expect("kept");
    let mut seen = 1;
    for n in 2..=1000 {
        log.append([frame(n)]);
        while seen < n {
            let batch = quick.batch().await.expect("kept").expect("not ended");
            seen = batch.first + batch.events.len() as u64 - 1;
        }
    }
    slow.batch().await.expect("event 1 is always kept");
    let lost = slow.batch().await.expect_err("too slow");
    assert!(matches!(lost.cause, Cause::ListenerTooSlow { .. }), "{lost}");
    let expired = log.listen(2).expect_err("expired");
    assert!(matches!(expired.cause, Cause::EventsExpired { .. }), "{expired}");
}

#[tokio::test]
async fn a_waiting_listener_wakes_for_events_and_for_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 2000, 0);
    let mut listener = log.listen(1).expect("kept");
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
    let mut listeners: Vec<_> = (0..MAX_LISTENERS).map(|_| log.listen(1).expect("room")).collect();
    let refused = log.listen(1).expect_err("one too many");
    assert_eq!(refused.cause, Cause::TooManyListeners { limit: MAX_LISTENERS });
    listeners.pop();
    assert!(log.listen(1).is_ok());
}

#[tokio::test]
async fn the_last_listener_to_go_is_noticed() {
    let gone = Arc::new(Notify::new());
    let limits = LogLimits { buffer_bytes: 1000, spill_bytes: 0, spill_folder: PathBuf::new() };
    let log = TurnLog::new(TurnId::fresh(), limits, Arc::clone(&gone));
    let (a, b) = (log.listen(1).expect("kept"), log.listen(1).expect("kept"));
    drop(a);
    assert_eq!(log.listeners(), 1);
    drop(b);
    gone.notified().await;
    assert_eq!(log.listeners(), 0);
}
