//! Answers to what the CLI asked. They can change permissions, so the policy is asked.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, value::to_raw_value};
use tonic::Status;

use super::{
    Policy, apart,
    check::{Check, MAX_DEPTH, MAX_TEXT, depth, shown},
    required,
};
use crate::{
    cli::{
        json::{Extra, Rest as _, members},
        permissions::{Malformed, Update},
    },
    ids::SessionId,
    proto,
    session::Decision,
};

/// Bytes of the id of a prompt; the CLI's own are UUIDs.
const MAX_PROMPT_ID: usize = 256;

/// Decodes a Respond. Folders that it names are looked at on a thread that may wait.
pub async fn respond(
    request: proto::RespondRequest,
    policy: &Arc<Policy>,
) -> Result<(SessionId, String, Decision), Status> {
    let policy = Arc::clone(policy);
    apart(move || read_respond(request, &policy)).await
}

/// As [`respond`], on this thread, which has to be one that may wait.
pub fn read_respond(
    request: proto::RespondRequest,
    policy: &Policy,
) -> Result<(SessionId, String, Decision), Status> {
    use proto::respond_request::Decision as Wire;
    let proto::RespondRequest { session_id, prompt_id, decision } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    if prompt_id.is_empty() {
        check.bad("prompt_id", "must not be empty");
    }
    check.word("prompt_id", &prompt_id, MAX_PROMPT_ID);
    let decision = match decision {
        None => {
            check.bad("decision", "must be set: allow, deny or response_json");
            None
        }
        Some(Wire::Allow(allow)) => Some(allow_of(&mut check, allow, policy)),
        Some(Wire::Deny(proto::PromptDeny { message, interrupt })) => {
            check.text("deny.message", &message, MAX_TEXT);
            let message = if message.is_empty() {
                "The user refused this tool call.".into()
            } else {
                message
            };
            Some(Decision::Deny { message, interrupt })
        }
        Some(Wire::ResponseJson(text)) => raw_of(&mut check, &text, policy),
    };
    required(check, session_id.zip(decision)).map(|(id, decision)| (id, prompt_id, decision))
}

fn allow_of(check: &mut Check, allow: proto::PromptAllow, policy: &Policy) -> Decision {
    let proto::PromptAllow { updated_input_json, updated_permissions_json } = allow;
    if !updated_input_json.is_empty() {
        check.json_object("allow.updated_input_json", &updated_input_json);
    }
    let updates = (!updated_permissions_json.is_empty())
        .then(|| permissions_of(check, &updated_permissions_json, policy))
        .flatten();
    Decision::Allow {
        updated_input: Some(updated_input_json).filter(|text| !text.is_empty()),
        updated_permissions: updates,
    }
}

/// The updates as the policy saw them.
fn permissions_of(check: &mut Check, text: &str, policy: &Policy) -> Option<String> {
    let field = "allow.updated_permissions_json";
    check.text(field, text, MAX_TEXT);
    let updates = serde_json::from_str::<Vec<Value>>(text);
    let Some(updates) = updates.ok().filter(|_| depth(text) <= MAX_DEPTH) else {
        check.bad(field, format!("must be a JSON array, nested at most {MAX_DEPTH} deep"));
        return None;
    };
    judge(check, field, &updates, policy);
    Some(Value::Array(updates).to_string())
}

/// Says what is not allowed of updates, and of those that are, what the CLI would not
/// understand: it would leave them out without a word.
fn judge(check: &mut Check, field: &str, updates: &[Value], policy: &Policy) {
    let denials = policy.judge_permission_updates(updates);
    if denials.is_empty() {
        for (index, update) in updates.iter().enumerate() {
            if let Err(Malformed { at, problem }) = Update::read(update) {
                check.bad(&format!("{field}[{index}].{at}"), problem);
            }
        }
    }
    check.deny_all(field, denials);
}

/// An answer in the CLI's own words can say what `allow` says.
fn raw_of(check: &mut Check, text: &str, policy: &Policy) -> Option<Decision> {
    check.json_object("response_json", text);
    let mut answer = Extra::default();
    let mut seen = HashSet::new();
    let field = "response_json.updatedPermissions";
    let is_object = members(text, |key, name, value| {
        if !seen.insert(key.to_owned()) {
            check
                .bad("response_json", format!("must have each key once, has {} twice", shown(key)));
        }
        if key != "updatedPermissions" {
            answer.push(name.get(), value);
            return;
        }
        // What the policy saw is what is passed on.
        match serde_json::from_str::<Vec<Value>>(value.get()) {
            Ok(updates) => {
                judge(check, field, &updates, policy);
                if let Ok(updates) = to_raw_value(&updates) {
                    answer.push("\"updatedPermissions\"", &updates);
                }
            }
            Err(_) => check.bad(field, "must be a JSON array"),
        }
    });
    let answer = answer.finish();
    is_object.then(|| Decision::Raw(if answer.is_empty() { "{}".to_owned() } else { answer }))
}
