//! What holds in a session beyond its options. The CLI says its permission mode and its
//! model, and what it says is the state: a request is compared with that, not with what was
//! asked for before. Rules and folders it does not say; they are what callers granted.
//!
//! A grant is kept before its answer goes to the CLI (`answering`), so that no tool has run by a
//! rule, or was spared one, that the next process does not know. A process is given the rules before
//! anything else, and no prompt until it has taken them: there is no time in which a refusal
//! does not hold. Policy is asked before each start; what it does not allow any more is left
//! out, and the session goes on without it.

use std::{future::Future, sync::Arc};

use tracing::warn;

use super::{command::ResumeFrom, commits::failed, task::SessionTask, undone::Undone};
use crate::{
    cli::{
        applied::{self, Told},
        frame::Frame,
    },
    domain::{
        acquired::Acquired,
        failure::Cause,
        ids::{CliSessionId, SessionKey},
        options::{Difference, LiveChange, Options},
    },
};

impl SessionTask {
    /// How what is wanted differs from what is in force.
    pub(super) fn difference(&self, wanted: &Options) -> Difference {
        self.status.acquired.difference(&self.status.options, wanted)
    }

    /// The options with all folders that the process works in. The mode and the model that
    /// it has come to by itself are not for the policy to judge until it starts anew.
    pub(super) fn with_folders(&self) -> Options {
        let Options { add_dirs, .. } = self.status.acquired.to_start(&self.status.options);
        Options { add_dirs, ..Options::clone(&self.status.options) }
    }

    /// Options were asked for, and hold from here on.
    pub(super) fn asked_anew(&mut self, wanted: &Options) {
        self.status.ask_anew(wanted);
    }

    /// Takes note of the mode and the model that the CLI says.
    pub(super) fn hear_state(&mut self, frame: &Frame) {
        let Some(Told { mode, model }) = Told::by(frame) else { return };
        let news = self.status.acquire(|acquired, options| {
            let mode = acquired.hear_mode(mode, options);
            acquired.hear_model(model, options) || mode
        });
        if news {
            self.journal.remember();
            self.show();
        }
    }

    /// The same of frames that are put aside. What they say of the state is heard in the
    /// order in which it was said, before the answer to a change that came behind, and not
    /// once more when their turn is read.
    pub(super) fn hear_states(&mut self, frames: &mut [Frame]) {
        for frame in frames {
            self.hear_state(frame);
            applied::untell(frame);
        }
    }

    /// The CLI has accepted a change, and may say to what.
    pub(super) fn hear_answer(&mut self, change: &LiveChange, answer: &str) {
        self.asked_anew(&change.as_options());
        if matches!(change, LiveChange::PermissionMode(_)) {
            let mode = applied::mode_in(answer);
            self.status.acquire(|acquired, options| acquired.hear_mode(&mode, options));
        }
        self.journal.remember();
        self.show();
    }

    /// What a turn that needs a process begins with: a new conversation with nothing, a copy
    /// with what its original has come to.
    pub(super) async fn begin_with(
        &mut self,
        resume: Option<ResumeFrom>,
        new_conversation: bool,
    ) -> Result<(), Undone> {
        match resume {
            Some(ResumeFrom { id, fork: true }) if id != self.status.cli_session_id => {
                let acquired = self.acquired_in(id);
                let acquired = self.while_wanted(acquired).await??;
                self.status.replace_acquired(acquired);
            }
            Some(ResumeFrom { fork: true, .. }) => {}
            _ if new_conversation => {
                self.status.replace_acquired(Acquired::default());
            }
            _ => {}
        }
        Ok(())
    }

    /// What the session has come to that works in a conversation.
    fn acquired_in(
        &self,
        conversation: CliSessionId,
    ) -> impl Future<Output = Result<Acquired, Cause>> + use<> {
        let (store, key) = (Arc::clone(&self.ctx.store), self.key.clone());
        async move {
            let owner = store.other_owner(&key, conversation).await;
            let Some(owner) = owner.map_err(failed)? else {
                return Ok(Acquired::default());
            };
            let key = SessionKey::new(key.tenant, owner);
            let record = store.load(&key).await.map_err(failed)?;
            Ok(record.filter(|record| record.cli_session_id == conversation).map_or_else(
                Acquired::default,
                |record| {
                    let in_force = record.acquired.in_force(&record.options);
                    Acquired {
                        mode: in_force.permission_mode,
                        model: in_force.model,
                        ..record.acquired
                    }
                },
            ))
        }
    }

    /// Leaves out what the policy does not allow any more.
    pub(super) async fn hold_to_policy(&mut self) -> Result<(), Undone> {
        let asked = self.ctx.supply.allowed(&self.status.acquired);
        let allowed = self.while_wanted(asked).await??;
        let before = &*self.status.acquired;
        if allowed == *before {
            return Ok(());
        }
        let folders = before.grants.folders.len() - allowed.grants.folders.len();
        let mode = before.mode.as_deref().filter(|_| allowed.mode.is_none());
        // What the CLI does without being asked is nobody's grant.
        if folders > 0 || mode.is_some_and(|mode| mode != "default") {
            let session_id = &self.status.session_id;
            warn!(%session_id, mode, folders, "permissions_not_allowed_any_more");
        }
        self.status.replace_acquired(allowed);
        self.journal.remember();
        Ok(())
    }
}
