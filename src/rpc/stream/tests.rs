//! How a stream ends, and what travels in parts.

use tokio::sync::Notify;
use tokio_stream::StreamExt as _;

use super::*;
use crate::{
    domain::{
        failure::Cause,
        ids::{CliSessionId, ClientId, TenantId, TurnId},
    },
    measures::Measures,
    tenant::{Quotas, Tenant},
    turn::{
        event::{Class, Partials, ProcessOrigin, Started},
        log::TurnLog,
        storage::Storage,
    },
};

/// A turn, and what is told when nobody listens to it any more.
fn turn() -> (TurnLog, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let storage = Storage::in_memory(1 << 20);
    let accounts = storage.accounts(&TenantId::default());
    (
        storage.log(
            TurnId::fresh(),
            &accounts,
            Arc::clone(&gone),
            tracing::Span::none(),
            crate::traces::TurnTrace::default(),
        ),
        gone,
    )
}

fn until(log: &TurnLog, share: Share, at: Instant) -> EventStream<proto::QueryResponse> {
    let listener = log.listen(2, Partials::Hidden).expect("room");
    EventStream::new(listener, share, None, Payload::Json, Some(at))
}

#[tokio::test(start_paused = true)]
async fn c5_a_deadline_passes_although_nobody_polls_the_stream() {
    let (log, gone) = turn();
    let quotas = Quotas { streams: Some(1), ..Quotas::default() };
    let tenant = Tenant::new(TenantId::default(), quotas, &Measures::default());
    let share = tenant.open_stream().expect("the only one");
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut stream = until(&log, share, deadline);
    gone.notified().await;
    assert_eq!(Instant::now(), deadline, "the listener leaves at the deadline");
    assert_eq!(log.listeners(), 0);
    assert!(tenant.open_stream().is_ok(), "its share is free again");
    // Whoever reads on is told, and then the stream has ended.
    let status = stream.next().await.expect("an end").expect_err("a deadline");
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn c5_a_deadline_passes_in_the_middle_of_what_is_not_sent_yet() {
    let (log, gone) = turn();
    log.start(Started {
        session_id: SessionId::anonymous(),
        turn_id: log.id().clone(),
        client_id: ClientId::fresh(),
        cli_session_id: CliSessionId::fresh(),
        origin: ProcessOrigin::Created,
        queued_for: Duration::ZERO,
        connect_time: Duration::ZERO,
        start_time: std::time::SystemTime::UNIX_EPOCH,
        background: false,
    });
    log.append((0..9).map(|_| (Class::Other, Bytes::from_static(b"{}"))));
    let mut stream = until(&log, Share::default(), Instant::now() + Duration::from_secs(2));
    assert!(stream.next().await.expect("an event").is_ok());
    gone.notified().await;
    let status = stream.next().await.expect("an end").expect_err("a deadline");
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn c5_a_stream_that_waits_is_woken_at_its_deadline() {
    let (log, _gone) = turn();
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut stream = until(&log, Share::default(), deadline);
    let status = stream.next().await.expect("an end").expect_err("a deadline");
    assert_eq!((status.code(), Instant::now()), (tonic::Code::DeadlineExceeded, deadline));
}

#[tokio::test(start_paused = true)]
async fn c5_a_turn_that_ended_in_time_ends_well_after_the_deadline_too() {
    let (log, _gone) = turn();
    assert!(log.end(Ok(())));
    let mut stream = until(&log, Share::default(), Instant::now() + Duration::from_secs(2));
    assert!(stream.next().await.is_none());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(stream.next().await.is_none());
}

/// How a stream ends whose first turn failed and whose second did not.
async fn end_after_a_failure(brings_own_turn: bool) -> Option<Result<(), tonic::Code>> {
    let ((first, gone), (second, _)) = (turn(), turn());
    let (following, mut follow) = Follow::channel(gone);
    if brings_own_turn {
        follow = follow.bringing_own_turn();
    }
    let listener = first.listen(1, Partials::Hidden).expect("room").followed_by(Some(follow));
    let mut stream = EventStream::<proto::QueryResponse>::new(
        listener,
        Share::default(),
        None,
        Payload::Json,
        None,
    );
    let lost = Cause::StoreUnavailable { detail: "no room".into() };
    assert!(first.end(Err(lost.into())) && second.end(Ok(())));
    assert!(following.send(second.listen(1, Partials::Hidden)));
    drop(following);
    let end = stream.next().await;
    end.map(|end| end.map(drop).map_err(|status| status.code()))
}

#[tokio::test]
async fn what_comes_behind_a_turn_does_not_hide_that_it_failed() {
    assert_eq!(end_after_a_failure(false).await, Some(Err(tonic::Code::Unavailable)));
    assert_eq!(end_after_a_failure(true).await, None, "the first was another's");
}

#[test]
fn a_large_event_is_the_sum_of_its_parts() {
    let event =
        proto::TurnEvent { sequence: 7, kind: None, json: "x".repeat(2 * LARGEST_EVENT + 5) };
    let rest = event.encode_to_vec().into();
    let mut all = Parts { sequence: 7, index: 0, rest, _held: None };
    let mut parts = vec![all.next()];
    while parts.last().is_some_and(|part| !part.last) {
        parts.push(all.next());
    }
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| part.data.len() <= LARGEST_EVENT && part.sequence == 7));
    assert_eq!(parts.iter().map(|part| part.last).collect::<Vec<_>>(), [false, false, true]);
    let whole: Vec<u8> = parts.into_iter().flat_map(|part| part.data).collect();
    assert_eq!(proto::TurnEvent::decode(whole.as_slice()).expect("decodes"), event);
}
