//! What holds in a session beyond its options. The CLI says its permission mode and its
//! model, and what it says is the state: a request is compared with that, not with what was
//! asked for before. Rules and folders it does not say; they are what callers granted.
//!
//! A grant is kept before its answer goes to the CLI, so that no tool has run by a rule, or
//! was spared one, that the next process does not know. A process is given the rules before
//! anything else, and no prompt until it has taken them: there is no time in which a refusal
//! does not hold. Policy is asked before each start; what it does not allow any more is left
//! out, and the session goes on without it.

use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{
    command::{Decision, Refusal, ResumeFrom},
    commits::failed,
    given_rules::Given,
    process::Process,
    task::SessionTask,
};
use crate::{
    cli::{
        frame::{Frame, FrameKind, RequestKind},
        request::control_response,
    },
    domain::{
        acquired::Acquired,
        failure::Cause,
        grants::{MOST_BYTES, MOST_FOLDERS, MOST_RULES, Update},
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
    pub(super) fn hear_state(&mut self, kind: &FrameKind) {
        let news = match kind {
            FrameKind::Init { permission_mode, model, .. } => {
                self.status.acquire(|acquired, options| {
                    let mode = acquired.hear_mode(permission_mode, options);
                    acquired.hear_model(model, options) || mode
                })
            }
            FrameKind::PermissionMode { mode } => {
                self.status.acquire(|acquired, options| acquired.hear_mode(mode, options))
            }
            _ => false,
        };
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
            self.hear_state(&frame.kind);
            match &mut frame.kind {
                FrameKind::Init { permission_mode, model, .. } => {
                    permission_mode.clear();
                    model.clear();
                }
                kind @ FrameKind::PermissionMode { .. } => *kind = FrameKind::System,
                _ => {}
            }
        }
    }

    /// The CLI has accepted a change, and may say to what.
    pub(super) fn hear_answer(&mut self, change: &LiveChange, answer: &str) {
        self.asked_anew(&change.as_options());
        if matches!(change, LiveChange::PermissionMode(_)) {
            let answer: Value = serde_json::from_str(answer).unwrap_or_default();
            let mode = answer.get("mode").and_then(Value::as_str).unwrap_or_default();
            self.status.acquire(|acquired, options| acquired.hear_mode(mode, options));
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
    ) -> Result<(), Cause> {
        match resume {
            Some(ResumeFrom { id, fork: true }) if id != self.status.cli_session_id => {
                let acquired = self.acquired_in(id).await?;
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
    async fn acquired_in(&self, conversation: CliSessionId) -> Result<Acquired, Cause> {
        let store = &self.ctx.store;
        let owner = store.other_owner(&self.key, conversation).await;
        let Some(owner) = owner.map_err(failed)? else {
            return Ok(Acquired::default());
        };
        let key = SessionKey::new(self.key.tenant.clone(), owner);
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

    /// Leaves out what the policy does not allow any more.
    pub(super) async fn hold_to_policy(&mut self) -> Result<(), Cause> {
        let before = &*self.status.acquired;
        let allowed = self.ctx.supply.allowed(before).await?;
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

    /// Answers a prompt of the CLI.
    pub(super) async fn respond(
        &mut self,
        process: &mut Process,
        prompt_id: String,
        decision: Decision,
    ) -> Result<(), Refusal> {
        let Some(prompt) = process.prompts.get(&prompt_id).cloned() else {
            return Err(self.failure(Cause::PromptNotFound { prompt_id }).into());
        };
        if prompt.kind() == RequestKind::ToolPermission {
            // If it cannot be kept, the prompt waits for another answer.
            self.grant(process, &updates_of(&decision)).await?;
        }
        process.prompts.let_go(&prompt_id);
        self.show_prompts(&process.prompts.shown());
        let line = control_response(&prompt.raw_id, &decision_json(&prompt.input, decision));
        process.lease.connection.send(line).map_err(|blocked| {
            self.failure(Cause::Protocol { detail: blocked.to_string() })
                .on_client(process.lease.client_id)
                .into()
        })
    }

    /// Keeps what an answer grants, for this process's successors.
    async fn grant(&mut self, process: &mut Process, updates: &[Update]) -> Result<(), Refusal> {
        let mut acquired = Acquired::clone(&self.status.acquired);
        for update in updates {
            acquired.grants.apply(update);
            if let Update::Mode(mode) = update {
                acquired.hear_mode(mode, &self.status.options);
            }
        }
        if acquired == *self.status.acquired {
            return Ok(());
        }
        if !acquired.grants.fit() {
            let allowed = format!(
                "at most {MOST_RULES} rules of each behavior, {MOST_FOLDERS} directories and \
                 {MOST_BYTES} bytes of both in a session"
            );
            let cause = Cause::NotAllowed { field: "updated_permissions".to_owned(), allowed };
            return Err(self.failure(cause).into());
        }
        let before = self.status.replace_acquired(acquired);
        self.journal.remember();
        if let Err(cause) = self.until_granted().await {
            self.status.replace_acquired(before);
            // The store may yet take what it was given.
            self.journal.remember();
            return Err(self.failure(cause).into());
        }
        self.show();
        self.take_back(process)
    }

    /// Waits until what was granted is kept, as long as an interrupt may take: the CLI waits
    /// for the answer, and so may whoever would stop it.
    async fn until_granted(&mut self) -> Result<(), Cause> {
        let limit = self.ctx.settings.interrupt_timeout;
        let deadline = Instant::now() + limit;
        self.keep_on();
        while !self.journal.commits.is_idle() {
            let Ok(stir) = timeout_at(deadline, self.journal.commits.stir()).await else {
                let detail = format!("what was granted was not kept in {limit:?}");
                return Err(Cause::StoreUnavailable { detail });
            };
            self.stirred(stir);
        }
        self.journal.commits.failure().cloned().map_or(Ok(()), Err)
    }

    /// Takes rules from the process that it was given at its start: an answer takes away
    /// only what came with an answer to this process. It goes before the answer, so that the
    /// rest of the turn runs without them.
    fn take_back(&mut self, process: &mut Process) -> Result<(), Refusal> {
        let grants = &self.status.acquired.grants;
        if grants.cover_rules_of(&process.given.rules) {
            return Ok(());
        }
        let answer = process.lease.connection.request(grants.request()).map_err(|blocked| {
            self.failure(Cause::Protocol { detail: blocked.to_string() })
                .on_client(process.lease.client_id)
        })?;
        process.given = Given::anew(grants, answer);
        Ok(())
    }
}

/// The permission updates in an answer.
fn updates_of(decision: &Decision) -> Vec<Update> {
    match decision {
        Decision::Allow { updated_permissions: Some(updates), .. } => Update::read_all(updates),
        Decision::Allow { .. } | Decision::Deny { .. } => Vec::new(),
        Decision::Raw(answer) => Update::read_answer(answer),
    }
}

/// The CLI wants the input back with every permission: without it 2.1.197 takes the
/// answer for a broken one. It goes back as it came, byte for byte: it may hold what no
/// strict reader of JSON takes.
fn decision_json(asked_input: &str, decision: Decision) -> String {
    match decision {
        Decision::Allow { updated_input, updated_permissions } => {
            let input = updated_input.as_deref().unwrap_or(asked_input);
            let input = if input.is_empty() { "{}" } else { input };
            let permissions = updated_permissions
                .map_or_else(String::new, |updates| format!(r#","updatedPermissions":{updates}"#));
            format!(r#"{{"behavior":"allow","updatedInput":{input}{permissions}}}"#)
        }
        Decision::Deny { message, interrupt } => {
            serde_json::json!({"behavior": "deny", "message": message, "interrupt": interrupt})
                .to_string()
        }
        Decision::Raw(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_an_input_goes_back_byte_for_byte() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for input in [
            r#"{"text":"\ud83d","n":1e400,"x":1.50, "a":1,"a":2}"#.to_owned(),
            format!(r#"{{"deep":{deep}}}"#),
        ] {
            let allow = Decision::Allow { updated_input: None, updated_permissions: None };
            let wanted = format!(r#"{{"behavior":"allow","updatedInput":{input}}}"#);
            assert_eq!(decision_json(&input, allow), wanted);
            let changed = Decision::Allow {
                updated_input: Some(input.clone()),
                updated_permissions: Some("[]".into()),
            };
            let line = control_response("\"p\\ud83d\"", &decision_json("{}", changed));
            let line = std::str::from_utf8(&line).expect("text");
            assert!(line.contains(&format!(r#""updatedInput":{input},"updatedPermissions":[]"#)));
            assert!(line.contains(r#""request_id":"p\ud83d""#), "{line}");
        }
        let allow = Decision::Allow { updated_input: None, updated_permissions: None };
        assert_eq!(decision_json("", allow), r#"{"behavior":"allow","updatedInput":{}}"#);
    }
}
