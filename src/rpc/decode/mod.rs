//! Requests to the domain's types. Every violation of a bound is found and named at once, and
//! so is everything that is not allowed, before anything is done.
//!
//! Bounds are said here, of every text and every list, and the shape of JSON. What is allowed
//! is said by [`crate::policy`], which is asked about what is within them.
//!
//! [`query()`] is the way of a Query; what is rarer in one (blocks of content, media, the bounds
//! of its options) has files of its own. The other requests begin here.
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
mod query;
mod surroundings;
mod tools;

use std::{sync::Arc, time::Duration};

use tonic::Status;

use super::heartbeat::{LONGEST, SHORTEST};
use crate::{
    cli::background::LONGEST_ID,
    domain::{
        ids::{SessionId, TurnId},
        options::Options,
    },
    proto,
    session::InterruptTarget,
    turn::event::Partials,
};
pub use answer::respond;
#[cfg(feature = "test-tools")]
pub use answer::{Bounds, read_respond};
use check::Check;
pub use following::{Attach, Watch, attach, watch};
pub use query::query;
#[cfg(test)]
pub use query::taken_over;
#[cfg(any(test, feature = "test-tools"))]
pub use query::{Query, read_query};
use query::{admitted, options_of};
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

fn names_folders(options: Option<&proto::SessionOptions>) -> bool {
    options.is_some_and(|options| options.cwd.is_some() || !options.add_dirs.is_empty())
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let failed = |_| Status::internal("the request could not be checked");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
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

/// Whether the figures of all tenants are asked for, and whether those of all nodes.
pub fn stats(request: proto::GetStatsRequest) -> Result<(bool, bool), Status> {
    let proto::GetStatsRequest { all_tenants, scope } = request;
    let mut check = Check::default();
    let scope = check.choice("scope", scope);
    let of_all_nodes = match scope.unwrap_or(proto::StatsScope::Unspecified) {
        proto::StatsScope::Unspecified | proto::StatsScope::Node => false,
        proto::StatsScope::Cluster => true,
    };
    check.finish((all_tenants, of_all_nodes))
}

/// A value that is there unless the check has failed.
fn required<T>(check: Check, value: Option<T>) -> Result<T, Status> {
    let value = value.ok_or_else(|| Status::internal("a request that is neither good nor bad"));
    check.finish(())?;
    value
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
