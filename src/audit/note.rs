//! What the layers of a call learn of it: it goes with the request, among its extensions, and is read
//! when the call has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{access::Identity, domain::ids::SessionId};

/// A call's place for what is learned of it. Cloning gives another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Note(Arc<Mutex<Noted>>);

/// What is known of a call.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Who calls.
    pub caller: Option<Identity>,
    /// The node that has forwarded it.
    pub forwarded_by: Option<Arc<str>>,
    /// The session that it names.
    pub session: Option<SessionId>,
    /// The prompt that it answers, and how.
    pub answer: Option<(String, &'static str)>,
}

impl Note {
    /// Takes note of who calls, and of the node that has forwarded the call.
    pub fn caller(&self, caller: &Identity, forwarded_by: Option<Arc<str>>) {
        let mut noted = self.lock();
        (noted.caller, noted.forwarded_by) = (Some(caller.clone()), forwarded_by);
    }

    /// Takes note of the session.
    pub fn session(&self, id: &SessionId) {
        self.lock().session = Some(id.clone());
    }

    /// Takes note of the prompt that is answered, and of how.
    pub fn answer(&self, prompt_id: &str, decision: &'static str) {
        self.lock().answer = Some((prompt_id.to_owned(), decision));
    }

    /// All of it.
    pub fn read(&self) -> Noted {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
