//! The one place where a failure becomes a gRPC status: code, `ErrorInfo` with reason
//! and metadata, `BadRequest` for fields, `RetryInfo` where waiting helps.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    auth::Refusal,
    cli::process::Exit,
    failure::{Cause, Failure},
};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "sessionpool.v1";

/// What a message may carry of texts from outside; header lists are short.
const LONGEST_TAIL: usize = 1500;

/// A request that its bounds or the policy refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Fields out of bounds, all of them.
    Invalid(Vec<Violation>),
    /// Fields that the policy does not allow, all of them; each says what is allowed.
    Denied(Vec<Violation>),
}

/// A field out of bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path.
    pub field: String,
    /// What is wrong: the value and the bound.
    pub description: String,
}

/// Code, reason, and how soon a retry makes sense.
fn classify(cause: &Cause) -> (Code, &'static str, Option<Duration>) {
    let soon = Some(Duration::from_secs(1));
    match cause {
        Cause::PoolDisabled => (Code::FailedPrecondition, "POOL_DISABLED", None),
        Cause::PoolAtCapacity { .. } => {
            (Code::ResourceExhausted, "POOL_AT_CAPACITY", Some(Duration::from_secs(10)))
        }
        Cause::NoProcess { .. } => (Code::ResourceExhausted, "POOL_AT_CAPACITY", soon),
        Cause::TenantQuota { retry, .. } => {
            (Code::ResourceExhausted, "TENANT_QUOTA_EXCEEDED", Some(*retry))
        }
        Cause::QueueFull { .. } => (Code::ResourceExhausted, "QUEUE_FULL", soon),
        Cause::TooManyListeners { .. } => (Code::ResourceExhausted, "QUEUE_FULL", soon),
        Cause::SessionBusy => (Code::Aborted, "SESSION_BUSY", soon),
        Cause::OptionsMismatch { .. } => (Code::FailedPrecondition, "OPTIONS_MISMATCH", None),
        Cause::NotAllowed { .. } => (Code::PermissionDenied, "POLICY_DENIED", None),
        Cause::ConversationNotFound { .. } => (Code::InvalidArgument, "INVALID_ARGUMENT", None),
        Cause::SessionNotFound => (Code::NotFound, "SESSION_NOT_FOUND", None),
        Cause::TurnNotFound => (Code::NotFound, "TURN_NOT_FOUND", None),
        Cause::PromptNotFound { .. } => (Code::NotFound, "PROMPT_NOT_FOUND", None),
        Cause::CliNotFound { .. } => (Code::FailedPrecondition, "CLI_NOT_FOUND", None),
        Cause::ConnectFailed { .. } => (Code::Unavailable, "CONNECT_FAILED", soon),
        Cause::FirstChunkTimeout { .. } => (Code::DeadlineExceeded, "FIRST_CHUNK_TIMEOUT", None),
        Cause::StreamStalled { .. } => (Code::DeadlineExceeded, "STREAM_STALLED", None),
        Cause::TurnInterrupted => (Code::Cancelled, "TURN_INTERRUPTED", None),
        Cause::CliExited { .. } => (Code::Unavailable, "CLI_EXITED", None),
        Cause::MemoryLimit { .. } => (Code::ResourceExhausted, "MEMORY_LIMIT", None),
        Cause::FrameTooLarge { .. } => (Code::Internal, "FRAME_TOO_LARGE", None),
        Cause::Protocol { .. } => (Code::Internal, "PROTOCOL_ERROR", None),
        Cause::ListenerTooSlow { .. } => (Code::DataLoss, "LISTENER_TOO_SLOW", None),
        Cause::EventsExpired { .. } => (Code::OutOfRange, "EVENTS_EXPIRED", None),
        Cause::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN", soon),
        Cause::Internal { .. } => (Code::Internal, "INTERNAL", None),
    }
}

/// The status of a failure.
pub fn of_failure(failure: &Failure) -> Status {
    let (code, reason, retry) = classify(&failure.cause);
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata(failure));
    if let Some(delay) = retry {
        details.set_retry_info(Some(delay));
    }
    if let Some(violation) = violation(&failure.cause) {
        details.set_bad_request(vec![violation]);
    }
    Status::with_error_details(code, failure.to_string(), details)
}

/// The status of a rejected request.
pub fn of_rejection(rejection: &Rejection) -> Status {
    let (code, reason, violations) = match rejection {
        Rejection::Invalid(violations) => (Code::InvalidArgument, "INVALID_ARGUMENT", violations),
        Rejection::Denied(violations) => (Code::PermissionDenied, "POLICY_DENIED", violations),
    };
    let denied = matches!(rejection, Rejection::Denied(_));
    let joined = |part: fn(&Violation) -> &str, by: &str| {
        violations.iter().map(part).collect::<Vec<_>>().join(by)
    };
    let mut metadata =
        HashMap::from([("field".to_owned(), joined(|violation| &violation.field, ","))]);
    if denied {
        metadata.insert("limit".to_owned(), joined(|violation| &violation.description, "; "));
    }
    let fields = violations.iter().map(|v| FieldViolation::new(&v.field, &v.description));
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata);
    details.set_bad_request(fields.collect::<Vec<_>>());
    let link = if denied { " is not allowed by the server's policy; allowed: " } else { " " };
    let described: Vec<String> =
        violations.iter().map(|v| format!("{}{link}{}", v.field, v.description)).collect();
    Status::with_error_details(code, described.join("; "), details)
}

/// The status of a call whose caller is not let in.
pub fn unauthenticated(refusal: Refusal) -> Status {
    let mut details = ErrorDetails::new();
    let metadata = HashMap::from([("field".to_owned(), "authorization".to_owned())]);
    details.set_error_info("UNAUTHENTICATED", DOMAIN, metadata);
    Status::with_error_details(Code::Unauthenticated, refusal.to_string(), details)
}

/// The status of a call whose own deadline passed.
pub fn deadline_passed() -> Status {
    Status::deadline_exceeded("the call's deadline (grpc-timeout) passed")
}

fn violation(cause: &Cause) -> Option<FieldViolation> {
    match cause {
        Cause::ConversationNotFound { resume } => Some(FieldViolation::new(
            "options.resume",
            format!("names no conversation that can be resumed: {resume}"),
        )),
        _ => None,
    }
}

fn metadata(failure: &Failure) -> HashMap<String, String> {
    let mut metadata = HashMap::new();
    let mut put = |key: &str, value: String| {
        metadata.insert(key.to_owned(), value);
    };
    if let Some(id) = &failure.session_id {
        put("session_id", id.to_string());
    }
    if let Some(id) = &failure.turn_id {
        put("turn_id", id.to_string());
    }
    if let Some(id) = &failure.client_id {
        put("client_id", id.to_string());
    }
    match &failure.cause {
        Cause::ConnectFailed { exit, stderr_tail, .. } => {
            exit.iter().for_each(|exit| put_exit(&mut put, *exit));
            put("stderr_tail", tail(stderr_tail));
        }
        Cause::CliExited { exit, stderr_tail, tool_use_seen } => {
            put_exit(&mut put, *exit);
            put("stderr_tail", tail(stderr_tail));
            put("tool_use_seen", tool_use_seen.to_string());
        }
        Cause::MemoryLimit { limit, used, tool_use_seen } => {
            put("limit", limit.to_string());
            put("used", used.to_string());
            put("tool_use_seen", tool_use_seen.to_string());
        }
        Cause::OptionsMismatch { options, .. } => put("options", options.join(",")),
        Cause::TenantQuota { key, limit, .. } => {
            put("field", (*key).to_owned());
            put("limit", limit.clone());
        }
        Cause::PoolAtCapacity { limit }
        | Cause::NoProcess { limit, .. }
        | Cause::QueueFull { limit }
        | Cause::TooManyListeners { limit }
        | Cause::FrameTooLarge { limit } => put("limit", limit.to_string()),
        Cause::FirstChunkTimeout { limit } | Cause::StreamStalled { limit } => {
            put("limit", format!("{limit:?}"));
        }
        Cause::ListenerTooSlow { first_kept } | Cause::EventsExpired { first_kept } => {
            put("limit", first_kept.to_string());
        }
        Cause::NotAllowed { field, allowed } => {
            put("field", field.clone());
            put("limit", allowed.clone());
        }
        Cause::ConversationNotFound { .. } => put("field", "options.resume".to_owned()),
        Cause::PromptNotFound { .. } => put("field", "prompt_id".to_owned()),
        Cause::PoolDisabled
        | Cause::SessionBusy
        | Cause::SessionNotFound
        | Cause::TurnNotFound
        | Cause::CliNotFound { .. }
        | Cause::TurnInterrupted
        | Cause::Protocol { .. }
        | Cause::ShuttingDown
        | Cause::Internal { .. } => {}
    }
    metadata
}

fn put_exit(put: &mut impl FnMut(&str, String), exit: Exit) {
    match exit {
        Exit::Code(code) => put("exit_code", code.to_string()),
        Exit::Signal(signal) => put("signal", signal.to_string()),
        Exit::Unknown => {}
    }
}

fn tail(text: &str) -> String {
    let start = text.len().saturating_sub(LONGEST_TAIL);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn an_error_says_reason_and_whom_it_concerns() {
        let session = SessionId::parse("s").expect("a name");
        let failure = Failure::from(Cause::CliExited {
            exit: Exit::Signal(9),
            stderr_tail: "é".repeat(2000),
            tool_use_seen: true,
        })
        .concerning(Some(&session), None);
        let status = of_failure(&failure);
        assert_eq!(status.code(), Code::Unavailable);
        let details = status.get_error_details();
        let info = details.error_info().expect("always there");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("CLI_EXITED", DOMAIN));
        assert_eq!(info.metadata["session_id"], "s");
        assert_eq!(info.metadata["signal"], "9");
        assert_eq!(info.metadata["tool_use_seen"], "true");
        assert!(info.metadata["stderr_tail"].len() <= LONGEST_TAIL);
    }

    #[test]
    fn every_violation_is_listed_at_once() {
        let violation =
            |field: &str| Violation { field: field.into(), description: "is bad".into() };
        let status = of_rejection(&Rejection::Invalid(vec![violation("a"), violation("b")]));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("there").field_violations.len(), 2);
        assert_eq!(status.message(), "a is bad; b is bad");
    }
}
