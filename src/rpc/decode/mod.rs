//! Requests to the domain's types. Every violation of a bound is found and named at once, and
//! so is everything that is not allowed, before anything is done.
//!
//! Bounds are said here, of every text and every list, and the shape of JSON. What is allowed
//! is said by [`crate::policy`], which is asked about what is within them.
//!
//! Messages are taken apart field by field, so that a field that is added to the
//! contract and forgotten here does not compile.

mod answer;
mod check;
mod following;
mod hooks;
mod input;
mod media;
mod options;
mod surroundings;
mod tools;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::Status;
use tracing::Span;

use super::heartbeat::{LONGEST, SHORTEST};
use crate::{
    cli::background::LONGEST_ID,
    domain::{
        ids::{SessionId, TurnId},
        options::Options,
    },
    proto,
    session::{
        BackgroundPolicy, BusyPolicy, DisconnectPolicy, InterruptTarget, MismatchPolicy,
        TurnRequest,
    },
    turn::event::Partials,
};
pub use answer::respond;
#[cfg(feature = "test-tools")]
pub use answer::{Bounds, read_respond};
use check::Check;
pub use following::{Attach, Watch, attach, watch};
use input::input;
use options::options_of;
pub use tools::{Said, may_serve_tools, offer, said};

pub use crate::policy::Policy;

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

fn names_folders(options: Option<&proto::SessionOptions>) -> bool {
    options.is_some_and(|options| options.cwd.is_some() || !options.add_dirs.is_empty())
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let failed = |_| Status::internal("the request could not be checked");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
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
        held: None,
    };
    check.finish(Query { session_id, request, payload, heartbeat })
}

/// Decodes a session id that has to be there.
pub fn session_id(text: &str) -> Result<SessionId, Status> {
    let mut check = Check::default();
    let id = check.name("session_id", text, SessionId::parse);
    required(check, id)
}

fn turn_of(check: &mut Check, turn_id: &str) -> Option<TurnId> {
    match turn_id {
        "" => None,
        text => check.name("turn_id", text, TurnId::parse),
    }
}

fn partials(asked: bool) -> Partials {
    if asked { Partials::Shown } else { Partials::Hidden }
}

/// An Interrupt, ready for the pool.
#[derive(Debug)]
pub struct Interrupt {
    /// The session.
    pub session_id: SessionId,
    /// What is stopped.
    pub target: InterruptTarget,
    /// Whether the session stays.
    pub keep_session: bool,
}

/// Decodes a StopTask: the session and the task.
pub fn stop_task(request: proto::StopTaskRequest) -> Result<(SessionId, String), Status> {
    let proto::StopTaskRequest { session_id, task_id } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    if task_id.is_empty() || task_id.len() > LONGEST_ID {
        let length = task_id.len();
        let bounds = format!("must have 1 to {LONGEST_ID} bytes, has {length}");
        check.bad("task_id", bounds);
    }
    required(check, session_id).map(|session_id| (session_id, task_id))
}

/// Decodes an Interrupt.
pub fn interrupt(request: proto::InterruptRequest) -> Result<Interrupt, Status> {
    let proto::InterruptRequest { session_id, keep_session, turn_id, scope } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    let turn = turn_of(&mut check, &turn_id);
    let target = interrupt_target(&mut check, scope, turn);
    let interrupt = |session_id| Interrupt { session_id, target, keep_session };
    required(check, session_id).map(interrupt)
}

/// Decodes an UpdateSession. Folders that it names are looked at on a thread that may
/// wait.
pub async fn update(
    request: proto::UpdateSessionRequest,
    policy: &Arc<Policy>,
) -> Result<(SessionId, Options), Status> {
    if !names_folders(request.options.as_ref()) {
        return read_update(request, policy);
    }
    let policy = Arc::clone(policy);
    apart(move || read_update(request, &policy)).await
}

/// As [`update`], on this thread, which has to be one that may wait.
pub fn read_update(
    request: proto::UpdateSessionRequest,
    policy: &Policy,
) -> Result<(SessionId, Options), Status> {
    let proto::UpdateSessionRequest { session_id, options } = request;
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    let (options, resume) = options_of(&mut check, options.unwrap_or_default());
    if resume.is_some() {
        check.bad("options.resume", "can only be said when a session is made");
    }
    let options = admitted(&mut check, options, policy);
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

/// The options as the policy lets a session have them, if all of the request is within its
/// bounds.
fn admitted(check: &mut Check, options: Options, policy: &Policy) -> Options {
    if !check.is_within_bounds() {
        return options;
    }
    policy.admit(options).unwrap_or_else(|denials| {
        check.deny_all("options", denials);
        Options::default()
    })
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

fn interrupt_target(check: &mut Check, value: i32, turn: Option<TurnId>) -> InterruptTarget {
    use proto::InterruptScope as Wire;
    match (check.choice("scope", value).unwrap_or(Wire::Unspecified), turn) {
        (Wire::All, Some(turn)) => {
            check.bad("scope", "must not be ALL with a turn_id, which names one turn alone");
            InterruptTarget::Named(turn)
        }
        (Wire::Unspecified | Wire::Turn, Some(turn)) => InterruptTarget::Named(turn),
        (Wire::Unspecified | Wire::Turn, None) => InterruptTarget::Running,
        (Wire::All, None) => InterruptTarget::All,
    }
}

fn mismatch_policy(check: &mut Check, value: i32) -> MismatchPolicy {
    use proto::OptionsMismatchPolicy as Wire;
    match check.choice("on_options_mismatch", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Fail => MismatchPolicy::Fail,
        Wire::Restart => MismatchPolicy::Restart,
    }
}

fn heartbeat(check: &mut Check, interval: Option<prost_types::Duration>) -> Option<Duration> {
    check.duration("heartbeat_interval", interval, SHORTEST..=LONGEST)
}

fn payload_of(check: &mut Check, value: i32) -> Payload {
    use proto::Payload as Wire;
    match check.choice("payload", value).unwrap_or(Wire::Unspecified) {
        Wire::Unspecified | Wire::Typed => Payload::Typed,
        Wire::Json => Payload::Json,
        Wire::Both => Payload::Both,
    }
}
