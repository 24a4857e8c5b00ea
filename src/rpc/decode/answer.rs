//! Answers to what the CLI asked. They can change permissions, so the policy is asked.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use serde_json::{Value, value::to_raw_value};
use tonic::Status;

use super::{
    Policy, apart,
    check::{Check, MAX_DEPTH, MAX_TEXT, depth, shown},
    hooks, required,
};
use crate::{
    cli::{
        json::{Extra, Rest as _, members},
        permissions::Malformed,
    },
    domain::{decision::Decision, grants::Update, ids::SessionId},
    proto,
};

/// Bytes of the id of a prompt; the CLI's own are UUIDs.
const MAX_PROMPT_ID: usize = 256;

/// Answers to one prompt; the CLI asks up to four questions at once.
const MAX_ANSWERS: usize = 32;

/// Bytes of one of them.
const MAX_ANSWER: usize = 64 << 10;

/// What an answer is held to.
#[derive(Debug)]
pub struct Bounds<'a> {
    /// What callers may ask for.
    pub policy: &'a Policy,
    /// The working folder that the session has by itself, if it has one: its real path. The
    /// CLI suggests to add it, which changes nothing and no policy need allow.
    pub own_folder: Option<PathBuf>,
}

/// Decodes a Respond. Folders that it names are looked at on a thread that may wait, and so is
/// the session's own.
pub async fn respond(
    request: proto::RespondRequest,
    policy: &Arc<Policy>,
    own_folder: impl FnOnce(&SessionId) -> Option<PathBuf> + Send + 'static,
) -> Result<(SessionId, String, Decision), Status> {
    let policy = Arc::clone(policy);
    apart(move || {
        let own_folder = SessionId::parse(&request.session_id).ok().and_then(|id| own_folder(&id));
        read_respond(request, &Bounds { policy: &policy, own_folder })
    })
    .await
}

/// As [`respond`], on this thread, which has to be one that may wait.
pub fn read_respond(
    request: proto::RespondRequest,
    bounds: &Bounds<'_>,
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
            check.bad("decision", "must be set: allow, deny, answers, hook or response_json");
            None
        }
        Some(Wire::Allow(allow)) => Some(allow_of(&mut check, allow, bounds)),
        Some(Wire::Deny(proto::PromptDeny { message, interrupt })) => {
            check.text("deny.message", &message, MAX_TEXT);
            let message = if message.is_empty() {
                "The user refused this tool call.".into()
            } else {
                message
            };
            Some(Decision::Deny { message, interrupt })
        }
        Some(Wire::ResponseJson(text)) => raw_of(&mut check, &text, bounds),
        Some(Wire::Answers(proto::PromptAnswers { answers })) => {
            Some(answers_of(&mut check, answers))
        }
        Some(Wire::Hook(said)) => Some(Decision::Hook(hooks::decision(&mut check, said).into())),
    };
    required(check, session_id.zip(decision)).map(|(id, decision)| (id, prompt_id, decision))
}

/// Whether they fit the questions is known where the prompt is.
fn answers_of(check: &mut Check, answers: HashMap<String, String>) -> Decision {
    if answers.len() > MAX_ANSWERS {
        let problem = format!("must have at most {MAX_ANSWERS} answers, has {}", answers.len());
        check.bad("answers.answers", problem);
    }
    let answers: BTreeMap<String, String> = answers.into_iter().collect();
    for (question, answer) in answers.iter().take(MAX_ANSWERS) {
        check.text(&format!("answers.answers[{}]", shown(question)), answer, MAX_ANSWER);
    }
    Decision::Answers(answers)
}

fn allow_of(check: &mut Check, allow: proto::PromptAllow, bounds: &Bounds<'_>) -> Decision {
    let proto::PromptAllow { updated_input_json, updated_permissions_json } = allow;
    if !updated_input_json.is_empty() {
        check.json_object("allow.updated_input_json", &updated_input_json);
    }
    let updates = (!updated_permissions_json.is_empty())
        .then(|| permissions_of(check, &updated_permissions_json, bounds))
        .flatten();
    Decision::Allow {
        updated_input: Some(updated_input_json).filter(|text| !text.is_empty()),
        updated_permissions: updates,
    }
}

/// The updates as the policy saw them.
fn permissions_of(check: &mut Check, text: &str, bounds: &Bounds<'_>) -> Option<String> {
    let field = "allow.updated_permissions_json";
    check.text(field, text, MAX_TEXT);
    let updates = serde_json::from_str::<Vec<Value>>(text);
    let Some(mut updates) = updates.ok().filter(|_| depth(text) <= MAX_DEPTH) else {
        check.bad(field, format!("must be a JSON array, nested at most {MAX_DEPTH} deep"));
        return None;
    };
    judge(check, field, &mut updates, bounds);
    Some(Value::Array(updates).to_string())
}

/// Says what is not allowed of updates, and of those that are, what the CLI would not
/// understand: it would leave them out without a word. Leaves out the session's own folder.
fn judge(check: &mut Check, field: &str, updates: &mut Vec<Value>, bounds: &Bounds<'_>) {
    let own = bounds.own_folder.as_ref().and_then(|folder| folder.to_str());
    for update in updates.iter_mut() {
        if let (Some(folders), Some(own)) = (folders_of(update), own) {
            folders.retain(|folder| folder.as_str() != Some(own));
        }
    }
    let denials = bounds.policy.judge_permission_updates(updates);
    if denials.is_empty() {
        for (index, update) in updates.iter().enumerate() {
            if let Err(Malformed { at, problem }) = Update::read(update) {
                check.bad(&format!("{field}[{index}].{at}"), problem);
            }
        }
    }
    check.deny_all(field, denials);
    // Not before: what is wrong is told by its place.
    updates.retain_mut(|update| folders_of(update).is_none_or(|folders| !folders.is_empty()));
}

fn folders_of(update: &mut Value) -> Option<&mut Vec<Value>> {
    update.get_mut("directories")?.as_array_mut()
}

/// An answer in the CLI's own words can say what `allow` says.
fn raw_of(check: &mut Check, text: &str, bounds: &Bounds<'_>) -> Option<Decision> {
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
            Ok(mut updates) => {
                judge(check, field, &mut updates, bounds);
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
