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

use std::{future::Future, sync::Arc};

use tracing::{debug, warn};

use super::{
    commits::{Share, Taken, failed},
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

    /// Asks for a conversation to be the session's own, or whose it is. Borrows nothing: the
    /// session does something else meanwhile, and is given what comes of it by
    /// [`Self::take`].
    pub fn ask_for(
        &self,
        id: CliSessionId,
    ) -> impl Future<Output = Result<Taken, Cause>> + Send + 'static {
        let (store, tenant) = (Arc::clone(&self.store), Arc::clone(&self.tenant));
        let (key, holds) = (self.key.clone(), self.holds(id));
        async move {
            // A session that the store knows as the owner must not find it held by one that is
            // about to be refused, so the store is asked before.
            refuse_owned(&*store, &key, id).await?;
            if holds {
                return Ok(Taken { id, hold: None });
            }
            let hold = hold(&tenant, &key, id)?;
            refuse_owned(&*store, &key, id).await?;
            Ok(Taken { id, hold })
        }
    }

    /// A conversation is the session's own from here on.
    pub fn take(&mut self, taken: Taken) {
        let Taken { id, hold } = taken;
        if !self.holds(id) {
            self.held.extend(hold);
        }
    }

    /// Goes on with a conversation of its own that the store does not know.
    pub fn go_on(&mut self) -> Result<(), Cause> {
        self.reserve(self.current.id())
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
        self.held.extend(hold(&self.tenant, &self.key, id)?);
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

    /// The conversation that the CLI says it works in by now, if it is another.
    pub fn moved_to(&self) -> Option<CliSessionId> {
        self.moved_to
    }

    /// Follows the CLI to a conversation that was asked for ([`Self::ask_for`]), unless another
    /// session has it: then the session stays with its own. Returns the new one.
    pub fn settle_move(
        &mut self,
        id: CliSessionId,
        asked: Result<Taken, Cause>,
    ) -> Result<Option<CliSessionId>, Cause> {
        if self.moved_to != Some(id) {
            // It has moved on since.
            return Ok(None);
        }
        match asked {
            Ok(taken) => {
                debug!(cli_session_id = %id, "conversation_changed");
                self.take(taken);
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

async fn refuse_owned(
    store: &dyn Store,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<(), Cause> {
    match store.other_owner(key, conversation).await.map_err(failed)? {
        Some(owner) => Err(Cause::SessionConflict { conversation, owner }),
        None => Ok(()),
    }
}

/// Holds a conversation for a session; `None` if it does so already.
fn hold(tenant: &Tenant, key: &SessionKey, id: CliSessionId) -> Result<Option<Hold>, Cause> {
    match tenant.conversations.hold(id, &key.session) {
        Ok(hold) => Ok(Some(hold)),
        Err(owner) if owner == key.session => Ok(None),
        Err(owner) => Err(Cause::SessionConflict { conversation: id, owner }),
    }
}
