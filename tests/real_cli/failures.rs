//! Failures of the API: retries and errors are events, and the session goes on.

use session_pool::proto::{ApiRetry, turn_event::Kind};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, kinds},
    support::{failure, turn::Turn},
};

each_version!(
    an_overloaded_api_is_tried_again,
    a_request_that_the_api_refuses,
    d9_credentials_that_the_api_refuses,
    a_connection_that_breaks,
);

fn retries(turn: &Turn) -> Vec<&ApiRetry> {
    let retries = kinds(turn).filter_map(|kind| match kind {
        Kind::System(system) if system.subtype == "api_retry" => system.api_retry.as_ref(),
        _ => None,
    });
    retries.collect()
}

async fn an_overloaded_api_is_tried_again(version: Version) {
    let bed = Bed::start(version).await;
    let turn = bed.query("a", "[[status 529 times 2]] [[say fine]]").await;
    assert_eq!(turn.result().result, "fine");
    assert!(!turn.result().is_error);
    let retries = retries(&turn);
    let attempts: Vec<u32> = retries.iter().map(|retry| retry.attempt).collect();
    assert_eq!(attempts, [1, 2]);
    for retry in retries {
        assert_eq!(retry.error_status, 529, "{retry:?}");
        // The CLI's own word; 2.1.110 has one for both.
        assert!(["overloaded", "rate_limit"].contains(&retry.error.as_str()), "{retry:?}");
        let delay = retry.retry_delay.expect("a delay");
        assert!(delay.seconds > 0 || delay.nanos > 0, "{retry:?}");
        assert!(retry.max_retries >= 2, "{retry:?}");
    }
    bed.stop().await;
}

async fn a_request_that_the_api_refuses(version: Version) {
    let bed = Bed::start(version).await;
    let turn = bed.query("a", "[[status 400]]").await;
    // The turn failed; the call did not.
    let result = turn.result();
    assert!(result.is_error && !result.interrupted, "{result:?}");
    assert_eq!(result.api_error_status, 400);
    assert!(result.result.contains("API Error"), "{result:?}");
    let marked = kinds(&turn).any(|kind| match kind {
        Kind::Assistant(message) => !message.error.is_empty(),
        _ => false,
    });
    assert!(marked, "no message says that it stands for a failure: {turn:?}");

    let next = bed.query("a", "hello").await;
    assert!(!next.result().is_error, "{:?}", next.result());
    assert!(next.result().result.starts_with("You said: \"hello\"."), "{:?}", next.result());
    assert_eq!(next.started().client_id, turn.started().client_id);
    bed.stop().await;
}

async fn d9_credentials_that_the_api_refuses(version: Version) {
    let bed = Bed::start(version).await;
    let began = tokio::time::Instant::now();
    let turn = bed.query("a", "[[status 401]]").await;
    failure(turn.error(), Code::FailedPrecondition, "CREDENTIALS_REFUSED");
    let statuses: Vec<u32> = retries(&turn).iter().map(|retry| retry.error_status).collect();
    assert_eq!(statuses, [401; 3]);
    // The CLI itself goes on for three minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());

    let next = bed.query("a", "hello").await;
    assert!(!next.result().is_error, "{:?}", next.result());
    bed.stop().await;
}

async fn a_connection_that_breaks(version: Version) {
    let bed = Bed::start(version).await;
    let turn = bed.query("a", "[[drop]] [[say fine]]").await;
    assert_eq!(turn.result().result, "fine");
    assert!(!turn.result().is_error);
    let asked = bed.api.requests_of(&turn.started().cli_session_id).len();
    assert!(asked >= 2, "asked {asked} times");
    bed.stop().await;
}
