//! Requests to the domain's types. Every violation is found and named at once; what the
//! policy does not allow is refused here, before anything is done.
//!
//! Messages are taken apart field by field, so that a field that is added to the
//! contract and forgotten here does not compile.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;
use tonic::Status;

use super::status::{Rejection, Violation, of_rejection};
use crate::{
    cli::{
        options::Options,
        request::{Input, InputBlock, MediaKind},
    },
    ids::{CliSessionId, NameError, SessionId, TurnId},
    proto,
    session::{
        BusyPolicy, Decision, DisconnectPolicy, MismatchPolicy, TurnRequest, command::ResumeFrom,
    },
};

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

const MAX_TEXT: usize = 1024 * 1024;
const MAX_NAME: usize = 256;
const MAX_RULES: usize = 256;
const MAX_RULE: usize = 1024;
const MAX_BETAS: usize = 32;
const MAX_BETA: usize = 128;
const MAX_BLOCKS: usize = 1000;
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];
const SETTING_SOURCES: [&str; 3] = ["user", "project", "local"];

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

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
struct Check {
    violations: Vec<Violation>,
    denied: Option<Rejection>,
}

impl Check {
    fn bad(&mut self, field: &str, description: impl Into<String>) {
        let description = description.into();
        self.violations.push(Violation { field: field.to_owned(), description });
    }

    fn deny(&mut self, field: &str, allowed: impl Into<String>) {
        let rejection = Rejection::Denied { field: field.to_owned(), allowed: allowed.into() };
        self.denied.get_or_insert(rejection);
    }

    fn finish<T>(self, value: T) -> Result<T, Status> {
        if !self.violations.is_empty() {
            return Err(of_rejection(&Rejection::Invalid(self.violations)));
        }
        match self.denied {
            Some(denied) => Err(of_rejection(&denied)),
            None => Ok(value),
        }
    }

    fn name<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, NameError>,
    ) -> Option<T> {
        parse(text).map_err(|error| self.bad(field, error.to_string())).ok()
    }

    fn text(&mut self, field: &str, text: &str, limit: usize) {
        if text.len() > limit {
            self.bad(field, format!("must have at most {limit} bytes, has {}", text.len()));
        }
        if text.contains('\0') {
            self.bad(field, "must not contain a NUL character");
        }
    }

    /// A value that becomes part of a command line: short and printable.
    fn word(&mut self, field: &str, text: &str, limit: usize) {
        self.text(field, text, limit);
        if text.chars().any(|c| c.is_control() && c != '\0') {
            self.bad(field, "must not contain control characters");
        }
    }

    fn optional_word(&mut self, field: &str, text: Option<&String>) {
        if let Some(text) = text {
            if text.is_empty() {
                self.bad(field, "must not be empty");
            }
            self.word(field, text, MAX_NAME);
        }
    }

    fn words(&mut self, field: &str, values: &[String], count: usize, length: usize, empty: bool) {
        if values.len() > count {
            self.bad(field, format!("must have at most {count} entries, has {}", values.len()));
        }
        for (index, value) in values.iter().enumerate().take(count) {
            let field = format!("{field}[{index}]");
            if value.trim().is_empty() && !empty {
                self.bad(&field, "must not be blank");
            }
            self.word(&field, value, length);
        }
    }

    fn one_of(&mut self, field: &str, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let allowed = allowed.join(", ");
            self.bad(field, format!("must be one of {allowed}, is {value:?}"));
        }
    }

    fn json_object(&mut self, field: &str, text: &str) {
        self.text(field, text, MAX_TEXT);
        if !is_object(text) {
            self.bad(field, "must be a JSON object");
        }
    }

    fn choice<E: TryFrom<i32>>(&mut self, field: &str, value: i32) -> Option<E> {
        let choice = E::try_from(value);
        if choice.is_err() {
            self.bad(field, format!("is not a value of the contract: {value}"));
        }
        choice.ok()
    }
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{'))
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

fn input(
    check: &mut Check,
    prompt: String,
    content: Vec<proto::InputBlock>,
    policy: &Policy,
) -> Input {
    let limit = policy.max_prompt_bytes;
    if content.is_empty() {
        if prompt.trim().is_empty() {
            check.bad("prompt", "must not be blank");
        }
        check.text("prompt", &prompt, limit);
        check_slash(check, "prompt", &prompt, policy);
        return Input::Text(prompt);
    }
    if !prompt.is_empty() {
        check.bad("prompt", "must be empty when content is set");
    }
    if content.len() > MAX_BLOCKS {
        check.bad(
            "content",
            format!("must have at most {MAX_BLOCKS} blocks, has {}", content.len()),
        );
    }
    let mut size = 0;
    let blocks: Vec<InputBlock> = content
        .into_iter()
        .take(MAX_BLOCKS)
        .enumerate()
        .filter_map(|(index, block)| {
            let (block, bytes) = input_block(check, &format!("content[{index}]"), block)?;
            size += bytes;
            Some(block)
        })
        .collect();
    if size > limit {
        check.bad("content", format!("must have at most {limit} bytes in all, has {size}"));
    }
    if let Some(InputBlock::Text(text)) = blocks.first() {
        check_slash(check, "content[0].text", text, policy);
    }
    Input::Blocks(blocks)
}

fn check_slash(check: &mut Check, field: &str, text: &str, policy: &Policy) {
    if !policy.slash_commands && text.trim_start().starts_with('/') {
        check.deny(field, "slash commands are off (policy.slash_commands = false)");
    }
}

fn input_block(
    check: &mut Check,
    field: &str,
    block: proto::InputBlock,
) -> Option<(InputBlock, usize)> {
    use proto::input_block::Block;
    let proto::InputBlock { block } = block;
    let media = |check: &mut Check, kind, name: &str, media: proto::InputMedia| {
        let proto::InputMedia { media_type, data } = media;
        if media_type.is_empty() {
            check.bad(&format!("{field}.{name}.media_type"), "must not be empty");
        }
        if data.is_empty() {
            check.bad(&format!("{field}.{name}.data"), "must not be empty");
        }
        let size = data.len();
        (InputBlock::Media { kind, media_type, data: data.into() }, size)
    };
    match block {
        None => {
            check.bad(field, "must be a text, an image, a document or block_json");
            None
        }
        Some(Block::Text(text)) => {
            if text.is_empty() {
                check.bad(&format!("{field}.text"), "must not be empty");
            }
            let size = text.len();
            Some((InputBlock::Text(text), size))
        }
        Some(Block::Image(image)) => Some(media(check, MediaKind::Image, "image", image)),
        Some(Block::Document(document)) => {
            Some(media(check, MediaKind::Document, "document", document))
        }
        Some(Block::BlockJson(text)) => {
            let size = text.len();
            let raw = RawValue::from_string(text).ok().filter(|raw| raw.get().starts_with('{'));
            if raw.is_none() {
                check.bad(&format!("{field}.block_json"), "must be a JSON object");
            }
            raw.map(|raw| (InputBlock::Json(raw), size))
        }
    }
}

fn options_of(
    check: &mut Check,
    options: proto::SessionOptions,
    policy: &Policy,
    at: &str,
) -> (Options, Option<ResumeFrom>) {
    let proto::SessionOptions {
        model,
        fallback_model,
        system_prompt,
        append_system_prompt,
        permission_mode,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        max_thinking_tokens,
        effort,
        cwd,
        add_dirs,
        mcp_servers,
        agents,
        json_schema,
        settings,
        setting_sources,
        include_partial_messages,
        env,
        betas,
        resume,
        fork_session,
    } = options;
    let field = |name: &str| format!("{at}.{name}");
    for (name, said) in [
        ("cwd", cwd.is_some()),
        ("add_dirs", !add_dirs.is_empty()),
        ("mcp_servers", mcp_servers.is_some()),
        ("agents", agents.is_some()),
        ("settings", settings.is_some()),
        ("env", !env.is_empty()),
    ] {
        if said {
            check.deny(&field(name), "this option is refused");
        }
    }
    check.optional_word(&field("model"), model.as_ref());
    check.optional_word(&field("fallback_model"), fallback_model.as_ref());
    for (name, text) in
        [("system_prompt", &system_prompt), ("append_system_prompt", &append_system_prompt)]
    {
        if let Some(text) = text {
            check.text(&field(name), text, MAX_TEXT);
        }
    }
    if let Some(mode) = &permission_mode
        && !policy.permission_modes.contains(mode)
    {
        let allowed = policy.permission_modes.join(", ");
        check.deny(&field("permission_mode"), format!("allowed are {allowed}, is {mode:?}"));
    }
    check.words(&field("allowed_tools"), &allowed_tools, MAX_RULES, MAX_RULE, false);
    check.words(&field("disallowed_tools"), &disallowed_tools, MAX_RULES, MAX_RULE, false);
    let no_tools = tools.len() == 1;
    check.words(&field("tools"), &tools, MAX_RULES, MAX_RULE, no_tools);
    check.words(&field("betas"), &betas, MAX_BETAS, MAX_BETA, false);
    for (index, source) in setting_sources.iter().enumerate() {
        check.one_of(&format!("{at}.setting_sources[{index}]"), source, &SETTING_SOURCES);
    }
    if let Some(effort) = &effort {
        check.one_of(&field("effort"), effort, &EFFORTS);
    }
    check_numbers(check, at, max_turns, max_budget_usd, max_thinking_tokens);
    if let Some(schema) = &json_schema {
        check.json_object(&field("json_schema"), schema);
    }
    let resume = resume_of(check, at, resume, fork_session);
    let options = Options {
        model,
        fallback_model,
        system_prompt,
        append_system_prompt,
        permission_mode,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        max_thinking_tokens,
        effort,
        json_schema,
        setting_sources,
        include_partial_messages,
        betas,
    };
    (options, resume)
}

fn check_numbers(
    check: &mut Check,
    at: &str,
    max_turns: Option<u32>,
    max_budget_usd: Option<f64>,
    max_thinking_tokens: Option<u32>,
) {
    if let Some(turns) = max_turns.filter(|turns| !(1..=10_000).contains(turns)) {
        check.bad(&format!("{at}.max_turns"), format!("must be 1 to 10000, is {turns}"));
    }
    if let Some(budget) = max_budget_usd.filter(|budget| !(budget.is_finite() && *budget > 0.0)) {
        check.bad(&format!("{at}.max_budget_usd"), format!("must be over 0, is {budget}"));
    }
    if let Some(tokens) = max_thinking_tokens.filter(|tokens| *tokens > 1_000_000) {
        let field = format!("{at}.max_thinking_tokens");
        check.bad(&field, format!("must be 0 to 1000000, is {tokens}"));
    }
}

fn resume_of(
    check: &mut Check,
    at: &str,
    resume: Option<String>,
    fork_session: Option<bool>,
) -> Option<ResumeFrom> {
    let fork = fork_session.unwrap_or_default();
    let Some(text) = resume else {
        if fork {
            check.bad(&format!("{at}.fork_session"), "needs resume");
        }
        return None;
    };
    let id = CliSessionId::parse(&text);
    if id.is_none() {
        // The CLI would also take a title or the path of a file.
        check.bad(&format!("{at}.resume"), format!("must be a UUID, is {text:?}"));
    }
    id.map(|id| ResumeFrom { id, fork })
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
