//! A caller that does not read: it gets everything late, delays nobody, and what was
//! kept for it on disk goes away.

use std::{fs, path::Path, time::Duration};

use session_pool::proto::{
    InterruptOutcome, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tonic::transport::{Channel, Endpoint};

use crate::support::{
    eventually,
    service::{Service, query, script},
    turn::Turn,
};

/// A caller with HTTP/2's smallest usual windows.
async fn narrow(service: &Service) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    Client::new(endpoint.connect().await.expect("connected"))
}

/// Spilled logs have no name any more; the service, which is this process, holds them.
fn spilled(state: &Path) -> usize {
    let spill = state.join("spill");
    let files = fs::read_dir("/proc/self/fd").expect("/proc");
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .filter(|target| target.starts_with(&spill))
        .count()
}

#[tokio::test]
async fn a_reader_of_20_mb_that_pauses_gets_every_event_and_delays_nobody() {
    const FRAMES: usize = 500;
    let service = Service::start(|config| {
        config.pool.turn_retention = Duration::from_millis(100);
        config.pool.turn_buffer_bytes = 1 << 20;
    })
    .await;
    service.query("other", "hello").await.result();
    let prompt = script(&[&format!("frames {FRAMES} 40000")]);
    let stream = narrow(&service).await.query(query("slow", &prompt)).await.expect("taken");
    // The CLI is drained to the end although nobody reads.
    eventually("the big turn has ended", async || {
        let turn = service.query("other", "meanwhile").await;
        assert_eq!(turn.result().result, "echo: meanwhile");
        let session = service.session("slow").await.expect("there");
        (session.message_count == 1 && session.running_turn_id.is_empty()).then_some(())
    })
    .await;
    assert!(spilled(service.state.path()) > 0);

    let mut turn = Turn::new(stream.into_inner());
    turn.finish().await;
    assert!(!turn.result().is_error);
    let text = turn.text();
    let mut numbers = text.lines().map(|line| &line[line.len() - 12..]);
    for n in 1..=FRAMES {
        assert_eq!(numbers.next(), Some(format!("{n:012}").as_str()));
    }
    assert_eq!(numbers.next(), None);
    eventually("the files go away", async || (spilled(service.state.path()) == 0).then_some(()))
        .await;
    assert_eq!(fs::read_dir(service.state.path().join("spill")).expect("a folder").count(), 0);
    service.stop().await;
}

#[tokio::test]
async fn one_reader_that_stops_does_not_hold_up_another_of_the_same_turn() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["frames 2000 2000", "sleep 50", "say the end"]);
    let stuck = narrow(&service).await.query(query("a", &prompt)).await.expect("taken");
    let mut reading =
        eventually("the turn runs", async || service.attach("a", "", 0).await.ok()).await;
    reading.finish().await;
    assert_eq!(reading.result().result, "the end");
    assert_eq!(reading.events[0].sequence, 1);
    // The first one has not read yet, and still gets the same.
    let mut late = Turn::new(stuck.into_inner());
    late.finish().await;
    assert_eq!(late.events, reading.events);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_nobody_reads_can_be_interrupted() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["frames 3000 2000", "hang"]);
    let stream = narrow(&service).await.query(query("a", &prompt)).await.expect("taken");
    eventually("the CLI has printed all", async || {
        let counters = service.stats().await.counters.expect("counters");
        (counters.frames >= 3000).then_some(())
    })
    .await;
    let report = service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    let mut turn = Turn::new(stream.into_inner());
    turn.finish().await;
    assert!(turn.result().interrupted);
    assert!(turn.events.len() > 3000, "{}", turn.events.len());
    service.stop().await;
}
