//! What the CLI asks, and who answers it. It waits for an answer to each request, and most kinds
//! never time out in the CLI. So every request that can be answered is passed on, or refused at
//! once with the reason; refusals that the CLI does not read are bounded. Requests to callers are
//! refused while the process is starting, has no session, or is ending. Messages to the tool
//! servers of its session are answered from before its `initialize` on, turn or no turn.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::debug;

use super::{
    answer::refusal_of,
    frame::{Frame, FrameKind, Prompt, RequestKind},
    mcp::Mcp,
    request::control_refusal,
};
use crate::tools::SessionTools;

/// Bytes of refusals that may wait for a CLI that does not read its input. Bounds memory if an
/// agent forges requests on the CLI's output.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// Who answers what a CLI asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Nobody: the process is starting, waits to be taken, or is ending.
    Nobody,
    /// The callers of the session that has the process.
    Callers,
}

impl Audience {
    /// Why a request is refused; `None` if somebody answers it. Callers answer kinds that are
    /// not known here, too, in the CLI's own words.
    fn refusal(self, kind: RequestKind) -> Option<&'static str> {
        match (self, kind) {
            (Self::Nobody, _) => Some("no session has this process: nobody can answer"),
            (Self::Callers, RequestKind::Mcp) => Some("no MCP server is registered by this name"),
            (
                Self::Callers,
                // Those that are registered.
                RequestKind::Hook
                | RequestKind::ToolPermission
                | RequestKind::Question
                | RequestKind::Elicitation
                | RequestKind::Dialog
                | RequestKind::Unknown,
            ) => None,
        }
    }
}

/// Where the requests of one CLI go.
#[derive(Debug)]
pub struct Router {
    audience: Audience,
    /// The tool servers of the session.
    servers: Option<Mcp>,
    /// The callbacks of its hooks.
    hooks: Vec<String>,
    /// Refusals for which the CLI's input had no room yet.
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
}

impl Router {
    /// Nobody answers yet.
    pub fn new() -> Self {
        Self {
            audience: Audience::Nobody,
            servers: None,
            hooks: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
        }
    }

    /// Callers answer from here on.
    pub fn pass_on(&mut self) {
        self.audience = Audience::Callers;
    }

    /// Nobody answers any more; calls of tools that are under way are given up.
    pub fn refuse(&mut self) {
        self.audience = Audience::Nobody;
        self.servers = None;
    }

    /// Tool servers answer from here on what is sent to them.
    pub fn serve(&mut self, tools: SessionTools, outbox: &mpsc::Sender<Bytes>) {
        self.servers = Some(Mcp::new(tools, outbox));
    }

    /// These callbacks of hooks are registered.
    pub fn register(&mut self, hooks: Vec<String>) {
        self.hooks = hooks;
    }

    /// Why a request is refused; `None` if somebody answers it.
    fn refusal(&self, request: &Prompt) -> Option<&'static str> {
        let is_unknown =
            request.kind() == RequestKind::Hook && !self.hooks.contains(&request.callback);
        let unknown = is_unknown.then_some("no hook is registered by this name");
        unknown.or_else(|| self.audience.refusal(request.kind()))
    }

    /// Refuses a request that nobody answers, and turns its frame into [`FrameKind::Other`], so that
    /// it is not shown as a prompt. A request without an id cannot be answered and passes through.
    /// Returns whether anybody beside the tool servers has to see the frame.
    pub fn sort(&mut self, frame: &mut Frame, outbox: &mpsc::Sender<Bytes>) -> bool {
        let FrameKind::Prompt(request) = &frame.kind else { return true };
        if request.id.is_empty() {
            return true;
        }
        if request.kind() == RequestKind::Mcp
            && self.servers.as_mut().is_some_and(|servers| servers.take(frame, request))
        {
            return false;
        }
        let Some(why) = self.refusal(request) else { return true };
        debug!(kind = ?request.kind(), why, "cli_request_refused");
        let refusal = match request.hook() {
            // What it guards is not to happen while the process ends: an error would let it.
            Some(_) => refusal_of(request, why),
            None => control_refusal(&request.raw_id, why),
        };
        self.queue_refusal(refusal);
        self.flush(outbox);
        frame.kind = FrameKind::Other;
        true
    }

    /// Whether a refusal waits for room.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self, outbox: &mpsc::Sender<Bytes>) {
        while let Some(line) = self.pending.front() {
            match outbox.try_send(line.clone()) {
                Err(mpsc::error::TrySendError::Full(_)) => return,
                // If its input is closed, the CLI cannot read refusals: they are dropped.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.pending_bytes -= line.len();
                    self.pending.pop_front();
                }
            }
        }
    }

    fn queue_refusal(&mut self, line: Bytes) {
        if self.pending_bytes + line.len() > MAX_PENDING_BYTES {
            debug!(bytes = line.len(), "cli_request_not_refused");
            return;
        }
        self.pending_bytes += line.len();
        self.pending.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asks(subtype: &str, id: &Value) -> Frame {
        let line = json!({"type": "control_request", "request_id": id,
            "request": {"subtype": subtype}});
        Frame::parse(Bytes::from(line.to_string())).expect("a frame")
    }

    fn is_passed_on(frame: &Frame) -> bool {
        matches!(frame.kind, FrameKind::Prompt(_))
    }

    fn refusals(inbox: &mut mpsc::Receiver<Bytes>) -> Vec<Value> {
        std::iter::from_fn(|| inbox.try_recv().ok())
            .map(|line| serde_json::from_slice(&line).expect("JSON"))
            .collect()
    }

    #[test]
    fn what_nobody_answers_is_refused_and_says_why() {
        let (outbox, mut inbox) = mpsc::channel(8);
        let mut router = Router::new();
        let sort = |router: &mut Router, subtype: &str, id: Value| {
            let mut frame = asks(subtype, &id);
            router.sort(&mut frame, &outbox);
            is_passed_on(&frame)
        };
        assert!(!sort(&mut router, "can_use_tool", json!("a")), "nobody is there yet");
        router.pass_on();
        for kind in ["can_use_tool", "elicitation", "request_user_dialog", "news"] {
            assert!(sort(&mut router, kind, json!("b")), "{kind}");
        }
        assert!(!sort(&mut router, "hook_callback", json!("c")));
        assert!(!sort(&mut router, "mcp_message", json!(7)));
        assert!(sort(&mut router, "mcp_message", json!("")), "no answer could name it");
        router.refuse();
        assert!(!sort(&mut router, "can_use_tool", json!("d")));
        let refused = refusals(&mut inbox);
        let ids: Vec<_> =
            refused.iter().map(|line| line["response"]["request_id"].clone()).collect();
        assert_eq!(ids, [json!("a"), json!("c"), json!(7), json!("d")]);
        for line in refused {
            assert_eq!(
                (&line["type"], &line["response"]["subtype"]),
                (&json!("control_response"), &json!("error"))
            );
            assert!(line["response"]["error"].as_str().is_some_and(|why| !why.is_empty()));
        }
    }

    #[test]
    fn refusals_wait_for_room_within_a_bound() {
        let (outbox, mut inbox) = mpsc::channel(1);
        let mut router = Router::new();
        for id in ["a", "b", "c"] {
            router.sort(&mut asks("can_use_tool", &json!(id)), &outbox);
        }
        let mut told = 0;
        while router.has_pending() {
            told += refusals(&mut inbox).len();
            router.flush(&outbox);
        }
        assert_eq!(told + refusals(&mut inbox).len(), 3, "none is forgotten");
        for _ in 0..20 {
            router.sort(&mut asks("can_use_tool", &json!("x".repeat(100_000))), &outbox);
        }
        assert!(router.pending_bytes <= MAX_PENDING_BYTES);
        drop(inbox);
        router.flush(&outbox);
        assert_eq!(
            (router.has_pending(), router.pending_bytes),
            (false, 0),
            "nobody waits for them"
        );
    }
}
