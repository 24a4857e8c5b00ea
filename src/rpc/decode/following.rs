//! What callers who follow a turn or a session ask.

use std::time::Duration;

use tonic::Status;

use super::{Check, Payload, heartbeat, partials, payload_of, required, turn_of};
use crate::{
    domain::ids::{SessionId, TurnId},
    proto,
    session::feed::{Cursor, From},
    turn::event::Partials,
};

/// An Attach, ready for the pool.
#[derive(Debug)]
pub struct Attach {
    /// The session.
    pub session_id: SessionId,
    /// The turn; `None` is the running one, else the last.
    pub turn: Option<TurnId>,
    /// The first sequence that is wanted.
    pub from: u64,
    /// Whether the caller sees partial messages.
    pub partials: Partials,
    /// What events are filled with.
    pub payload: Payload,
    /// How long the stream may be quiet without a sign of life.
    pub heartbeat: Option<Duration>,
}

/// Decodes an Attach.
pub fn attach(request: proto::AttachRequest) -> Result<Attach, Status> {
    let proto::AttachRequest {
        session_id,
        turn_id,
        from_sequence: from,
        payload,
        include_partial_messages,
        heartbeat_interval,
    } = request;
    let partials = partials(include_partial_messages);
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    let turn = turn_of(&mut check, &turn_id);
    let payload = payload_of(&mut check, payload);
    let heartbeat = heartbeat(&mut check, heartbeat_interval);
    let attach = |session_id| Attach { session_id, turn, from, partials, payload, heartbeat };
    required(check, session_id).map(attach)
}

/// A WatchSession, ready for the pool.
#[derive(Debug)]
pub struct Watch {
    /// The session.
    pub session_id: SessionId,
    /// From where on.
    pub from: From,
    /// Whether the caller sees partial messages.
    pub partials: Partials,
    /// What events are filled with.
    pub payload: Payload,
    /// How long the stream may be quiet without a sign of life.
    pub heartbeat: Option<Duration>,
}

/// Decodes a WatchSession.
pub fn watch(request: proto::WatchSessionRequest) -> Result<Watch, Status> {
    let proto::WatchSessionRequest {
        session_id,
        cursor,
        from_start,
        payload,
        include_partial_messages,
        heartbeat_interval,
    } = request;
    let partials = partials(include_partial_messages);
    let mut check = Check::default();
    let session_id = check.name("session_id", &session_id, SessionId::parse);
    let payload = payload_of(&mut check, payload);
    let heartbeat = heartbeat(&mut check, heartbeat_interval);
    let from = match (cursor.is_empty(), from_start) {
        (true, true) => From::Start,
        (true, false) => From::Now,
        (false, true) => {
            check.bad("from_start", "must not be set together with cursor");
            From::Start
        }
        (false, false) => {
            let of = session_id.as_ref();
            of.and_then(|id| place(&mut check, cursor, id, partials)).unwrap_or(From::Now)
        }
    };
    let watch = |session_id| Watch { session_id, from, partials, payload, heartbeat };
    required(check, session_id).map(watch)
}

fn place(check: &mut Check, text: String, of: &SessionId, partials: Partials) -> Option<From> {
    match Cursor::parse(&text, of) {
        Ok(cursor) if cursor.partials == partials => return Some(From::Cursor(cursor, text)),
        Ok(_) => {
            check.bad("include_partial_messages", "must be as in the call that gave the cursor");
        }
        Err(no_cursor) => check.bad("cursor", no_cursor.to_string()),
    }
    None
}
