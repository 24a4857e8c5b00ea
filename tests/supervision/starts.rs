//! What a start, a stop and a look at the figures cost does not grow with the number of sessions:
//! nobody reads files of processes that are not concerned. Counted, not timed: the kernel counts
//! how often each process has read.

use std::fs;

use session_pool::{internals::os::procfs::Look, proto::GetStatsRequest};

use crate::{
    bed::{Bed, MODES},
    support::{processes::is_supervisor, service::query},
};

/// Sessions among which the first are few and the last are many. Each has two processes at least.
const SESSIONS: usize = 48;

/// How many starts are counted together.
const COUNTED: usize = 8;

/// How often a process has read so far, threads that have ended included.
fn reads(pid: u32) -> u64 {
    let counts = fs::read_to_string(format!("/proc/{pid}/io")).expect("its counts");
    let reads = counts.lines().find_map(|line| line.strip_prefix("syscr: "));
    reads.expect("a count").parse().expect("a number")
}

/// What a service reads while something is done.
async fn read_during(service: u32, work: impl Future<Output = ()>) -> u64 {
    let before = reads(service);
    work.await;
    reads(service) - before
}

#[tokio::test]
async fn starts_and_stops_beside_many_sessions_read_no_more_than_beside_few() {
    for mode in MODES {
        // Without bounds nothing looks at all processes from time to time; what is kept on disk is
        // measured for each start, but no processes are for that.
        let settings = [
            ("POOL__MAX_PROCESSES", "100"),
            ("CLI__MAX_TASKS", "0"),
            ("POLICY__MAX_WORKSPACE_BYTES", "1000 TiB"),
        ];
        let bed = Bed::fake(mode, &settings).await;
        let service = bed.daemon.id();
        let start = async |sessions: std::ops::Range<usize>| {
            for number in sessions {
                bed.run(query(&number.to_string(), "hello")).await.result();
            }
        };
        let stop = async |sessions: std::ops::Range<usize>| {
            for number in sessions {
                bed.close(&number.to_string()).await;
            }
        };
        let last = SESSIONS - COUNTED;
        // What is read but once.
        start(0..1).await;
        let beside_few = read_during(service, start(1..COUNTED + 1)).await;
        start(COUNTED + 1..last).await;
        let beside_many = read_during(service, start(last..SESSIONS)).await;
        // A file of each of the others would be this many.
        let others = (COUNTED * (last - COUNTED)) as u64;
        assert!(beside_many < beside_few + others, "{mode}: {beside_few}, {beside_many}");

        let beside_many = read_during(service, stop(0..COUNTED)).await;
        stop(COUNTED..last).await;
        let beside_few = read_during(service, stop(last..SESSIONS)).await;
        assert!(beside_many < beside_few + others, "{mode}: {beside_few}, {beside_many}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn a_supervisor_reads_no_more_beside_many_sessions_than_beside_few() {
    let bed = Bed::fake("process-tree", &[("POOL__MAX_PROCESSES", "100")]).await;
    for number in 0..SESSIONS {
        bed.run(query(&number.to_string(), "hello")).await.result();
    }
    let mut supervisors = Look::take().expect("/proc").children(bed.daemon.id());
    supervisors.retain(|child| is_supervisor(*child));
    assert_eq!(supervisors.len(), SESSIONS);
    let counts: Vec<u64> = supervisors.into_iter().map(reads).collect();
    assert_eq!(counts.iter().min(), counts.iter().max(), "{counts:?}");
    bed.stop().await;
}

#[tokio::test]
async fn those_who_ask_for_figures_again_and_again_are_told_of_one_look() {
    let settings = [("POOL__MAX_PROCESSES", "100"), ("CLI__MAX_TASKS", "0")];
    let bed = Bed::fake("process-tree", &settings).await;
    bed.run(query("a", "hello")).await.result();
    let ask = async |times: usize| {
        let mut client = bed.daemon.client.clone();
        for _ in 0..times {
            let stats = client.get_stats(GetStatsRequest::default()).await.expect("answered");
            assert!(stats.into_inner().process_memory_bytes > 0);
        }
    };
    ask(1).await;
    let processes = fs::read_dir("/proc").expect("/proc").count() as u64;
    let read = read_during(bed.daemon.id(), ask(200)).await;
    assert!(read < 200 * processes / 2, "{read} of {processes} processes");
    bed.stop().await;
}
