//! The caller's deadline counts, although the CLI is silent.

use std::time::Duration;

use session_pool::proto::{
    DisconnectPolicy, QueryRequest, QueryResponse,
    session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::Instant;
use tonic::{Code, Request, Streaming, transport::Endpoint};

use crate::support::{
    eventually, failure,
    service::{Service, query, script},
    turn::Turn,
};

const DEADLINE: Duration = Duration::from_millis(400);

async fn open_with_deadline(service: &Service, request: QueryRequest) -> Turn {
    let mut request = Request::new(request);
    request.set_timeout(DEADLINE);
    Turn::new(service.client.clone().query(request).await.expect("taken").into_inner())
}

#[tokio::test]
async fn at_the_deadline_a_silent_turn_is_interrupted_at_once() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let began = Instant::now();
    let mut turn = open_with_deadline(&service, query("a", &script(&["say word", "hang"]))).await;
    turn.finish().await;
    failure(turn.error(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(turn.text(), "word");
    eventually("the turn is over", async || {
        let session = service.session("a").await.expect("there");
        session.running_turn_id.is_empty().then_some(())
    })
    .await;
    let took = began.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE * 8, "{took:?}");
    assert_eq!(service.stats().await.counters.expect("counters").interrupted, 1);
    let next = service.query("a", "next").await;
    assert_eq!(next.text(), "echo: next");
    assert_eq!(next.started().client_id, turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn a_queued_turn_whose_deadline_passes_is_dropped() {
    let service = Service::start(|_| {}).await;
    let mut running =
        service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    running.until_text("word").await;
    let mut queued = open_with_deadline(&service, query("a", "never run")).await;
    queued.finish().await;
    assert_eq!(queued.error().code(), Code::DeadlineExceeded);
    assert!(queued.events.is_empty());
    eventually("it has left the queue", async || {
        let session = service.session("a").await.expect("there");
        (session.queued_turns == 0).then_some(())
    })
    .await;
    service.interrupt("a", true).await;
    running.finish().await;
    assert_eq!(service.query("a", "next").await.text(), "echo: next");
    assert_eq!(service.stats().await.total_messages, 2);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_is_to_continue_goes_on_past_the_deadline() {
    let service = Service::start(|_| {}).await;
    let request = QueryRequest {
        on_disconnect: DisconnectPolicy::Continue.into(),
        turn_id: "goes-on".into(),
        ..query("a", &script(&["say word", "sleep 800", "say end"]))
    };
    let mut turn = open_with_deadline(&service, request).await;
    turn.finish().await;
    assert_eq!(turn.error().code(), Code::DeadlineExceeded);
    let mut joined = service.attach("a", "goes-on", 0).await.expect("it runs");
    joined.finish().await;
    assert_eq!(joined.result().result, "end");
    assert!(!joined.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_in_time_does_not_notice_its_deadline() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut turn = open_with_deadline(&service, query("a", "hello")).await;
    turn.finish().await;
    assert_eq!(turn.result().result, "echo: hello");
    service.stop().await;
}

/// A call whose caller has HTTP/2's smallest usual windows and does not read its stream. Its
/// deadline is in a header and not in the client, which then does not reset the stream.
async fn unread(service: &Service, request: QueryRequest) -> Streaming<QueryResponse> {
    let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let channel = endpoint.connect().await.expect("connected");
    let mut request = Request::new(request);
    let timeout = format!("{}m", DEADLINE.as_millis());
    request.metadata_mut().insert("grpc-timeout", timeout.parse().expect("a value"));
    Client::new(channel).query(request).await.expect("taken").into_inner()
}

async fn has_no_turn(service: &Service, session: &str) {
    eventually("the turn is over", async || {
        let session = service.session(session).await.expect("there");
        (session.running_turn_id.is_empty() && session.queued_turns == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c5_at_the_deadline_a_turn_is_interrupted_although_its_caller_does_not_read() {
    let service = Service::start(|config| config.policy.tenant_max_streams = 1).await;
    service.query("a", "hello").await.result();
    let began = Instant::now();
    let prompt = script(&["frames 500 2000", "hang"]);
    let stream = unread(&service, query("a", &prompt)).await;
    has_no_turn(&service, "a").await;
    let took = began.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE * 10, "{took:?}");
    assert_eq!(service.stats().await.counters.expect("counters").interrupted, 1);
    // Its place among the tenant's streams is free, although the stream is still there.
    assert_eq!(service.query("a", "next").await.text(), "echo: next");
    let mut turn = Turn::new(stream);
    turn.finish().await;
    assert_eq!(turn.error().code(), Code::DeadlineExceeded);
    assert!(turn.events.len() < 500, "{} events", turn.events.len());
    service.stop().await;
}

#[tokio::test]
async fn c5_a_caller_that_leaves_without_having_read_is_noticed() {
    let service = Service::start(|_| {}).await;
    let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut narrow = Client::new(endpoint.connect().await.expect("connected"));
    let prompt = script(&["frames 500 2000", "hang"]);
    let stream = narrow.query(query("a", &prompt)).await.expect("taken");
    eventually("the CLI has printed all", async || {
        let counters = service.stats().await.counters.expect("counters");
        (counters.frames >= 500).then_some(())
    })
    .await;
    // The stream is reset; the connection stays.
    drop(stream);
    has_no_turn(&service, "a").await;
    assert_eq!(service.stats().await.counters.expect("counters").interrupted, 1);
    service.stop().await;
}

#[tokio::test]
async fn c5_the_deadline_of_a_joined_stream_ends_only_that_stream() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say word", "sleep 1200", "say end"]);
    let mut running = service.open(query("a", &prompt)).await.expect("taken");
    running.until_text("word").await;
    let mut request = Request::new(session_pool::proto::AttachRequest {
        session_id: "a".into(),
        ..session_pool::proto::AttachRequest::default()
    });
    request.set_timeout(DEADLINE);
    let joined = service.client.clone().attach(request).await.expect("joined");
    let mut joined = Turn::attached(joined.into_inner());
    joined.finish().await;
    assert_eq!(joined.error().code(), Code::DeadlineExceeded);
    running.finish().await;
    assert_eq!(running.result().result, "end");
    service.stop().await;
}
