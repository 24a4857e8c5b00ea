//! Requests to the domain's types. Every violation is found and named at once; what the
//! policy does not allow is refused here, before anything is done.
//!
//! Messages are taken apart field by field, so that a field that is added to the
//! contract and forgotten here does not compile.

mod check;
mod input;
mod options;

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    cli::options::Options,
    ids::{SessionId, TurnId},
    proto,
    session::{BusyPolicy, Decision, DisconnectPolicy, MismatchPolicy, TurnRequest},
};
use check::{Check, MAX_TEXT};
use input::input;
use options::options_of;

/// What the server's policy allows.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Permission modes that callers may choose.
    pub permission_modes: Vec<String>,
    /// Bytes of a prompt.
    pub max_prompt_bytes: usize,
    /// Whether a prompt may be a slash command of the CLI.
    pub slash_commands: bool,
}

/// What events are filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Typed fields.
    Typed,
    /// The CLI's JSON.
    Json,
    /// Both.
    Both,
}

/// A Query, ready for the pool.
#[derive(Debug)]
pub struct Query {
    /// The session; `None` is one of the turn's own.
    pub session_id: Option<SessionId>,
    /// The turn.
    pub request: TurnRequest,
    /// What its events are filled with.
    pub payload: Payload,
}

/// Decodes a Query.
pub fn query(request: proto::QueryRequest, policy: &Policy) -> Result<Query, Status> {
    let proto::QueryRequest {
        session_id,
        prompt,
        content,
        options,
        turn_id,
        new_conversation,
        on_busy,
        on_disconnect,
        on_options_mismatch,
        payload,
    } = request;
    let mut check = Check::default();
    let session_id = match session_id.as_str() {
        "" => None,
        text => check.name("session_id", text, SessionId::parse),
    };
    let turn_id = match turn_id.as_str() {
        "" => None,
        text => check.name("turn_id", text, TurnId::parse),
    };
    let input = input(&mut check, prompt, content, policy);
    let (options, resume) = options_of(&mut check, options.unwrap_or_default(), policy, "options");
    let on_busy = busy_policy(&mut check, on_busy);
    let on_disconnect = disconnect_policy(&mut check, on_disconnect);
    let on_mismatch = mismatch_policy(&mut check, on_options_mismatch);
    let payload = payload_of(&mut check, payload);
    let request = TurnRequest {
        turn_id,
        input: Arc::new(input),
        options,
        resume,
        new_conversation,
        on_busy,
        on_disconnect,
        on_mismatch,
        asked_at: Instant::now(),
    };
    check.finish(Query { session_id, request, payload })
}

/// Decodes a session id that has to be there.
pub fn session_id(text: &str) -> Result<SessionId, Status> {
    let mut check = Check::default();
    let id = check.name("session_id", text, SessionId::parse);
    required(check, id)
}

/// Decodes an Attach.
pub fn attach(
    request: proto::AttachRequest,
) -> Result<(SessionId, Option<TurnId>, u64, Payload), Status> {
    let proto::AttachRequest { session_id, turn_id, from_sequence, payload } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    let turn = match turn_id.as_str() {
        "" => None,
        text => check.name("turn_id", text, TurnId::parse),
    };
    let payload = payload_of(&mut check, payload);
    required(check, session_id).map(|id| (id, turn, from_sequence, payload))
}

/// Decodes a Respond.
pub fn respond(request: proto::RespondRequest) -> Result<(SessionId, String, Decision), Status> {
    use proto::respond_request::Decision as Wire;
    let proto::RespondRequest { session_id, prompt_id, decision } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    if prompt_id.is_empty() {
        check.bad("prompt_id", "must not be empty");
    }
    let decision = match decision {
        None => {
            check.bad("decision", "must be set: allow, deny or response_json");
            None
        }
        Some(Wire::Allow(allow)) => Some(allow_of(&mut check, allow)),
        Some(Wire::Deny(proto::PromptDeny { message, interrupt })) => {
            check.text("deny.message", &message, MAX_TEXT);
            let message = if message.is_empty() {
                "The user refused this tool call.".into()
            } else {
                message
            };
            Some(Decision::Deny { message, interrupt })
        }
        Some(Wire::ResponseJson(text)) => {
            check.json_object("response_json", &text);
            Some(Decision::Raw(text))
        }
    };
    required(check, session_id.zip(decision)).map(|(id, decision)| (id, prompt_id, decision))
}

fn allow_of(check: &mut Check, allow: proto::PromptAllow) -> Decision {
    let proto::PromptAllow { updated_input_json, updated_permissions_json } = allow;
    if !updated_input_json.is_empty() {
        check.json_object("allow.updated_input_json", &updated_input_json);
    }
    if !updated_permissions_json.is_empty() {
        let list = serde_json::from_str::<Vec<&RawValue>>(&updated_permissions_json);
        if list.is_err() {
            check.bad("allow.updated_permissions_json", "must be a JSON array");
        }
    }
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Decision::Allow {
        updated_input: some(updated_input_json),
        updated_permissions: some(updated_permissions_json),
    }
}

/// Decodes an UpdateSession.
pub fn update(
    request: proto::UpdateSessionRequest,
    policy: &Policy,
) -> Result<(SessionId, Options), Status> {
    let proto::UpdateSessionRequest { session_id, options } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    let (options, resume) = options_of(&mut check, options.unwrap_or_default(), policy, "options");
    if resume.is_some() {
        check.bad("options.resume", "can only be said when a session is made");
    }
    required(check, session_id).map(|id| (id, options))
}

/// Decodes a ListSessions: the page's size and the id that it begins after.
pub fn list(request: proto::ListSessionsRequest) -> Result<(usize, Option<SessionId>), Status> {
    let proto::ListSessionsRequest { page_size, page_token } = request;
    let mut check = Check::default();
    if page_size > 1000 {
        check.bad("page_size", format!("must be at most 1000, is {page_size}"));
    }
    let after = match page_token.as_str() {
        "" => None,
        text => check.name("page_token", text, SessionId::parse),
    };
    let size = if page_size == 0 { 100 } else { page_size as usize };
    check.finish((size, after))
}

/// A value that is there unless the check has failed.
fn required<T>(check: Check, value: Option<T>) -> Result<T, Status> {
    let value = value.ok_or_else(|| Status::internal("a request that is neither good nor bad"));
    check.finish(())?;
    value
}

fn busy_policy(check: &mut Check, value: i32) -> BusyPolicy {
    use proto::BusyPolicy as Wire;
    match check.choice("on_busy", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Queue => BusyPolicy::Queue,
        Wire::Reject => BusyPolicy::Reject,
        Wire::Interrupt => BusyPolicy::Interrupt,
    }
}

fn disconnect_policy(check: &mut Check, value: i32) -> DisconnectPolicy {
    use proto::DisconnectPolicy as Wire;
    match check.choice("on_disconnect", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Interrupt => DisconnectPolicy::Interrupt,
        Wire::Continue => DisconnectPolicy::Continue,
    }
}

fn mismatch_policy(check: &mut Check, value: i32) -> MismatchPolicy {
    use proto::OptionsMismatchPolicy as Wire;
    match check.choice("on_options_mismatch", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Fail => MismatchPolicy::Fail,
        Wire::Restart => MismatchPolicy::Restart,
    }
}

fn payload_of(check: &mut Check, value: i32) -> Payload {
    use proto::Payload as Wire;
    match check.choice("payload", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Typed => Payload::Typed,
        Wire::Json => Payload::Json,
        Wire::Both => Payload::Both,
    }
}
