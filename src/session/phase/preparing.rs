//! What the next process of a session is to be: which conversation it serves, and with which
//! options. The store is asked for that, and whoever asks the session meanwhile is answered.

use std::sync::Arc;

use tracing::debug;

use crate::{
    domain::{
        acquired::Acquired,
        failure::{Cause, Remedy},
        ids::CliSessionId,
    },
    session::{
        command::{CloseReason, ResumeFrom, TurnRequest},
        commits::failed as store_failed,
        queue::Waiting,
        said::Kept,
        task::SessionTask,
        undone::Undone,
    },
    supply::Conversation,
};

impl SessionTask {
    /// Settles what the process is to be: conversation and options. Returns whether the
    /// conversation begins, and what was said in the one that is taken up.
    pub(super) async fn prepare_to_connect(
        &mut self,
        turn: &Waiting,
    ) -> Result<(bool, Arc<Kept>), Undone> {
        let request = &turn.request;
        if self.journal.recall_anew() && self.ran_elsewhere(request).await? {
            // Asked again, it is told from the store.
            self.leave(CloseReason::Moved);
            return Err(Undone::Unwanted);
        }
        self.recall().await?;
        if let Some(cause) = self.journal.commits.failure() {
            return Err(cause.clone().into());
        }
        let known = self.journal.is_known();
        let elsewhere =
            request.resume.is_some_and(|resume| resume.id != self.status.cli_session_id);
        // One that is sent again was granted its conversation before.
        if known && elsewhere && !request.new_conversation && turn.again.is_none() {
            return Err(Cause::mismatch(&["resume"], Remedy::NewConversation).into());
        }
        let options = self.status.options.updated(&request.options);
        self.check_budget(&options)?;
        let conversation = match request.resume {
            Some(ResumeFrom { id, fork: true }) => {
                Conversation::CopyOf { from: id, to: self.ownership.fresh()? }
            }
            Some(ResumeFrom { id, fork: false }) => {
                self.take_up(id).await?;
                Conversation::Existing(id)
            }
            None if request.new_conversation => Conversation::Own(self.ownership.fresh()?),
            None => self.go_on(known).await?,
        };
        self.begin_with(request.resume, request.new_conversation).await?;
        self.asked_anew(&request.options);
        self.hold_to_policy().await?;
        self.converse(conversation);
        let source = match conversation {
            Conversation::Own(id) if !known || request.new_conversation => {
                debug!(cli_session_id = %id, "conversation_begins");
                self.status.acquire(Acquired::begin_conversation);
                return Ok((true, Arc::new(self.nothing_said(id))));
            }
            Conversation::Own(id) | Conversation::Existing(id) => id,
            Conversation::CopyOf { from, .. } => from,
        };
        Ok((false, Arc::new(self.said(source).await?)))
    }

    /// Whether another service has run this very turn while it had the session.
    async fn ran_elsewhere(&mut self, request: &TurnRequest) -> Result<bool, Undone> {
        let Some(turn) = request.turn_id.clone() else { return Ok(false) };
        let (store, key) = (Arc::clone(&self.ctx.store), self.key.clone());
        let kept = self.while_wanted(async move { store.turn(&key, &turn).await }).await?;
        Ok(kept.map_err(store_failed)?.is_some())
    }

    /// Makes a conversation the session's own, or says whose it is.
    pub(in crate::session) async fn take_up(&mut self, id: CliSessionId) -> Result<(), Undone> {
        let asked = self.ownership.ask_for(id);
        let taken = self.while_wanted(asked).await??;
        self.ownership.take(taken);
        Ok(())
    }

    /// The conversation that the next process works in when the turn does not say. One that
    /// others have too, from before that was refused, is gone on with in a copy.
    async fn go_on(&mut self, is_known: bool) -> Result<Conversation, Undone> {
        let current = self.ownership.current();
        match current {
            Conversation::Own(id) if is_known => match self.take_up(id).await {
                Err(Undone::Failed(Cause::SessionConflict { .. })) => {
                    Ok(Conversation::CopyOf { from: id, to: self.ownership.fresh()? })
                }
                taken => taken.map(|()| current),
            },
            Conversation::Own(_) => Ok(self.ownership.go_on().map(|()| current)?),
            // Chosen by a turn that got no process.
            Conversation::Existing(id) => self.take_up(id).await.map(|()| current),
            Conversation::CopyOf { .. } => Ok(current),
        }
    }
}
