//! What the tests over gRPC share: a running service, a caller's view of a turn, the
//! processes that a service has, the events that it logs. Knows the service by its
//! contract and its configuration only.

#![allow(dead_code, reason = "each test program uses a part of this")]

pub mod authority;
pub mod collector;
pub mod cutting_proxy;
pub mod daemon;
pub mod follower;
pub mod log;
pub mod ports;
pub mod postgres;
pub mod processes;
pub mod service;
pub mod tools;
pub mod turn;

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

pub use ports::free_address;

/// `ErrorInfo.reason` of an error; empty without one.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Checks the code, the reason and the domain of an error; returns its metadata.
#[track_caller]
pub fn failure(status: &Status, code: Code, wanted: &str) -> HashMap<String, String> {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    let found = (status.code(), info.reason.as_str(), info.domain.as_str());
    assert_eq!(found, (code, wanted, "sessionpool.v1"), "{status:?}");
    info.metadata.clone()
}

/// How soon an error says that a retry makes sense.
pub fn retry_after(status: &Status) -> Option<std::time::Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

/// One entry of `ErrorInfo.metadata`.
pub fn metadata(status: &Status, key: &str) -> Option<String> {
    status.get_error_details().error_info()?.metadata.get(key).cloned()
}

/// The fields that `BadRequest` names.
pub fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let request = details.bad_request().map(|bad| bad.field_violations.clone());
    request.unwrap_or_default().into_iter().map(|violation| violation.field).collect()
}

/// How long a test waits for what has to come, before it takes it for lost. It costs nothing where it
/// comes, and a machine that others use may stand still for many seconds.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Waits until `probe` gives something; fails the test after [`PATIENCE`]. For what no
/// event announces, such as the end of somebody else's process.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let what = what.to_owned();
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "{caller}: never came: {what}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
