//! Delivers callers' answers to the CLI's prompts. What an answer grants is committed before the
//! answer goes to the CLI, so that no tool runs under a rule that a later process would not know;
//! meanwhile the session reads its CLI and handles commands. Answers go to the CLI in the order
//! in which they were given; the first to a prompt counts.

use std::{iter, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::info;

use super::{
    answers::{Answer, Answers, Grant, Granting},
    command::Refusal,
    given_rules::Given,
    process::Process,
    state::Active,
    task::SessionTask,
};
use crate::{
    cli::{
        answer::{answer_to, is_refused, refusal_of},
        frame::{Prompt, RequestKind},
    },
    domain::{
        acquired::Acquired,
        decision::Decision,
        failure::Cause,
        grants::{MOST_BYTES, MOST_FOLDERS, MOST_RULES, Update},
        hook::{HookDecision, ToolVerdict},
    },
    turn::event::{Resolution, Resolver, Told as _},
};

/// When a refusal for which the CLI's input had no room is tried again.
const RETRY: Duration = Duration::from_millis(100);

impl SessionTask {
    /// Takes an answer to what the process asks.
    pub(super) fn respond(&mut self, process: &mut Process, answer: Answer) {
        // Behind those that came while the process was not at hand.
        self.take_deferred(process);
        self.queue_answer(&mut process.answers, answer);
        self.give_answers(process);
    }

    /// Queues an answer while another function holds the process. It is refused if no prompt is
    /// open.
    pub(super) fn respond_later(&mut self, answer: Answer) {
        if self.status.open_prompts.is_empty() {
            let refusal = self.not_found(&answer.prompt_id);
            answer.reply.send(Err(refusal)).ok();
            return;
        }
        let mut deferred = std::mem::take(&mut self.deferred);
        self.queue_answer(&mut deferred, answer);
        self.deferred = deferred;
    }

    fn take_deferred(&mut self, process: &mut Process) {
        while let Some(answer) = self.deferred.pop() {
            self.queue_answer(&mut process.answers, answer);
        }
    }

    fn queue_answer(&self, answers: &mut Answers, answer: Answer) {
        if let Err(answer) = answers.push(answer) {
            let cause = Cause::QueueFull { limit: Answers::MOST };
            answer.reply.send(Err(self.failure(cause).into())).ok();
        }
    }

    /// Gives the process the answers that are due. One that grants something is sent once the grant
    /// is committed.
    fn give_answers(&mut self, process: &mut Process) {
        self.settle_work_stops(process);
        self.take_deferred(process);
        self.refuse_expired(process);
        loop {
            if let Some(granting) = process.answers.granting.take() {
                let kept = self.journal.commits.is_idle();
                if !kept && Instant::now() < granting.deadline {
                    process.answers.granting = Some(granting);
                    return;
                }
                let given = self.give_granted(process, &granting, kept);
                granting.answer.reply.send(given).ok();
            }
            let Some(answer) = process.answers.pop() else { return };
            match self.grant(process, &answer) {
                Ok(None) => {
                    let given = self.give(process, &answer);
                    answer.reply.send(given).ok();
                }
                Ok(Some(grant)) => {
                    // As long as an interrupt may take: the CLI waits for the answer.
                    let deadline = Instant::now() + self.ctx.settings.interrupt_timeout;
                    process.answers.granting = Some(Granting { answer, grant, deadline });
                    self.keep_on();
                }
                Err(refusal) => {
                    answer.reply.send(Err(refusal)).ok();
                }
            }
        }
    }

    /// Refuses the answers that have not been delivered: the process that asked is ending.
    pub(super) fn refuse_answers(&mut self, mut answers: Answers) {
        let granting = answers.granting.take().map(|granting| {
            self.revoke(&granting.grant);
            granting.answer
        });
        let mut deferred = std::mem::take(&mut self.deferred);
        let rest = iter::from_fn(|| answers.pop().or_else(|| deferred.pop()));
        for Answer { prompt_id, reply, .. } in granting.into_iter().chain(rest) {
            let cause = Cause::PromptNotFound { prompt_id };
            reply.send(Err(self.failure(cause).into())).ok();
        }
    }

    /// Answers what the process asks.
    fn give(&mut self, process: &mut Process, answer: &Answer) -> Result<(), Refusal> {
        let Answer { prompt_id, decision, .. } = answer;
        let Some(prompt) = process.prompts.get(prompt_id).cloned() else {
            return Err(self.not_found(prompt_id));
        };
        let line = self.line_of(&prompt, decision)?;
        // A prompt whose answer the CLI does not take in stays open: it can be answered again.
        process.lease.connection.send(line).map_err(|blocked| {
            self.failure(Cause::Protocol { detail: blocked.to_string() })
                .on_client(process.lease.client_id)
        })?;
        let (resolution, message) = match decision {
            Decision::Allow { .. } => (Resolution::Allowed, ""),
            Decision::Deny { message, .. } => (Resolution::Denied, message.as_str()),
            Decision::Hook(hook) => resolution_of(hook),
            Decision::Answers(_) | Decision::Raw(_) => (Resolution::Answered, ""),
        };
        process.prompts.resolve(prompt_id, Resolver::Caller, Some(resolution), message);
        self.show_prompts(&process.prompts.shown());
        Ok(())
    }

    /// Refuses the prompts that nobody has answered in time. A tool that asked comes to nothing,
    /// and the turn goes on.
    fn refuse_expired(&mut self, process: &mut Process) {
        while let Some(prompt) = process.prompts.expired().cloned() {
            let limit = process.prompts.time_of(&prompt).unwrap_or_default();
            let key = match self.ctx.settings.prompt_timeout == Some(limit) {
                true => "policy.prompt_timeout",
                false => "timeout of the hook",
            };
            let why =
                format!("Nobody answered within {} ({key}).", humantime::format_duration(limit));
            if process.lease.connection.send(refusal_of(&prompt, &why)).is_err() {
                // It still asks, and is told when it reads its input again.
                process.prompts.postpone(&prompt.id, Instant::now() + RETRY);
                continue;
            }
            info!(session_id = %self.status.session_id, limit_seconds = limit.as_secs(), "prompt_expired");
            let denied = is_refused(&prompt).then_some(Resolution::Denied);
            let told = denied.map_or("", |_| why.as_str());
            process.prompts.resolve(&prompt.id, Resolver::Timeout, denied, told);
            self.show_prompts(&process.prompts.shown());
        }
    }

    /// Gives the process the answers that are due, and tells all who follow the turn.
    pub(super) fn answer_in_turn(&mut self, active: &mut Active, stopping: bool) {
        self.give_answers(&mut active.process);
        self.expire_followers();
        self.tell_resolved(active, stopping);
        self.tell_steered(active);
        Self::tell_notices(active);
    }

    /// The same where no turn runs: those who follow the session are told.
    pub(super) fn answer_between_turns(&mut self, process: &mut Process) {
        self.give_answers(process);
        self.expire_followers();
        self.followers.rest(&process.traits);
        for resolved in process.prompts.take_resolved() {
            self.ctx.tenant.measures.resolved(resolved.by.name());
            let (class, bytes) = resolved.event();
            self.feed.aside(class, bytes);
        }
    }

    /// When to look once more at what is due to callers: answers, prompts, work that is being
    /// stopped, and those who wait for what works behind the turns.
    pub(super) fn answers_due(
        &self,
        process: &Process,
        followers: Option<Instant>,
    ) -> Option<Instant> {
        process.answers_due().into_iter().chain(followers).min()
    }

    /// Tells all who follow the turn how prompts were resolved. The turn's own beginning comes
    /// first: until it has begun for good they wait.
    pub(super) fn tell_resolved(&self, active: &mut Active, stopping: bool) {
        if active.turn.unanswered.is_some() {
            return;
        }
        for mut resolved in active.process.prompts.take_resolved() {
            // The CLI takes back what the turn asked that is stopped.
            if stopping && resolved.by == Resolver::Cli {
                resolved.by = Resolver::TurnEnded;
            }
            self.ctx.tenant.measures.resolved(resolved.by.name());
            active.turn.log.append([resolved.event()]);
        }
    }

    /// An answer as the CLI reads it. One that does not fit is refused, and the prompt stays open.
    fn line_of(&self, prompt: &Prompt, decision: &Decision) -> Result<Bytes, Refusal> {
        answer_to(prompt, decision).map_err(|unfit| {
            let (field, problem) = (unfit.field(), unfit.to_string());
            self.failure(Cause::InvalidAnswer { field, problem }).into()
        })
    }

    fn not_found(&self, prompt_id: &str) -> Refusal {
        let prompt_id = prompt_id.to_owned();
        self.failure(Cause::PromptNotFound { prompt_id }).into()
    }

    /// Delivers an answer whose grant was waiting for its commit. If the commit or the delivery
    /// failed, the grant is revoked and the prompt stays open.
    fn give_granted(
        &mut self,
        process: &mut Process,
        granting: &Granting,
        kept: bool,
    ) -> Result<(), Refusal> {
        let limit = self.ctx.settings.interrupt_timeout;
        let too_late = || {
            let detail = format!("what was granted was not kept in {limit:?}");
            Cause::StoreUnavailable { detail }
        };
        let failure = match kept {
            true => self.journal.commits.failure().cloned(),
            false => Some(too_late()),
        };
        if let Some(cause) = failure {
            self.revoke(&granting.grant);
            return Err(self.failure(cause).into());
        }
        if process.prompts.get(&granting.answer.prompt_id).is_none() {
            // The CLI has withdrawn it.
            self.revoke(&granting.grant);
            return Err(self.not_found(&granting.answer.prompt_id));
        }
        self.show();
        let given = self.take_back(process).and_then(|()| self.give(process, &granting.answer));
        if given.is_err() {
            self.revoke(&granting.grant);
            // Rules may have been taken from it that are in force again.
            process.lease.outdated = true;
        }
        given
    }

    /// Takes note of what an answer grants, for this process's successors; `None` if that is nothing
    /// new.
    fn grant(&mut self, process: &Process, answer: &Answer) -> Result<Option<Grant>, Refusal> {
        let Some(prompt) = process.prompts.get(&answer.prompt_id) else {
            return Err(self.not_found(&answer.prompt_id));
        };
        // Before anything is granted by it.
        self.line_of(prompt, &answer.decision)?;
        if !matches!(prompt.kind(), RequestKind::ToolPermission | RequestKind::Question) {
            return Ok(None);
        }
        let mut acquired = Acquired::clone(&self.status.acquired);
        for update in &updates_of(&answer.decision) {
            acquired.grants.apply(update);
            if let Update::Mode(mode) = update {
                acquired.hear_mode(mode, &self.status.options);
            }
        }
        if acquired == *self.status.acquired {
            return Ok(None);
        }
        if !acquired.grants.fit() {
            let allowed = format!(
                "at most {MOST_RULES} rules of each behavior, {MOST_FOLDERS} directories and \
                 {MOST_BYTES} bytes of both in a session"
            );
            let cause = Cause::NotAllowed { field: "updated_permissions".to_owned(), allowed };
            return Err(self.failure(cause).into());
        }
        let after = Arc::new(acquired);
        let before = self.status.replace_acquired(Arc::clone(&after));
        self.journal.remember();
        Ok(Some(Grant { before, after }))
    }

    /// Undoes a grant. The store may already have it, or may still commit it: the old value is
    /// committed again.
    fn revoke(&mut self, Grant { before, after }: &Grant) {
        if self.status.acquired == *after {
            self.status.replace_acquired(Arc::clone(before));
        } else {
            // The CLI has said something else of itself meanwhile.
            self.status.acquire(|acquired, _| {
                acquired.grants = before.grants.clone();
                if acquired.mode == after.mode {
                    acquired.mode.clone_from(&before.mode);
                    acquired.default_mode.clone_from(&before.default_mode);
                    acquired.own_mode = before.own_mode;
                }
            });
        }
        self.journal.remember_soon();
    }

    /// Removes rules that the process was started with. `removeRules` in an answer removes only
    /// rules that came with answers to the same process, hence a request of its own. It is sent
    /// before the answer, so that the rest of the turn runs without them.
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

/// How a hook resolves its prompt, and what it says of a refusal.
fn resolution_of(hook: &HookDecision) -> (Resolution, &str) {
    match hook.verdict {
        Some(ToolVerdict::Deny) => (Resolution::Denied, &hook.reason),
        Some(ToolVerdict::Allow) => (Resolution::Allowed, ""),
        Some(ToolVerdict::Ask) | None if hook.block => (Resolution::Denied, &hook.reason),
        Some(ToolVerdict::Ask) | None => (Resolution::Answered, ""),
    }
}

/// The permission updates in an answer.
fn updates_of(decision: &Decision) -> Vec<Update> {
    match decision {
        Decision::Allow { updated_permissions: Some(updates), .. } => Update::read_all(updates),
        Decision::Allow { .. }
        | Decision::Deny { .. }
        | Decision::Answers(_)
        | Decision::Hook(_) => Vec::new(),
        Decision::Raw(answer) => Update::read_answer(answer),
    }
}
