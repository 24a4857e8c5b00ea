//! What the gateway answers by itself, in the API's own form, so that a CLI tells it as it tells
//! any error of the API.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{
    body::{AnyBody, full},
    pacing::LONGEST_WAIT_OF_A_CLI,
};

/// Says to a CLI whether it has any use to ask again.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request is not passed on, or was not answered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// It shows no token, or that of a process that has ended.
    #[error("the token is of no process of this service that is alive")]
    Token,
    /// Its process has too many connections, or the connection is another one's.
    #[error("the process has too many connections, or shows the token of another")]
    Connections,
    /// It asks for something that processes have no use for.
    #[error(
        "{0} is not passed on: this gateway serves POST /v1/messages, POST /v1/messages/count_tokens and GET /v1/models"
    )]
    Path(String),
    /// Its tenant has no credential.
    #[error("no credential is configured for tenant {0}")]
    NoCredential(String),
    /// The credential cannot be read.
    #[error("the credential cannot be read at the moment")]
    Credential,
    /// The session has spent what it may.
    #[error("the session's budget (options.max_budget_usd) is spent: {0:.6} USD on this process")]
    Budget(f64),
    /// The tenant has spent what it may today.
    #[error("the tenant's budget of the day (policy.tenant_max_cost_usd_per_day) is spent")]
    Day,
    /// The tenant has used what it may in a minute.
    #[error("the tenant has used {limit} tokens in a minute (policy.tenant_max_tokens_per_minute)")]
    Tokens {
        /// So many are allowed.
        limit: u64,
        /// Until there is room again.
        wait: Duration,
    },
    /// The API takes no requests for this model for longer than one is held.
    #[error("the API takes no requests for {model} with this credential for {} seconds more", .wait.as_secs())]
    Limited {
        /// The model.
        model: String,
        /// For so long.
        wait: Duration,
    },
    /// The API could not be reached, or broke off.
    #[error("the API cannot be reached: {0}")]
    Upstream(String),
}

impl Refusal {
    /// The name of the kind, for figures and logs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Connections => "connections",
            Self::Path(_) => "path",
            Self::NoCredential(_) => "no_credential",
            Self::Credential => "credential",
            Self::Budget(_) => "budget",
            Self::Day => "day",
            Self::Tokens { .. } => "tokens",
            Self::Limited { .. } => "limited",
            Self::Upstream(_) => "upstream",
        }
    }

    /// The status, and the name that the API has for such an error.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Token => (StatusCode::UNAUTHORIZED, "authentication_error"),
            Self::Connections => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
            Self::Path(_) => (StatusCode::NOT_FOUND, "not_found_error"),
            Self::NoCredential(_) => (StatusCode::FORBIDDEN, "permission_error"),
            Self::Credential => (StatusCode::SERVICE_UNAVAILABLE, "api_error"),
            // A request that comes again costs no less: the CLI gives up on this one at once.
            Self::Budget(_) | Self::Day => (StatusCode::PAYMENT_REQUIRED, "billing_error"),
            Self::Tokens { .. } | Self::Limited { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error")
            }
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "api_error"),
        }
    }

    pub(super) fn answer(&self) -> Response<AnyBody> {
        let (status, kind) = self.kind();
        let error = json!({"type": kind, "message": self.to_string()});
        let text = json!({"type": "error", "error": error}).to_string();
        let mut response = Response::new(full(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Self::Tokens { wait, .. } | Self::Limited { wait, .. } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        if let Self::Limited { wait, .. } = self
            && *wait > LONGEST_WAIT_OF_A_CLI
        {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_of_hours_is_told_as_one_and_a_shorter_one_is_waited_for() {
        for (seconds, gives_up) in [(0, false), (130, false), (600, false), (7200, true)] {
            let wait = Duration::from_secs(seconds);
            let answer = Refusal::Limited { model: "m".into(), wait }.answer();
            assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
            let again: HeaderValue = (seconds + 1).into();
            assert_eq!(answer.headers().get(header::RETRY_AFTER), Some(&again));
            assert_eq!(answer.headers().contains_key(SHOULD_RETRY), gives_up, "{seconds}");
        }
    }
}
