//! The one place where a failure becomes a gRPC status: code, `ErrorInfo` with reason
//! and metadata, `BadRequest` for fields, `RetryInfo` where waiting helps. `report` keeps all
//! of it small enough for the trailers that clients accept.

#![deny(clippy::wildcard_enum_match_arm)]

mod foreign;
mod report;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::FieldViolation;

use super::deadline::TIMEOUT_KEY;
use crate::{
    access::AuthError,
    domain::{
        exit::Exit,
        failure::{Cause, Failure},
    },
};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "sessionpool.v1";

pub use foreign::complete;
pub use report::bound_trailers;
use report::{Report, Text};

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

/// The key of what a process printed last.
const STDERR_TAIL: &str = "stderr_tail";

/// Code, and how soon a retry makes sense.
fn classify(cause: &Cause) -> (Code, Option<Duration>) {
    let soon = Some(Duration::from_secs(1));
    match cause {
        Cause::PoolDisabled => (Code::FailedPrecondition, None),
        Cause::PoolAtCapacity { .. } => (Code::ResourceExhausted, Some(Duration::from_secs(10))),
        Cause::NoProcess { .. } => (Code::ResourceExhausted, soon),
        Cause::TenantQuota { retry, .. } => (Code::ResourceExhausted, Some(*retry)),
        Cause::MemoryBudget { .. } => (Code::ResourceExhausted, soon),
        Cause::QueueFull { .. } => (Code::ResourceExhausted, soon),
        Cause::TooManyListeners { .. } => (Code::ResourceExhausted, soon),
        Cause::SessionBusy => (Code::Aborted, soon),
        Cause::OptionsMismatch { .. } => (Code::FailedPrecondition, None),
        Cause::NotAllowed { .. } => (Code::PermissionDenied, None),
        Cause::ConversationNotFound { .. } => (Code::InvalidArgument, None),
        Cause::BudgetExhausted { .. } => (Code::FailedPrecondition, None),
        Cause::SessionConflict { .. } => (Code::FailedPrecondition, None),
        Cause::SessionMoved { .. } => (Code::Unavailable, soon),
        Cause::SessionNotFound => (Code::NotFound, None),
        Cause::TurnNotFound => (Code::NotFound, None),
        Cause::PromptNotFound { .. } | Cause::TaskNotFound { .. } => (Code::NotFound, None),
        Cause::BackgroundTimeout { .. } => (Code::DeadlineExceeded, None),
        Cause::InvalidAnswer { .. } => (Code::InvalidArgument, None),
        Cause::CliNotFound { .. } => (Code::FailedPrecondition, None),
        Cause::ConnectFailed { .. } => (Code::Unavailable, soon),
        Cause::FirstChunkTimeout { .. } => (Code::DeadlineExceeded, None),
        Cause::CredentialsRefused { .. } => (Code::FailedPrecondition, None),
        Cause::StreamStalled { .. } => (Code::DeadlineExceeded, None),
        Cause::TurnInterrupted => (Code::Cancelled, None),
        Cause::CliExited { .. } => (Code::Unavailable, None),
        Cause::HoldsTooMuch { .. } => (Code::ResourceExhausted, None),
        Cause::FrameTooLarge { .. } => (Code::Internal, None),
        Cause::Protocol { .. } => (Code::Internal, None),
        Cause::ListenerTooSlow { .. } => (Code::DataLoss, None),
        Cause::EventsExpired { .. } | Cause::CursorExpired { .. } => (Code::OutOfRange, None),
        // It may be a backup that ends soon, or a disk that an operator has to make room on.
        Cause::StoreUnavailable { .. } => (Code::Unavailable, Some(Duration::from_secs(5))),
        Cause::ShuttingDown | Cause::EndedByShutdown { .. } => (Code::Unavailable, soon),
        Cause::Internal { .. } => (Code::Internal, None),
    }
}

/// The status of a failure.
pub fn of_failure(failure: &Failure) -> Status {
    let (code, retry) = classify(&failure.cause);
    let reason = failure.cause.reason();
    let message = Text::Start(failure.to_string());
    let violations = violation(&failure.cause).into_iter().collect();
    let report = Report { code, reason, message, metadata: metadata(failure), violations, retry };
    report.status()
}

/// The status of a rejected request.
pub fn of_rejection(rejection: &Rejection) -> Status {
    let (code, reason, violations) = match rejection {
        Rejection::Invalid(violations) => (Code::InvalidArgument, "INVALID_ARGUMENT", violations),
        Rejection::Denied(violations) => (Code::PermissionDenied, "POLICY_DENIED", violations),
    };
    let fields = violations.iter().map(|violation| violation.field.clone()).collect();
    let mut metadata = vec![("field", Text::List { entries: fields, separator: "," })];
    let message = match rejection {
        Rejection::Invalid(_) => {
            violations.iter().map(|v| format!("{} {}", v.field, v.description)).collect()
        }
        Rejection::Denied(_) => {
            let allowed = allowances(violations);
            let entries = allowed.iter().map(|(allowed, _)| (*allowed).to_owned()).collect();
            metadata.push(("limit", Text::List { entries, separator: "; " }));
            allowed.into_iter().map(|(allowed, fields)| denied(&fields, allowed)).collect()
        }
    };
    let message = Text::List { entries: message, separator: "; " };
    let violations = field_violations(violations, matches!(rejection, Rejection::Denied(_)));
    Report { code, reason, message, metadata, violations, retry: None }.status()
}

/// What is allowed, each once and in the order of its first field, and for which fields.
fn allowances(violations: &[Violation]) -> Vec<(&str, Vec<&str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for Violation { field, description } in violations {
        match all.iter_mut().find(|(allowed, _)| allowed == description) {
            Some((_, fields)) => fields.push(field),
            None => all.push((description, vec![field])),
        }
    }
    all
}

/// Fields in a message that have one allowance in common.
const FIELDS_NAMED: usize = 3;

fn denied(fields: &[&str], allowed: &str) -> String {
    let named = fields.iter().take(FIELDS_NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = match fields.len().saturating_sub(FIELDS_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if fields.len() == 1 { "is" } else { "are" };
    format!("{named}{more} {verb} not allowed by the server's policy; allowed: {allowed}")
}

/// What is allowed is told for the first of the fields that have it in common.
fn field_violations(violations: &[Violation], denied: bool) -> Vec<FieldViolation> {
    let mut told: Vec<&Violation> = Vec::new();
    let mut described = Vec::with_capacity(violations.len());
    for violation in violations {
        let earlier =
            told.iter().find(|first| denied && first.description == violation.description);
        let description = match earlier {
            Some(first) => format!("allowed: as for {}", first.field),
            None => {
                told.push(violation);
                violation.description.clone()
            }
        };
        described.push(FieldViolation::new(&violation.field, description));
    }
    described
}

/// The status of a call whose caller is not let in.
pub fn unauthenticated(refusal: AuthError) -> Status {
    let report = Report {
        code: Code::Unauthenticated,
        reason: "UNAUTHENTICATED",
        message: Text::Start(refusal.to_string()),
        metadata: vec![("field", Text::Start("authorization".to_owned()))],
        violations: Vec::new(),
        retry: None,
    };
    report.status()
}

/// The status of a call whose own deadline passed.
pub fn deadline_passed() -> Status {
    let report = Report {
        code: Code::DeadlineExceeded,
        reason: "DEADLINE_EXCEEDED",
        message: Text::Start("the call's deadline (grpc-timeout) passed".to_owned()),
        metadata: vec![("field", Text::Start(TIMEOUT_KEY.to_owned()))],
        violations: Vec::new(),
        retry: None,
    };
    report.status()
}

fn violation(cause: &Cause) -> Option<FieldViolation> {
    if let Cause::InvalidAnswer { field, problem } = cause {
        return Some(FieldViolation::new(field, problem));
    }
    let Cause::ConversationNotFound { resume } = cause else { return None };
    let description = format!("names no conversation that can be resumed: {resume}");
    Some(FieldViolation::new("options.resume", description))
}

fn metadata(failure: &Failure) -> Vec<(&'static str, Text)> {
    let mut metadata = Vec::new();
    let mut put = |key: &'static str, value: String| {
        // What a process printed last says most about its end.
        let text = if key == STDERR_TAIL { Text::End(value) } else { Text::Start(value) };
        metadata.push((key, text));
    };
    failure.session_id.iter().for_each(|id| put("session_id", id.to_string()));
    failure.turn_id.iter().for_each(|id| put("turn_id", id.to_string()));
    failure.client_id.iter().for_each(|id| put("client_id", id.to_string()));
    put_details(&mut put, &failure.cause);
    let seen = failure.cause.tool_use_seen();
    seen.iter().for_each(|seen| put("tool_use_seen", seen.to_string()));
    metadata
}

/// What a cause says beside its message.
fn put_details(put: &mut impl FnMut(&'static str, String), cause: &Cause) {
    match cause {
        Cause::ConnectFailed { exit, stderr_tail, .. } => {
            exit.iter().for_each(|exit| put_exit(put, *exit));
            put(STDERR_TAIL, stderr_tail.clone());
        }
        Cause::CliExited { exit, stderr_tail, .. } => {
            put_exit(put, *exit);
            put(STDERR_TAIL, stderr_tail.clone());
        }
        Cause::HoldsTooMuch { overrun, .. } => put_used(put, overrun.limit, overrun.used),
        Cause::OptionsMismatch { options, remedy, .. } => {
            put("options", options.join(","));
            put("remedy", remedy.as_str().to_owned());
        }
        Cause::TenantQuota { key, limit, .. } => put_bound(put, key, limit),
        Cause::PoolAtCapacity { limit }
        | Cause::NoProcess { limit, .. }
        | Cause::QueueFull { limit }
        | Cause::TooManyListeners { limit }
        | Cause::FrameTooLarge { limit } => put("limit", limit.to_string()),
        Cause::FirstChunkTimeout { limit, mcp_servers } => {
            put("limit", format!("{limit:?}"));
            if !mcp_servers.is_empty() {
                put("mcp_servers", mcp_servers.join(","));
            }
        }
        Cause::StreamStalled { limit } | Cause::BackgroundTimeout { limit } => {
            put("limit", format!("{limit:?}"));
        }
        Cause::ListenerTooSlow { first_kept, bound } => put_bound(put, bound, first_kept),
        Cause::EventsExpired { first_kept } => put("limit", first_kept.to_string()),
        Cause::CursorExpired { first_kept } => put_bound(put, "cursor", first_kept),
        Cause::MemoryBudget { key, limit } => put_bound(put, key, limit),
        Cause::NotAllowed { field, allowed } => put_bound(put, field, allowed),
        Cause::BudgetExhausted { limit, spent } => {
            put_bound(put, "options.max_budget_usd", limit);
            put("used", spent.to_string());
        }
        Cause::SessionMoved { owner, .. } => put("owner", owner.clone()),
        Cause::SessionConflict { owner, .. } => put("owner_session_id", owner.to_string()),
        Cause::ConversationNotFound { .. } => put("field", "options.resume".to_owned()),
        Cause::PromptNotFound { .. } => put("field", "prompt_id".to_owned()),
        Cause::TaskNotFound { .. } => put("field", "task_id".to_owned()),
        Cause::InvalidAnswer { field, .. } => put("field", field.clone()),
        Cause::PoolDisabled
        | Cause::SessionBusy
        | Cause::SessionNotFound
        | Cause::TurnNotFound
        | Cause::CliNotFound { .. }
        | Cause::TurnInterrupted
        | Cause::CredentialsRefused { .. }
        | Cause::EndedByShutdown { .. }
        | Cause::Protocol { .. }
        | Cause::StoreUnavailable { .. }
        | Cause::ShuttingDown
        | Cause::Internal { .. } => {}
    }
}

/// What may be held, and what is.
fn put_used(put: &mut impl FnMut(&'static str, String), limit: u64, used: u64) {
    put("limit", limit.to_string());
    put("used", used.to_string());
}

/// What was exceeded, and its bound.
fn put_bound(
    put: &mut impl FnMut(&'static str, String),
    field: &str,
    limit: &(impl ToString + ?Sized),
) {
    put("field", field.to_owned());
    put("limit", limit.to_string());
}

fn put_exit(put: &mut impl FnMut(&'static str, String), exit: Exit) {
    match exit {
        Exit::Code(code) => put("exit_code", code.to_string()),
        Exit::Signal(signal) => put("signal", signal.to_string()),
        Exit::Unknown => {}
    }
}
