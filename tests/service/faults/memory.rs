//! A caller that stops reading costs the service no memory: what it has not read waits in
//! a file.

use session_pool::proto::{
    Payload, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tonic::transport::Endpoint;

use crate::support::{
    daemon::Daemon,
    service::{query, script},
    turn::Turn,
};

const FRAMES: usize = 20_000;
const MEGABYTE: u64 = 1 << 20;

/// The most memory that a process has had resident, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
    kilobytes * 1024
}

#[tokio::test]
async fn a_reader_that_stops_at_200_mb_grows_the_service_by_less_than_16_mb() {
    let mut daemon = Daemon::start(&[]).await;
    daemon.open(query("slow", "hello")).await.finish().await;
    let before = peak(daemon.id());

    let endpoint = Endpoint::from_shared(daemon.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut narrow = Client::new(endpoint.connect().await.expect("connected"));
    let mut request = query("slow", &script(&[&format!("frames {FRAMES} 10000")]));
    request.payload = Payload::Json.into();
    let stream = narrow.query(request).await.expect("taken").into_inner();
    // The next turn waits for the end of this one, which does not wait for its reader.
    let mut next = daemon.open(query("slow", "next")).await;
    next.finish().await;
    assert_eq!(next.result().result, "echo: next");
    let growth = peak(daemon.id()) - before;
    assert!(growth < 16 * MEGABYTE, "{growth} bytes");

    // Every event is still there.
    let mut turn = Turn::new(stream);
    turn.finish().await;
    assert!(matches!(turn.end, Some(Ok(()))), "{:?}", turn.end);
    let frames = turn.events.iter().filter(|event| event.json.len() > 9_000).count();
    assert_eq!(frames, FRAMES);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.ended().await.success());
}
