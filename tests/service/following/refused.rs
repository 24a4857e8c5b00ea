//! What cannot be followed, and from where.

use std::time::Duration;

use session_pool::proto::WatchSessionRequest;
use tonic::{Code, Request, metadata::MetadataValue};

use crate::support::{
    eventually, failure, fields,
    follower::{Follower, from, from_start, of},
    metadata,
    service::Service,
};

async fn refused(service: &Service, request: WatchSessionRequest) -> tonic::Status {
    Follower::open(&service.client, request).await.err().expect("refused")
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_their_fields() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let cursor = follower.cursor();
    let of_other_session = from("b", &cursor);
    let with_pieces = WatchSessionRequest { include_partial_messages: true, ..from("a", &cursor) };
    let both = WatchSessionRequest { from_start: true, ..from("a", &cursor) };
    let cut = from("a", &cursor[1..]);
    let mut changed = cursor.clone().into_bytes();
    changed[20] ^= 1;
    let changed = from("a", &String::from_utf8(changed).expect("ASCII"));
    for (request, field) in [
        (of(""), "session_id"),
        (of("a/b"), "session_id"),
        (from("a", "now"), "cursor"),
        (from("a", &"x".repeat(100_000)), "cursor"),
        (cut, "cursor"),
        (changed, "cursor"),
        (of_other_session, "cursor"),
        (with_pieces, "include_partial_messages"),
        (both, "from_start"),
        (WatchSessionRequest { payload: 17, ..of("a") }, "payload"),
    ] {
        let status = refused(&service, request).await;
        failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(fields(&status), [field]);
    }
    let mut request = Request::new(of("a"));
    request.metadata_mut().insert("session-id", MetadataValue::from_static("b"));
    let status = service.client.clone().watch_session(request).await.expect_err("refused");
    failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_is_not_in_the_pool_cannot_be_followed() {
    let service = Service::start(|_| {}).await;
    let status = refused(&service, of("nowhere")).await;
    let told = failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
    assert_eq!(told["session_id"], "nowhere");
    service.query("a", "hello").await.result();
    service.close("a", false).await.expect("closed");
    failure(&refused(&service, of("a")).await, Code::NotFound, "SESSION_NOT_FOUND");
    // A new one under its name has nothing to do with what was told of it.
    service.query("a", "again").await.result();
    assert!(Follower::open(&service.client, of("a")).await.is_ok());
    service.stop().await;
}

#[tokio::test]
async fn a_cursor_behind_which_something_has_gone_is_refused_with_the_first_that_is_kept() {
    let service =
        Service::start(|config| config.pool.turn_retention = Duration::from_millis(300)).await;
    service.query("a", "first").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let cursor = follower.cursor();
    service.query("a", "second").await.result();
    let status = eventually("the second turn is not kept", async || {
        Follower::open(&service.client, from("a", &cursor)).await.err()
    })
    .await;
    let told = failure(&status, Code::OutOfRange, "EVENTS_EXPIRED");
    assert_eq!((told["session_id"].as_str(), told["field"].as_str()), ("a", "cursor"));
    let third = service.query("a", "third").await;
    let kept = metadata(&status, "limit").expect("a cursor");
    let mut again = Follower::open(&service.client, from("a", &kept)).await.expect("kept");
    again.until_live().await;
    assert_eq!(again.turns(), [third.started().turn_id.clone()]);
    assert_eq!(again.gaps(), []);
    let mut start = Follower::open(&service.client, from_start("a")).await.expect("taken");
    start.until_live().await;
    assert_eq!(start.of_turn(&third.started().turn_id), third.events);
    service.stop().await;
}

#[tokio::test]
async fn the_callers_deadline_ends_it() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut request = Request::new(of("a"));
    request.set_timeout(Duration::from_millis(300));
    let stream = service.client.clone().watch_session(request).await.expect("taken");
    let mut stream = stream.into_inner();
    let status = loop {
        match stream.message().await {
            Ok(response) => assert!(response.is_some(), "it does not end well"),
            Err(status) => break status,
        }
    };
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    service.stop().await;
}
