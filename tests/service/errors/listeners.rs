//! Listeners that come or read too late for what a turn's log keeps.

use session_pool::proto::{
    DisconnectPolicy, QueryRequest, session_pool_service_client::SessionPoolServiceClient,
};
use tonic::{Code, transport::Endpoint};

use crate::support::{
    eventually, failure,
    service::{Service, query, script},
    turn::Turn,
};

/// A caller whose HTTP/2 windows are small, so that what it does not read stays with
/// the service.
async fn narrow(service: &Service) -> SessionPoolServiceClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    SessionPoolServiceClient::new(endpoint.connect().await.expect("connected"))
}

#[tokio::test]
async fn a_listener_that_falls_behind_the_log_is_told() {
    let service = Service::start(|config| {
        config.pool.turn_buffer_bytes = 100_000;
        config.pool.turn_spill_bytes = 0;
    })
    .await;
    let request = QueryRequest {
        on_disconnect: DisconnectPolicy::Continue.into(),
        ..query("a", &script(&["frames 5000 2000"]))
    };
    let stream = narrow(&service).await.query(request).await.expect("taken");
    eventually("the turn has ended", async || {
        let counters = service.stats().await.counters.expect("counters");
        (counters.turns_completed == 1).then_some(())
    })
    .await;
    let mut turn = Turn::new(stream.into_inner());
    turn.finish().await;
    assert!(!turn.events.is_empty() && turn.events.len() < 5000, "{}", turn.events.len());
    let metadata = failure(turn.error(), Code::DataLoss, "LISTENER_TOO_SLOW");
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(metadata["turn_id"], turn.started().turn_id);
    let first_kept: usize = metadata["limit"].parse().expect("a sequence");
    assert!(first_kept > turn.events.len(), "{first_kept}");

    // The turn did not suffer; what is kept of it can still be had.
    let expired = service.attach("a", "", 2).await.expect_err("expired");
    let first_kept: u64 = crate::support::metadata(&expired, "limit")
        .and_then(|limit| limit.parse().ok())
        .expect("a sequence");
    assert!(first_kept > 4000, "{first_kept}");
    let mut rest = service.attach("a", "", first_kept).await.expect("kept");
    rest.finish().await;
    assert_eq!(rest.result().result, "000000005000");
    service.stop().await;
}

#[tokio::test]
async fn a_sequence_that_is_no_longer_kept_has_expired() {
    let service = Service::start(|config| {
        config.pool.turn_buffer_bytes = 100_000;
        config.pool.turn_spill_bytes = 0;
    })
    .await;
    let mut turn = service.open(query("a", &script(&["frames 500 2000"]))).await.expect("taken");
    turn.finish().await;
    // The caller may have lost its place before the turn had ended.
    crate::support::eventually("the turn has ended", async || {
        let session = service.session("a").await.expect("there");
        session.running_turn_id.is_empty().then_some(())
    })
    .await;
    for from in [0, 1, 2, 100] {
        let status = service.attach("a", "", from).await.expect_err("expired");
        let metadata = failure(&status, Code::OutOfRange, "EVENTS_EXPIRED");
        assert_eq!(metadata["session_id"], "a");
        assert!(metadata.contains_key("turn_id"), "{metadata:?}");
        let first_kept: u64 = metadata["limit"].parse().expect("a sequence");
        let mut kept = service.attach("a", "", first_kept).await.expect("kept");
        assert_eq!(kept.next().await.expect("an event").sequence, first_kept);
    }
    service.stop().await;
}
