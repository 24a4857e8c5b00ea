//! What goes to files, and what becomes of turns whose disk is full or hangs.

use bytes::BytesMut;

use super::*;
use crate::turn::{shared::READ_GRACE, storage::DISK_RESERVE};

/// A log whose events are in a file, most of them, and that has ended.
async fn ended_in_a_file(storage: &Storage) -> TurnLog {
    let log = log_of(storage, "a");
    for n in 2..=1000 {
        append(&log, [frame(n)]).await;
    }
    settled(&log).await;
    assert!(storage.usage(None).disk > 50_000, "{:?}", storage.usage(None));
    assert!(log.end(Ok(())));
    log
}

/// Lets the time pass after which files that were read go.
async fn grace() {
    tokio::time::pause();
    tokio::time::advance(READ_GRACE).await;
    tokio::time::resume();
}

#[tokio::test]
async fn c6_files_of_a_turn_that_has_ended_and_is_read_go_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::new(settings(folder.path(), 20_000, 1 << 20));
    let log = ended_in_a_file(&storage).await;
    let (mut first, mut second) = (
        log.listen(1, Partials::Hidden).expect("kept"),
        log.listen(1, Partials::Hidden).expect("kept"),
    );
    read_all(&mut first).await.expect("all kept");
    drop(first);
    grace().await;
    assert!(storage.usage(None).disk > 50_000, "the other one has not read yet");
    let events = read_all(&mut second).await.expect("all kept");
    assert_eq!(events.len(), 1000);
    drop(second);
    // The connection broke while the last of them were on their way.
    let mut again = log.listen(2, Partials::Hidden).expect("kept");
    grace().await;
    assert_eq!(read_all(&mut again).await.expect("kept, as long as somebody reads").len(), 999);
    drop(again);
    grace().await;
    until("the files are gone", || storage.usage(None).disk == 0).await;
    // What is in memory can still be joined.
    let expired = log.listen(2, Partials::Hidden).expect_err("gone");
    let Cause::EventsExpired { first_kept } = expired.cause else { panic!("{expired}") };
    let mut late = log.listen(first_kept, Partials::Hidden).expect("kept");
    assert_eq!(read_all(&mut late).await.expect("kept").last(), events.last());
}

#[tokio::test]
async fn c6_of_ended_turns_in_files_those_that_were_read_give_way_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = budget(400_000);
    let storage =
        Storage::new(StorageSettings { disk, ..settings(folder.path(), 20_000, 1 << 20) });
    let unread = ended_in_a_file(&storage).await;
    let read = ended_in_a_file(&storage).await;
    read_all(&mut read.listen(1, Partials::Hidden).expect("kept")).await.expect("all kept");
    let mut others = Vec::new();
    while read.listen(2, Partials::Hidden).is_ok() {
        assert!(others.len() < 10, "nothing gives way: {:?}", storage.usage(None));
        others.push(ended_in_a_file(&storage).await);
    }
    assert!(unread.listen(2, Partials::Hidden).is_ok(), "what nobody has read gives way later");
    assert!(storage.usage(None).disk <= 400_000);
}

#[tokio::test]
async fn c6_without_free_disk_nothing_is_written_and_the_result_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    // More than any disk has; a quarter of the disk is free here, or less is.
    let storage = Storage::new(StorageSettings {
        disk_reserve: u64::MAX,
        ..settings(folder.path(), 20_000, 1 << 30)
    });
    let disk = rustix::fs::statvfs(folder.path()).expect("a disk");
    let floor_holds = disk.f_bavail * 4 < disk.f_blocks;
    let log = log_of(&storage, "a");
    let mut slow = log.listen(1, Partials::Hidden).expect("kept");
    for n in 2..=1000 {
        append(&log, [frame(n)]).await;
    }
    settled(&log).await;
    assert!(log.end(Ok(())));
    assert!(!floor_holds || storage.usage(None).disk == 0);
    if floor_holds {
        slow.batch().await.expect("event 1 is always kept");
        let lost = slow.batch().await.expect_err("too slow");
        let Cause::ListenerTooSlow { bound, .. } = lost.cause else { panic!("{lost}") };
        assert_eq!(bound, DISK_RESERVE);
    }
    let mut last = log.listen(1000, Partials::Hidden).expect("the newest is always kept");
    assert_eq!(read_all(&mut last).await.expect("kept"), [(1000, frame(1000).1)]);
}

#[tokio::test]
async fn c6_turns_that_nobody_reads_stay_within_the_budget_of_disk() {
    const BUDGET: u64 = 300_000;
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Budget::new(Bounds {
        key: "pool.spill_bytes",
        total: BUDGET,
        tenant_key: "policy.tenant_max_spill",
        of_tenant: Some(200_000),
    });
    let limits = StorageSettings { disk, ..settings(folder.path(), 20_000, 1 << 30) };
    let storage = Storage::new(limits);
    let logs: Vec<_> = (0..12).map(|n| log_of(&storage, ["a", "b"][n % 2])).collect();
    let mut slow: Vec<_> =
        logs.iter().map(|log| log.listen(1, Partials::Hidden).expect("kept")).collect();
    for n in 2..=500 {
        for log in &logs {
            append(log, [frame(n)]).await;
        }
        let usage = storage.usage(None);
        assert!(usage.disk <= BUDGET && usage.memory < 12 * 50_000, "{usage:?}");
    }
    for (log, slow) in logs.iter().zip(&mut slow) {
        log.end(Ok(()));
        slow.batch().await.expect("event 1 is always kept");
        match read_all(slow).await {
            Ok(events) => assert_eq!(events.len(), 499),
            Err(lost) => {
                let Cause::ListenerTooSlow { bound, .. } = lost.cause else { panic!("{lost}") };
                let budgets = ["pool.spill_bytes", "policy.tenant_max_spill"];
                assert!(budgets.contains(&bound), "{bound}");
            }
        }
        log.listen(500, Partials::Hidden).expect("the newest is always kept");
    }
}

#[tokio::test]
async fn c6_a_read_larger_than_the_buffer_says_nothing_of_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path(), 4096, PLENTY);
    let mut listener = log.listen(1, Partials::Hidden).expect("joined");
    {
        // The writer's thread waits for this as it would for a disk.
        let _disk = log.shared.spill.lock().expect("no panic");
        log.append([large(1, 1500), large(2, 1500)]);
        assert!(log.shared.lock().writing.is_some());
        log.append((3..20).map(|n| large(n, 1500)));
    }
    log.end(Ok(()));
    let seen = read_all(&mut listener).await.expect("nothing is lost");
    assert_eq!(seen.last().map(|(sequence, _)| *sequence), Some(20));
}

/// Holds the writer's thread until it is dropped, as a disk that hangs does.
fn hang(storage: &Storage) -> std::sync::mpsc::Sender<()> {
    let (hangs, over) = std::sync::mpsc::channel();
    let job = Box::new(move |_: &mut BytesMut| {
        over.recv().ok();
    });
    storage.0.writer.ask(job).map_err(drop).expect("room in the queue");
    hangs
}

#[tokio::test]
async fn c6_a_turn_that_has_ended_gives_way_to_what_is_still_to_be_written_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    // The first mebibyte of it fits, and the second does not.
    let limits =
        StorageSettings { disk: budget(1_500_000), ..settings(folder.path(), 64 * 1024, PLENTY) };
    let storage = Storage::new(limits);
    let hangs = hang(&storage);
    let log = log_of(&storage, "a");
    log.append((0..60).map(|n| large(n, 50_000)));
    assert!(log.end(Ok(())));
    drop(hangs);
    until("the end of what was to be written", || log.shared.lock().writing.is_none()).await;
    until("the end of the files", || storage.usage(None).disk == 0).await;
    assert!(storage.usage(None).memory < 200_000, "{:?}", storage.usage(None));
    assert_eq!(storage.usage(None).dropped, 1);
    // The thread serves other turns.
    let other = log_of(&storage, "a");
    other.append((0..10).map(|n| large(n, 50_000)));
    until("its events in a file", || storage.usage(None).disk > 0).await;
}

#[tokio::test(start_paused = true)]
async fn c6_a_disk_that_hangs_is_waited_for_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::new(settings(folder.path(), 64 * 1024, PLENTY));
    let hangs = hang(&storage);
    let log = log_of(&storage, "a");
    let mut slow = log.listen(1, Partials::Hidden).expect("joined");
    let began = tokio::time::Instant::now();
    for n in 0..200 {
        append(&log, [large(n, 10_000)]).await;
    }
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    assert!(storage.usage(None).memory < 250_000, "{:?}", storage.usage(None));
    slow.batch().await.expect("event 1 is always kept");
    let lost = slow.batch().await.expect_err("too slow");
    let Cause::ListenerTooSlow { bound, .. } = lost.cause else { panic!("{lost}") };
    assert_eq!(bound, "pool.turn_buffer_bytes");
    drop(hangs);
}
