//! The budget of disk, for events that callers have not read yet.

use std::time::Duration;

use session_pool::proto::{
    QueryResponse, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::Instant;
use tonic::{Code, Streaming, transport::Endpoint};

use crate::support::{
    eventually, failure,
    service::{Service, query, script},
    turn::Turn,
};

const MIB: u64 = 1 << 20;

/// A turn whose caller does not read: with HTTP/2's smallest usual windows.
async fn unread(service: &Service, session: &str, prompt: &str) -> Streaming<QueryResponse> {
    let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut narrow = Client::new(endpoint.connect().await.expect("connected"));
    narrow.query(query(session, prompt)).await.expect("taken").into_inner()
}

#[tokio::test]
async fn c6_twelve_turns_whose_callers_do_not_read_stay_within_the_budget_and_delay_nobody() {
    let service = Service::start(|config| {
        config.pool.spill_bytes = 40 * MIB;
        config.pool.memory_budget = 32 * MIB;
        config.pool.turn_spill_bytes = 20 * MIB;
        config.pool.turn_retention = Duration::from_secs(2);
    })
    .await;
    service.query("other", "hello").await.result();
    let prompt = script(&["frames 400 40000", "say the end"]);
    let mut slow = Vec::new();
    for number in 0..12 {
        slow.push(unread(&service, &format!("s{number}"), &prompt).await);
    }
    let mut longest = Duration::ZERO;
    eventually("all have ended", async || {
        let asked = Instant::now();
        service.query("other", "meanwhile").await.result();
        longest = longest.max(asked.elapsed());
        let stats = service.stats().await;
        assert!(stats.spill_used_bytes <= 40 * MIB, "{}", stats.spill_used_bytes);
        assert!(stats.memory_used_bytes <= 40 * MIB, "{}", stats.memory_used_bytes);
        assert_eq!(stats.spill_budget_bytes, 40 * MIB);
        (stats.streaming_turns == 0).then_some(())
    })
    .await;
    assert!(longest < Duration::from_secs(5), "a neighbour waited {longest:?}");
    // Some have lost their place, and are told for want of what; nobody's turn has failed.
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.turns_failed, 0);
    let mut lost = 0;
    for stream in slow {
        let mut turn = Turn::new(stream);
        turn.finish().await;
        if !matches!(turn.end, Some(Ok(()))) {
            let metadata = failure(turn.error(), Code::DataLoss, "LISTENER_TOO_SLOW");
            let bounds = ["pool.spill_bytes", "pool.turn_spill_bytes", "pool.memory_budget"];
            assert!(bounds.contains(&metadata["field"].as_str()), "{}", metadata["field"]);
            lost += 1;
        }
    }
    assert!(lost > 0, "192 MB do not fit into 40 MiB");
    // Nothing is left of turns that nobody can join any more.
    eventually("the files are gone", async || {
        (service.stats().await.spill_used_bytes == 0).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn c6_what_a_cli_says_while_it_is_stopped_waits_for_the_disk_like_the_rest() {
    let service = Service::start(|config| {
        config.pool.turn_buffer_bytes = 64 << 10;
        config.pool.stream_interrupt_timeout = Duration::from_secs(60);
    })
    .await;
    let lines = ["say begun", "deaf", "frames 8000 4000", "say the end"];
    let mut turn = Turn::new(unread(&service, "a", &script(&lines)).await);
    turn.until_text("begun").await;
    // It does not hear it, and says all that it has to say.
    service.interrupt("a", true).await;
    turn.finish().await;
    assert!(matches!(turn.end, Some(Ok(()))), "it lost its place: {:?}", turn.end);
    service.stop().await;
}

#[tokio::test]
async fn c6_a_listener_that_lost_its_place_joins_the_turn_again_and_gets_the_result() {
    let service = Service::start(|config| {
        config.pool.spill_bytes = 0;
        config.pool.turn_buffer_bytes = 1 << 20;
    })
    .await;
    let prompt = script(&["frames 200 40000", "say the end"]);
    let mut turn = Turn::new(unread(&service, "a", &prompt).await);
    eventually("the turn has ended", async || {
        let counters = service.stats().await.counters.expect("counters");
        (counters.turns_completed == 1).then_some(())
    })
    .await;
    turn.finish().await;
    let metadata = failure(turn.error(), Code::DataLoss, "LISTENER_TOO_SLOW");
    assert_eq!(metadata["field"], "pool.turn_spill_bytes");
    let first_kept = metadata["limit"].parse().expect("a sequence");
    let mut again = service.attach("a", "", first_kept).await.expect("kept");
    again.finish().await;
    assert_eq!(again.result().result, "the end");
    service.stop().await;
}
