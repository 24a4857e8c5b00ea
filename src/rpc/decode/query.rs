//! A Query, from the contract's message to the turn that a session is asked for: what is asked,
//! the options, what its caller chooses beside them. Each is held to its bounds as it is taken apart;
//! what the options ask for is judged by the policy when all of the request is within them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::Status;
use tracing::Span;

use super::{
    Payload, apart,
    check::Check,
    heartbeat, hooks, input, names_folders,
    options::{check_bounds, reset_of, resume_of},
    partials, payload_of, turn_of,
};
use crate::{
    domain::{
        ids::SessionId,
        input::Input,
        options::{Options, each_option},
    },
    policy::Policy,
    proto,
    rpc::options::Wire,
    session::{
        BackgroundPolicy, BusyPolicy, DisconnectPolicy, MismatchPolicy, TurnRequest,
        command::ResumeFrom,
    },
    traces::Trace,
};

/// A Query, ready for the pool.
#[derive(Debug)]
pub struct Query {
    /// The session; `None` is one of the turn's own.
    pub session_id: Option<SessionId>,
    /// The turn.
    pub request: TurnRequest,
    /// What its events are filled with.
    pub payload: Payload,
    /// How long its stream may be quiet without a sign of life.
    pub heartbeat: Option<Duration>,
}

/// Decodes a Query. Folders that it names are looked at on a thread that may wait.
pub async fn query(request: proto::QueryRequest, policy: &Arc<Policy>) -> Result<Query, Status> {
    if !names_folders(request.options.as_ref()) {
        return read_query(request, policy);
    }
    let policy = Arc::clone(policy);
    apart(move || read_query(request, &policy)).await
}

/// As [`query`], on this thread, which has to be one that may wait.
pub fn read_query(request: proto::QueryRequest, policy: &Policy) -> Result<Query, Status> {
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
        heartbeat_interval,
        on_background,
    } = request;
    let mut check = Check::default();
    let session_id = match session_id.as_str() {
        "" => None,
        text => check.name("session_id", text, SessionId::parse),
    };
    let turn_id = turn_of(&mut check, &turn_id);
    if turn_id.is_some() && session_id.is_none() {
        check.bad("turn_id", "needs a session_id: without one the session is gone after its turn");
    }
    let asked = options.as_ref().and_then(|options| options.include_partial_messages);
    let input = input(&mut check, prompt, content, policy);
    let (options, resume) = options_of(&mut check, options.unwrap_or_default());
    let on_busy = busy_policy(&mut check, on_busy);
    if on_busy == BusyPolicy::Steer && turn_id.is_some() {
        let why = "must be empty with on_busy STEER: a message that a turn takes up has none";
        check.bad("turn_id", why);
    }
    let on_disconnect = disconnect_policy(&mut check, on_disconnect);
    let on_background = background_policy(&mut check, on_background, session_id.is_some());
    let on_mismatch = mismatch_policy(&mut check, on_options_mismatch);
    let payload = payload_of(&mut check, payload);
    let heartbeat = heartbeat(&mut check, heartbeat_interval);
    let options = admitted(&mut check, options, policy);
    let request = TurnRequest {
        turn_id,
        input: Arc::new(input),
        options,
        resume,
        new_conversation,
        on_busy,
        on_disconnect,
        on_background,
        on_mismatch,
        partials: partials(asked.unwrap_or_default()),
        asked_at: Instant::now(),
        deadline: None,
        span: Span::none(),
        trace: Trace::default(),
        held: None,
    };
    check.finish(Query { session_id, request, payload, heartbeat })
}

/// What is asked: a prompt, or blocks of content in its place.
fn input(
    check: &mut Check,
    prompt: String,
    content: Vec<proto::InputBlock>,
    policy: &Policy,
) -> Input {
    if !content.is_empty() {
        return input::blocks(check, &prompt, content, policy);
    }
    if prompt.trim().is_empty() {
        check.bad("prompt", "must not be blank");
    }
    check.text("prompt", &prompt, policy.max_prompt_bytes);
    check.deny_all("prompt", policy.judge_text(&prompt));
    Input::Text(prompt)
}

/// Decodes options, and the conversation to start from.
pub(super) fn options_of(
    check: &mut Check,
    options: proto::SessionOptions,
) -> (Options, Option<ResumeFrom>) {
    hooks::hooks(check, "options.hooks", &options.hooks);
    let (mut options, Beside { resume, fork_session, reset_options }) = taken_over(options);
    check_bounds(check, &options);
    options.reset = reset_of(check, &reset_options, &options);
    if options.json_schema.as_deref() == Some("") {
        options.json_schema = None;
        options.reset.insert("json_schema");
    }
    (options, resume_of(check, resume, fork_session))
}

/// What a caller says beside the options that a session has.
#[derive(Debug)]
pub struct Beside {
    /// The conversation to start from.
    resume: Option<String>,
    /// Whether a copy of it is meant.
    fork_session: Option<bool>,
    /// Names of options that go back to their default.
    reset_options: Vec<String>,
}

macro_rules! from_callers {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $when:ident $(($change:ident))?;)*) => {
        /// Options as they were said: within their bounds or not, allowed or not.
        pub fn taken_over(options: proto::SessionOptions) -> (Options, Beside) {
            let proto::SessionOptions {
                $($name,)*
                // What the caller of one turn sees: no option of the session.
                include_partial_messages: _,
                resume,
                fork_session,
                reset_options,
            } = options;
            let options = Options { $($name: Wire::said($name),)* reset: BTreeSet::new() };
            (options, Beside { resume, fork_session, reset_options })
        }
    };
}

each_option!(from_callers);

/// The options as the policy lets a session have them, if all of the request is within its
/// bounds.
pub(super) fn admitted(check: &mut Check, options: Options, policy: &Policy) -> Options {
    if !check.is_within_bounds() {
        return options;
    }
    policy.admit(options).unwrap_or_else(|denials| {
        check.deny_all("options", denials);
        Options::default()
    })
}

fn busy_policy(check: &mut Check, value: i32) -> BusyPolicy {
    use proto::BusyPolicy as Wire;
    match check.choice("on_busy", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Queue => BusyPolicy::Queue,
        Wire::Reject => BusyPolicy::Reject,
        Wire::Interrupt => BusyPolicy::Interrupt,
        Wire::Steer => BusyPolicy::Steer,
    }
}

fn disconnect_policy(check: &mut Check, value: i32) -> DisconnectPolicy {
    use proto::DisconnectPolicy as Wire;
    match check.choice("on_disconnect", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Interrupt => DisconnectPolicy::Interrupt,
        Wire::Continue => DisconnectPolicy::Continue,
    }
}

fn background_policy(check: &mut Check, value: i32, is_named: bool) -> BackgroundPolicy {
    use proto::BackgroundPolicy as Wire;
    match check.choice("on_background", value).unwrap_or(Wire::Unspecified) {
        // What a session of its own has begun ends with it.
        Wire::Unspecified if !is_named => BackgroundPolicy::Wait,
        Wire::Unspecified | Wire::Keep => BackgroundPolicy::Keep,
        Wire::Wait => BackgroundPolicy::Wait,
        Wire::Stop => BackgroundPolicy::Stop,
    }
}

fn mismatch_policy(check: &mut Check, value: i32) -> MismatchPolicy {
    use proto::OptionsMismatchPolicy as Wire;
    match check.choice("on_options_mismatch", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Fail => MismatchPolicy::Fail,
        Wire::Restart => MismatchPolicy::Restart,
    }
}
