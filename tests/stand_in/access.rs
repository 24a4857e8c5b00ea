//! Whom the API serves at the moment: the keys that are good, and outages that a test has ordered.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::attempts::Times;
use super::error::ApiError;
use super::record::RecordedRequest;

/// Keys and outages of one server.
#[derive(Debug, Default)]
pub struct Access {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: every key is good.
    keys: Option<HashSet<String>>,
    outage: Option<(ApiError, Times)>,
}

impl Access {
    /// Takes these keys and no others from now on.
    pub fn accept_only(&self, keys: &[&str]) {
        self.state().keys = Some(keys.iter().map(|key| (*key).to_owned()).collect());
    }

    /// Answers so many requests with `error`; it replaces an outage ordered before.
    pub fn refuse(&self, error: ApiError, times: Times) {
        self.state().outage = Some((error, times));
    }

    /// Whether a request is looked at, or what it gets instead.
    pub fn check(&self, request: &RecordedRequest) -> Result<(), ApiError> {
        let mut state = self.state();
        let key = key(request).ok_or_else(|| unauthorized("x-api-key header is required"))?;
        if state.keys.as_ref().is_some_and(|keys| !keys.contains(key)) {
            return Err(unauthorized("invalid x-api-key"));
        }
        match &mut state.outage {
            Some((error, Times::Forever)) => Err(error.clone()),
            Some((error, Times::Count(left @ 1..))) => {
                *left -= 1;
                Err(error.clone())
            }
            Some((_, Times::Count(0))) | None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError { message: message.to_owned(), ..ApiError::of_status(StatusCode::UNAUTHORIZED, None) }
}

/// The key of a request, from either header that may carry one.
fn key(request: &RecordedRequest) -> Option<&str> {
    let bearer = || request.header("authorization")?.strip_prefix("Bearer ");
    request.header("x-api-key").or_else(bearer).filter(|key| !key.is_empty())
}
