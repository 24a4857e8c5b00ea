//! One conversation has one session. A session holds every conversation that it works in
//! (`tenant::Conversations`) from before a process is started on it until the store has it
//! committed as its own; from then on the store says whose it is, also while the session
//! has no task. What another session of the tenant has is refused, whoever asks: a caller
//! (`options.resume`), or the CLI, which says by itself that it works in a conversation of
//! another id (`/clear`), and in whose name an agent can speak.
//!
//! Races: two sessions that take up the same conversation at once meet at the hold, which
//! one of them gets. One that commits, and lets go, while another asks is found by asking
//! the store again behind the hold. Several services on one store meet in the commit.

use std::sync::Arc;

use tracing::{debug, warn};

use super::{
    commits::{Share, failed},
    context::SessionContext,
};
use crate::{
    domain::{
        failure::Cause,
        ids::{CliSessionId, SessionKey},
    },
    store::Store,
    supply::Conversation,
    tenant::{Hold, Tenant},
};

/// The conversations of a session.
#[derive(Debug)]
pub struct Ownership {
    store: Arc<dyn Store>,
    tenant: Arc<Tenant>,
    key: SessionKey,
    /// The one that it works in.
    current: Conversation,
    /// Those that no other session gets, beside those that the store has as this one's.
    held: Vec<Hold>,
    /// The one that the CLI says it works in by now, if it is another.
    moved_to: Option<CliSessionId>,
    /// Whether the current one's id is what the CLI said, and not yet the store's.
    claimed: bool,
    /// Whether the current one was there before the session, which does not own it then.
    taken_up: bool,
}

impl Ownership {
    /// A session that works in a conversation of its own.
    pub fn new(ctx: &SessionContext, key: SessionKey, conversation: CliSessionId) -> Self {
        Self {
            store: Arc::clone(&ctx.store),
            tenant: Arc::clone(&ctx.tenant),
            key,
            current: Conversation::Own(conversation),
            held: Vec::new(),
            moved_to: None,
            claimed: false,
            taken_up: false,
        }
    }

    /// The conversation that the session works in.
    pub fn current(&self) -> Conversation {
        self.current
    }

    /// The store knows the session by this conversation.
    pub fn recall(&mut self, conversation: CliSessionId) {
        self.current = Conversation::Own(conversation);
    }

    /// The conversation from here on, which the service itself has chosen.
    pub fn converse(&mut self, conversation: Conversation) {
        self.claimed = false;
        match conversation {
            Conversation::Existing(_) => self.taken_up = true,
            Conversation::Own(id) if id == self.current.id() => {}
            Conversation::Own(_) | Conversation::CopyOf { .. } => self.taken_up = false,
        }
        self.current = conversation;
    }

    /// Makes a conversation the session's own, or says whose it is.
    pub async fn take_up(&mut self, id: CliSessionId) -> Result<(), Cause> {
        // A session that the store knows as the owner must not find it held by one that is
        // about to be refused, so the store is asked before.
        self.refuse_owned(id).await?;
        if self.holds(id) {
            return Ok(());
        }
        self.reserve(id)?;
        let refused = self.refuse_owned(id).await;
        if refused.is_err() {
            self.held.retain(|hold| hold.id() != id);
        }
        refused
    }

    async fn refuse_owned(&self, conversation: CliSessionId) -> Result<(), Cause> {
        match self.store.other_owner(&self.key, conversation).await.map_err(failed)? {
            Some(owner) => Err(Cause::SessionConflict { conversation, owner }),
            None => Ok(()),
        }
    }

    /// The conversation that the next process works in when the turn does not say. One that
    /// others have too, from before that was refused, is gone on with in a copy.
    pub async fn go_on(&mut self, is_known: bool) -> Result<Conversation, Cause> {
        match self.current {
            Conversation::Own(id) if is_known => match self.take_up(id).await {
                Err(Cause::SessionConflict { .. }) => {
                    Ok(Conversation::CopyOf { from: id, to: self.fresh()? })
                }
                taken => taken.map(|()| self.current),
            },
            Conversation::Own(id) => self.reserve(id).map(|()| self.current),
            // Chosen by a turn that got no process.
            Conversation::Existing(id) => self.take_up(id).await.map(|()| self.current),
            Conversation::CopyOf { .. } => Ok(self.current),
        }
    }

    /// A conversation that nobody has.
    pub fn fresh(&mut self) -> Result<CliSessionId, Cause> {
        let id = CliSessionId::fresh();
        self.reserve(id)?;
        Ok(id)
    }

    /// The conversations that it holds.
    pub fn held(&self) -> Vec<CliSessionId> {
        self.held.iter().map(Hold::id).collect()
    }

    fn holds(&self, id: CliSessionId) -> bool {
        self.held.iter().any(|hold| hold.id() == id)
    }

    /// Holds a conversation until the store has it.
    fn reserve(&mut self, id: CliSessionId) -> Result<(), Cause> {
        let session = &self.key.session;
        match self.tenant.conversations.hold(id, session) {
            Ok(hold) => self.held.push(hold),
            Err(owner) if owner == *session => {}
            Err(owner) => return Err(Cause::SessionConflict { conversation: id, owner }),
        }
        Ok(())
    }

    /// The store has this by now. Lets go of what was held when the commit began, except for
    /// the conversation that goes on.
    pub fn release_kept(&mut self, kept: &Share) {
        let current = self.current.id();
        if kept.conversation == current {
            self.claimed = false;
            self.taken_up = false;
        }
        let next = self.moved_to;
        self.held.retain(|hold| {
            let id = hold.id();
            id == current || Some(id) == next || !kept.held.contains(&id)
        });
    }

    /// Whether lines of a conversation may be the session's: what another holds is not.
    pub fn may_add_to(&self, id: CliSessionId) -> bool {
        let holder = self.tenant.conversations.holder(id);
        holder.is_none_or(|holder| holder == self.key.session)
    }

    /// The CLI says in which conversation it works. Another one is followed when what was
    /// said in it is kept; nobody else gets it meanwhile.
    pub fn follow(&mut self, cli_session_id: &str) {
        let Some(id) = CliSessionId::parse(cli_session_id) else { return };
        self.moved_to = (id != self.current.id()).then_some(id);
        if self.moved_to.is_some() && self.reserve(id).is_err() {
            warn!(session_id = %self.key.session, conversation = %id, "conversation_of_another");
        }
    }

    /// Follows the CLI to the conversation that it says it works in, unless another session
    /// has it: then the session stays with its own. Returns the new one.
    pub async fn settle_move(&mut self) -> Result<Option<CliSessionId>, Cause> {
        let Some(id) = self.moved_to else { return Ok(None) };
        match self.take_up(id).await {
            Ok(()) => {
                debug!(cli_session_id = %id, "conversation_changed");
                self.moved_to = None;
                self.claimed = true;
                self.current = Conversation::Own(id);
                Ok(Some(id))
            }
            Err(conflict @ Cause::SessionConflict { .. }) => {
                self.moved_to = None;
                self.held.retain(|hold| hold.id() != id);
                Err(conflict)
            }
            // The store will know later.
            Err(cause) => Err(cause),
        }
    }

    /// The session is forgotten. Returns the conversation that goes with it although it was
    /// never kept: one that began here, and not only by its CLI's word.
    pub fn forget(&mut self) -> Option<CliSessionId> {
        let began = !self.taken_up && !self.claimed;
        (self.moved_to, self.claimed, self.taken_up) = (None, false, false);
        began.then_some(self.current.id())
    }
}
