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

use tracing::warn;

use super::{keeping::failed, task::SessionTask};
use crate::{failure::Cause, ids::CliSessionId, supply::Conversation};

impl SessionTask {
    /// Makes a conversation the session's own, or says whose it is.
    pub(super) async fn take_up(&mut self, id: CliSessionId) -> Result<(), Cause> {
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
        match self.ctx.store.other_owner(&self.key, conversation).await.map_err(failed)? {
            Some(owner) => Err(Cause::SessionConflict { conversation, owner }),
            None => Ok(()),
        }
    }

    /// The conversation that the next process works in when the turn does not say. One that
    /// others have too, from before that was refused, is gone on with in a copy.
    pub(super) async fn go_on(&mut self) -> Result<Conversation, Cause> {
        let known = self.is_known();
        match self.conversation {
            Conversation::Own(id) if known => match self.take_up(id).await {
                Err(Cause::SessionConflict { .. }) => {
                    Ok(Conversation::CopyOf { from: id, to: self.fresh()? })
                }
                taken => taken.map(|()| self.conversation),
            },
            Conversation::Own(id) => self.reserve(id).map(|()| self.conversation),
            // Chosen by a turn that got no process.
            Conversation::Existing(id) => self.take_up(id).await.map(|()| self.conversation),
            Conversation::CopyOf { .. } => Ok(self.conversation),
        }
    }

    /// A conversation that nobody has.
    pub(super) fn fresh(&mut self) -> Result<CliSessionId, Cause> {
        let id = CliSessionId::fresh();
        self.reserve(id)?;
        Ok(id)
    }

    fn holds(&self, id: CliSessionId) -> bool {
        self.held.iter().any(|hold| hold.id() == id)
    }

    /// Holds a conversation until the store has it.
    fn reserve(&mut self, id: CliSessionId) -> Result<(), Cause> {
        let session = &self.status.session_id;
        match self.ctx.tenant.conversations.hold(id, session) {
            Ok(hold) => self.held.push(hold),
            Err(owner) if owner == *session => {}
            Err(owner) => return Err(Cause::SessionConflict { conversation: id, owner }),
        }
        Ok(())
    }

    /// Lets go of what was held when a commit began that the store has by now, except for
    /// the conversation that goes on.
    pub(super) fn release_kept(&mut self, held: &[CliSessionId]) {
        let current = self.status.cli_session_id;
        let next = self.keeping.moved_to;
        self.held.retain(|hold| {
            hold.id() == current || Some(hold.id()) == next || !held.contains(&hold.id())
        });
    }

    /// Whether lines of a conversation may be the session's: what another holds is not.
    pub(super) fn may_add_to(&self, id: CliSessionId) -> bool {
        let holder = self.ctx.tenant.conversations.holder(id);
        holder.is_none_or(|holder| holder == self.status.session_id)
    }

    /// The CLI says in which conversation it works. Another one is followed when what was
    /// said in it is kept; nobody else gets it meanwhile.
    pub(super) fn follow(&mut self, cli_session_id: &str) {
        let Some(id) = CliSessionId::parse(cli_session_id) else { return };
        self.keeping.moved_to = (id != self.status.cli_session_id).then_some(id);
        if self.keeping.moved_to.is_some() && self.reserve(id).is_err() {
            warn!(session_id = %self.status.session_id, conversation = %id, "conversation_of_another");
        }
    }

    /// Follows the CLI to the conversation that it says it works in, unless another session
    /// has it: then the session stays with its own.
    pub(super) async fn settle_move(&mut self) -> Result<(), Cause> {
        let Some(id) = self.keeping.moved_to else { return Ok(()) };
        let settled = self.take_up(id).await;
        match &settled {
            Ok(()) => self.moved(id),
            Err(Cause::SessionConflict { .. }) => {
                self.keeping.moved_to = None;
                self.held.retain(|hold| hold.id() != id);
            }
            // The store will know later.
            Err(_) => {}
        }
        settled
    }
}
