//! One backend: what waits to be told to it, and its open calls. Locks are held for a look at
//! its maps, never across a wait.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{Answer, Call, Failure, MAX_OPEN, Message, Offer, Progress, Tool};
use crate::domain::ids::SessionId;

/// A backend, as it is shared by its stream and by those who call it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) server: String,
    pub(super) tools: BTreeMap<String, Arc<Tool>>,
    sessions: super::Served,
    state: Mutex<State>,
    /// Told when something waits to be told.
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Message>,
    open: BTreeMap<u64, Open>,
    /// The call that it was given last.
    last: u64,
    gone: bool,
}

/// An open call.
#[derive(Debug)]
struct Open {
    tool: String,
    reply: oneshot::Sender<Result<Answer, Failure>>,
    progress: mpsc::Sender<Progress>,
}

/// An open call of a session. Dropped before it is answered, nobody waits for the answer.
#[derive(Debug)]
pub(super) struct OpenCall {
    link: Arc<Link>,
    id: u64,
    /// The answer; an error if the backend is gone.
    pub(super) answer: oneshot::Receiver<Result<Answer, Failure>>,
}

impl OpenCall {
    /// Gives the call up, and says why.
    pub(super) fn give_up(self, reason: &str) {
        self.link.cancel(self.id, reason);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.link.cancel(self.id, "the session does not wait for the answer any more");
    }
}

impl Link {
    pub(super) fn new(offer: Offer) -> Self {
        let Offer { server, tools, sessions } = offer;
        let tools = tools.into_iter().map(|tool| (tool.name.clone(), Arc::new(tool))).collect();
        Self { server, tools, sessions, state: Mutex::default(), ready: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it offers this server to this session.
    pub(super) fn serves(&self, server: &str, session: &SessionId) -> bool {
        self.server == server && self.sessions.has(session)
    }

    /// Its open calls, and the one that it was given last: what has less of both goes first.
    pub(super) fn load(&self) -> (usize, u64) {
        let state = self.state();
        (state.open.len(), state.last)
    }

    /// Gives it a call.
    pub(super) fn give(
        self: &Arc<Self>,
        call: Call,
        progress: mpsc::Sender<Progress>,
    ) -> Result<OpenCall, Failure> {
        let (reply, answer) = oneshot::channel();
        let (id, tool) = (call.id, call.tool.clone());
        let mut state = self.state();
        if state.gone {
            return Err(Failure::Gone(tool));
        }
        if state.open.len() >= MAX_OPEN {
            return Err(Failure::Busy(tool));
        }
        state.open.insert(id, Open { tool, reply, progress });
        state.last = id;
        state.queue.push_back(Message::Call(call));
        drop(state);
        self.ready.notify_one();
        Ok(OpenCall { link: Arc::clone(self), id, answer })
    }

    /// Nobody waits for this call any more. A backend that has not been told of it never is.
    fn cancel(&self, id: u64, reason: &str) {
        let mut state = self.state();
        if state.open.remove(&id).is_none() {
            return;
        }
        let waits = |message: &Message| matches!(message, Message::Call(call) if call.id == id);
        match state.queue.iter().position(waits) {
            Some(place) => drop(state.queue.remove(place)),
            None => state.queue.push_back(Message::Cancel { id, reason: reason.to_owned() }),
        }
        drop(state);
        self.ready.notify_one();
    }

    /// The next thing to be told. Cancel safe; for one who waits.
    pub(super) async fn next(&self) -> Message {
        loop {
            let message = self.state().queue.pop_front();
            match message {
                Some(message) => return message,
                None => self.ready.notified().await,
            }
        }
    }

    /// A call was answered, or its answer is out of its bounds. Nothing if it is not open.
    pub(super) fn answer(&self, id: u64, answer: Result<Answer, String>) {
        let mut state = self.state();
        let Some(open) = state.open.remove(&id) else { return };
        if let Err(problem) = &answer {
            let reason = format!("the result was refused: {problem}");
            state.queue.push_back(Message::Cancel { id, reason });
            self.ready.notify_one();
        }
        drop(state);
        // Whoever called may have gone just now.
        open.reply.send(answer.map_err(Failure::Malformed)).ok();
    }

    /// A call has come so far. What its caller cannot take is left out.
    pub(super) fn progress(&self, id: u64, progress: Progress) {
        if let Some(open) = self.state().open.get(&id) {
            open.progress.try_send(progress).ok();
        }
    }

    /// It is gone: its open calls fail.
    pub(super) fn end(&self) {
        let open = {
            let mut state = self.state();
            state.gone = true;
            state.queue.clear();
            std::mem::take(&mut state.open)
        };
        for call in open.into_values() {
            let gone = Failure::Gone(call.tool);
            call.reply.send(Err(gone)).ok();
        }
    }
}
