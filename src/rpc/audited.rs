//! A call on its way into the audit log: who called, which session it named, and how it ended. The
//! layers behind write into a [`Note`] among the request's extensions what they learn.

use std::net::SocketAddr;

use http::{HeaderMap, Request};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::auth_layer::HEALTH;
use crate::{
    audit::{Audit, Call, Entry, Note},
    transport::Peer,
};

/// What calls of reflection begin with: they say what could be called, and are as frequent as a
/// tool likes.
const REFLECTION: &str = "/grpc.reflection.";

/// A call that will be recorded.
#[derive(Debug)]
pub(super) struct Audited {
    audit: Audit,
    note: Note,
    peer: Option<SocketAddr>,
    reason: Option<String>,
    fields: Vec<String>,
}

impl Audited {
    /// Of a request that is to be recorded when it has ended, if it is.
    pub(super) fn begin<B>(audit: &Audit, request: &mut Request<B>) -> Option<Self> {
        let path = request.uri().path();
        if !audit.is_on() || path.starts_with(HEALTH) || path.starts_with(REFLECTION) {
            return None;
        }
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        let note = Note::default();
        request.extensions_mut().insert(note.clone());
        Some(Self { audit: audit.clone(), note, peer, reason: None, fields: Vec::new() })
    }

    /// Takes note of an error among headers or trailers: its reason and the fields that it names.
    /// Descriptions of fields have values in them.
    pub(super) fn heard(&mut self, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        if status.code() == Code::Ok {
            return;
        }
        let details = status.get_error_details();
        self.reason = details.error_info().map(|info| info.reason.clone());
        let violations = details.bad_request().map(|it| it.field_violations.as_slice());
        self.fields = violations.unwrap_or_default().iter().map(|it| it.field.clone()).collect();
    }

    /// Records the call.
    pub(super) fn end(
        self,
        (method, outcome): (&str, &str),
        duration_ms: u64,
        trace_id: Option<String>,
    ) {
        let noted = self.note.read();
        let caller = noted.caller.as_ref();
        let answer = noted.answer.as_ref();
        let call = Call {
            method,
            peer: self.peer.map(|peer| peer.to_string()),
            forwarded_by: noted.forwarded_by.as_deref(),
            caller: caller.and_then(|caller| caller.name.as_deref()),
            tenant: caller.map(|caller| caller.tenant.as_str()),
            session_id: noted.session.as_ref().map(|id| id.as_str()),
            prompt_id: answer.map(|(prompt_id, _)| prompt_id.as_str()),
            decision: answer.map(|(_, decision)| *decision),
            outcome,
            reason: self.reason,
            fields: self.fields,
            duration_ms,
            trace_id,
        };
        self.audit.record(&Entry::Call(Box::new(call)));
    }
}
