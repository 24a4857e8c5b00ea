//! The budget of memory, over prompts, requests and turns' events.

use session_pool::proto::{DisconnectPolicy, GetStatsRequest, GetStatsResponse, QueryRequest};
use tonic::Code;

use crate::support::{
    daemon::Daemon,
    eventually, failure, retry_after,
    service::{Service, query, script},
    turn::Turn,
};

const MIB: u64 = 1 << 20;

/// Memory that a process has resident, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
    kilobytes * 1024
}

async fn usage(daemon: &Daemon) -> GetStatsResponse {
    let request = GetStatsRequest::default();
    daemon.client.clone().get_stats(request).await.expect("answered").into_inner()
}

#[tokio::test]
async fn c7_queued_prompts_of_9_mib_are_refused_when_the_budget_is_used_up() {
    let daemon =
        Daemon::start(&[("POOL__MAX_QUEUED_TURNS", "96"), ("POOL__MEMORY_BUDGET", "64 MiB")]).await;
    let mut running = daemon.open(query("a", &script(&["say here", "hang"]))).await;
    running.until_text("here").await;
    let before = resident(daemon.id());
    let (mut waiting, mut refused) = (Vec::new(), 0);
    for _ in 0..96 {
        let asked = daemon.client.clone().query(query("a", &"x".repeat(9 << 20))).await;
        match asked {
            Ok(stream) => waiting.push(stream.into_inner()),
            Err(status) => {
                let metadata = failure(&status, Code::ResourceExhausted, "MEMORY_BUDGET_EXCEEDED");
                assert_eq!(metadata["field"], "pool.memory_budget");
                assert_eq!(metadata["limit"], (64 * MIB).to_string());
                assert!(retry_after(&status).is_some());
                refused += 1;
            }
        }
    }
    assert!((3..=7).contains(&waiting.len()) && refused > 80, "{} {refused}", waiting.len());
    let stats = usage(&daemon).await;
    assert_eq!((stats.memory_budget_bytes, stats.memory_refusals), (64 * MIB, refused));
    assert!(stats.memory_used_bytes <= 64 * MIB, "{}", stats.memory_used_bytes);
    let growth = resident(daemon.id()).saturating_sub(before);
    assert!(growth < 110 * MIB, "{growth} bytes");
    // Those that leave the queue give back what they held, and others are let in.
    drop(waiting);
    eventually("what they held is free", async || {
        (usage(&daemon).await.memory_used_bytes < MIB).then_some(())
    })
    .await;
    let _next = daemon.open(query("a", &"x".repeat(9 << 20))).await;
}

#[tokio::test]
async fn c7_ended_turns_hold_no_more_than_the_budget_and_the_last_can_be_joined() {
    let service = Service::start(|config| config.pool.memory_budget = 16 * MIB).await;
    for round in 0..6 {
        for session in 0..4 {
            let session = format!("s{session}");
            let turn = service.query(&session, &script(&["frames 30 40000", "say done"])).await;
            assert!(turn.text().ends_with("done"), "round {round}");
            let stats = service.stats().await;
            assert!(stats.memory_used_bytes <= 17 * MIB, "{}", stats.memory_used_bytes);
        }
    }
    let stats = service.stats().await;
    assert!(stats.dropped_turns > 5, "{}", stats.dropped_turns);
    let mut last = service.attach("s3", "", 0).await.expect("kept");
    last.finish().await;
    assert!(last.text().ends_with("done"));
    service.stop().await;
}

#[tokio::test]
async fn c7_an_ended_turn_that_gave_way_is_not_run_again_by_its_id() {
    let service = Service::start(|config| config.pool.memory_budget = 16 * MIB).await;
    let named = || QueryRequest {
        turn_id: "first".into(),
        ..query("s", &script(&["frames 60 40000", "say done"]))
    };
    service.run(named()).await.result();
    for _ in 0..6 {
        service.query("other", &script(&["frames 80 40000"])).await.result();
    }
    let again = service.run(named()).await;
    // Its events gave way; its result is kept with its name.
    assert_eq!(again.result().result, "done");
    assert_eq!(service.session("s").await.expect("there").message_count, 1);
    service.stop().await;
}

#[tokio::test]
async fn c7_turns_that_nobody_reads_leave_the_budget_to_prompts() {
    let service = Service::start(|config| config.pool.memory_budget = 24 * MIB).await;
    // They go on without their callers, and nobody reads what they say.
    for session in 0..12 {
        let request = QueryRequest {
            on_disconnect: DisconnectPolicy::Continue.into(),
            ..query(&format!("s{session}"), &script(&["frames 100 40000", "say done"]))
        };
        drop(service.open(request).await.expect("taken"));
    }
    eventually("they have ended", async || {
        let counters = service.stats().await.counters.expect("counters");
        (counters.turns_completed == 12).then_some(())
    })
    .await;
    let stats = service.stats().await;
    assert!(stats.memory_used_bytes <= 28 * MIB, "{}", stats.memory_used_bytes);
    let turn: Turn = service.query("next", &"x".repeat(4 << 20)).await;
    turn.result();
    service.stop().await;
}
