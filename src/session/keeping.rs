//! What of a session outlives it: its record, and what was said in it. The CLI tells what
//! it adds to its transcript; a turn's share is kept before its result is told, so that
//! what a caller was told is never lost.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{phase::DetachReason, said::Kept, task::SessionTask};
use crate::{
    cli::{
        acquired::Acquired,
        frame::{Frame, FrameKind},
        mirror,
        options::Options,
        process::StopGrace,
    },
    failure::Cause,
    ids::CliSessionId,
    store::{Commit, KeptTurn, Line, Record, StoreError},
    supply::{Conversation, Lease},
    tenant::Hold,
    turn::{event::Class, log::TurnLog},
};

/// Bytes of transcript that are held for the end of a turn. A turn that says more is kept
/// piece by piece.
const HELD_BYTES: usize = 1 << 20;

/// Bytes of it that may wait for the store: the CLI waits before there is more.
const MOST_UNKEPT: usize = 32 << 20;

/// What a line takes beside its text.
const LINE_BYTES: usize = 128;

/// What is to be kept, and what is known to be.
#[derive(Debug, Default)]
pub struct Keeping {
    /// Lines that are not kept yet.
    lines: Vec<Line>,
    bytes: usize,
    /// The turn that is over, if its caller named it.
    turn: Option<KeptTurn>,
    /// Whether the record has changed since it was kept.
    changed: bool,
    /// Whether that is not to wait for the next turn.
    pub(super) due: bool,
    /// Whether the store has been asked what it knows.
    recalled: bool,
    /// Whether it knew the session, or does by now.
    known: bool,
    /// The conversation that the CLI says it works in by now, if it is another.
    pub(super) moved_to: Option<CliSessionId>,
    /// Whether the conversation's id is what the CLI said, and not yet the store's.
    claimed: bool,
    /// Whether the conversation was there before the session, which does not own it then.
    taken_up: bool,
}

/// What of a session is in a commit that the store has not answered.
#[derive(Debug)]
pub struct Share {
    lines: Arc<Vec<Line>>,
    bytes: usize,
    conversation: CliSessionId,
    /// The conversations that it held then.
    held: Vec<CliSessionId>,
}

impl Share {
    /// Bytes of its lines.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl SessionTask {
    /// Takes over what the store knows of the session, once.
    pub(super) async fn recall(&mut self) -> Result<(), Cause> {
        if self.keeping.recalled || self.ephemeral {
            return Ok(());
        }
        let record = self.ctx.store.load(&self.key).await.map_err(failed)?;
        self.keeping.recalled = true;
        let Some(record) = record else { return Ok(()) };
        debug!(cli_session_id = %record.cli_session_id, "session_recalled");
        self.keeping.known = true;
        self.conversation = Conversation::Own(record.cli_session_id);
        self.recall_cost(&record);
        if record.in_pool {
            self.detach_reason = DetachReason::LetGo;
        }
        self.status.recall(record);
        self.show();
        Ok(())
    }

    /// Whether the store knows a conversation of the session.
    pub(super) fn is_known(&self) -> bool {
        self.keeping.known
    }

    /// Whether the store has all that there is to keep.
    pub(super) fn is_kept(&self) -> bool {
        let nothing_left = self.keeping.lines.is_empty() && !self.keeping.changed;
        self.keeping.known && nothing_left && self.commits.are_settled()
    }

    /// Whether the store has been asked what it knows.
    pub(super) fn is_recalled(&self) -> bool {
        self.keeping.recalled
    }

    /// The record is to be kept with the next turn.
    pub(super) fn remember(&mut self) {
        self.keeping.changed = true;
    }

    /// The CLI works in a conversation of another id, which is the session's from here on.
    pub(super) fn moved(&mut self, id: CliSessionId) {
        debug!(cli_session_id = %id, "conversation_changed");
        self.keeping.moved_to = None;
        self.keeping.claimed = true;
        self.status.converse_in(id);
        self.conversation = Conversation::Own(id);
        self.remember();
        self.show();
    }

    /// The conversation from here on, which the service itself has chosen.
    pub(super) fn converse(&mut self, conversation: Conversation) {
        self.keeping.claimed = false;
        match conversation {
            Conversation::Existing(_) => self.keeping.taken_up = true,
            Conversation::Own(id) if id == self.status.cli_session_id => {}
            Conversation::Own(_) | Conversation::CopyOf { .. } => self.keeping.taken_up = false,
        }
        self.conversation = conversation;
        self.status.converse_in(conversation.id());
    }

    /// Takes note of what the CLI added to its transcript.
    pub(super) fn hear(&mut self, frame: &Frame) {
        if self.ephemeral || frame.kind != FrameKind::Mirror {
            return;
        }
        let Some(mirrored) = mirror::read(&frame.raw) else {
            warn!(session_id = %self.status.session_id, "transcript_mirror_not_understood");
            return;
        };
        if !self.may_add_to(mirrored.conversation) {
            let (session_id, conversation) = (&self.status.session_id, mirrored.conversation);
            warn!(%session_id, %conversation, "lines_of_another_session_left_out");
            return;
        }
        for (uuid, json) in mirrored.entries {
            self.hold(mirrored.conversation, Arc::clone(&mirrored.subpath), uuid, json);
        }
    }

    fn hold(
        &mut self,
        conversation: CliSessionId,
        subpath: Arc<str>,
        uuid: Option<String>,
        json: String,
    ) {
        if !self.ephemeral {
            self.keeping.bytes += json.len() + LINE_BYTES;
            self.keeping.lines.push(Line { conversation, subpath, uuid, json });
        }
    }

    /// Whether more is held than should be.
    pub(super) fn holds_much(&self) -> bool {
        self.keeping.bytes > HELD_BYTES
    }

    /// Whether so much waits for the store that the CLI has to wait, too.
    pub(super) fn holds_too_much(&self) -> bool {
        self.keeping.bytes + self.commits.bytes() > MOST_UNKEPT
    }

    /// What is not kept yet, as a commit; `None` if there is nothing.
    pub(super) fn next_commit(&mut self) -> Option<(Commit, Share)> {
        if self.ephemeral || (self.keeping.lines.is_empty() && !self.keeping.changed) {
            return None;
        }
        let lines = Arc::new(std::mem::take(&mut self.keeping.lines));
        let commit = Commit {
            key: self.key.clone(),
            record: self.record(),
            turn: self.keeping.turn.take(),
            lines: Arc::clone(&lines),
            totals: self.ctx.tenant.totals(),
        };
        self.keeping.changed = false;
        let share = Share {
            lines,
            bytes: std::mem::take(&mut self.keeping.bytes),
            conversation: self.status.cli_session_id,
            held: self.held.iter().map(Hold::id).collect(),
        };
        Some((commit, share))
    }

    /// The store has it.
    pub(super) fn kept(&mut self, share: Share) {
        self.keeping.recalled = true;
        self.keeping.known = true;
        if share.conversation == self.status.cli_session_id {
            self.keeping.claimed = false;
            self.keeping.taken_up = false;
        }
        self.release_kept(&share.held);
    }

    /// The store does not have it: it goes with the next.
    pub(super) fn not_kept(&mut self, share: Share) {
        let mut lines = Arc::unwrap_or_clone(share.lines);
        lines.append(&mut self.keeping.lines);
        self.keeping.lines = lines;
        self.keeping.bytes += share.bytes;
        self.remember();
    }

    /// The turn's name and result are to be kept with what was said in it.
    pub(super) fn keep_turn(&mut self, log: &TurnLog, last: &[(Class, Bytes)]) {
        let result = last.iter().find_map(|(class, line)| match class {
            Class::Result => Some((false, line)),
            Class::InterruptedResult => Some((true, line)),
            _ => None,
        });
        let (Some((interrupted, line)), Some(started)) = (result, log.started()) else { return };
        let end_time = SystemTime::now();
        self.keeping.turn = Some(KeptTurn {
            turn_id: log.id().clone(),
            client_id: started.client_id,
            cli_session_id: self.status.cli_session_id,
            start_time: started.start_time,
            end_time,
            expire_time: end_time + self.ctx.settings.named_turn_retention,
            interrupted,
            result: String::from_utf8_lossy(line).into(),
        });
    }

    /// They are not to be kept after all.
    pub(super) fn drop_turn(&mut self) {
        self.keeping.turn = None;
    }

    fn record(&self) -> Record {
        let status = &self.status;
        Record {
            cli_session_id: status.cli_session_id,
            options: Options::clone(&status.options),
            acquired: Acquired::clone(&status.acquired),
            create_time: status.create_time,
            last_used_time: SystemTime::now() - status.last_used_at.elapsed(),
            age: status.age(),
            unused_for: status.last_used_at.elapsed(),
            message_count: status.message_count,
            error_count: status.error_count,
            spent: status.spent,
            reported_cost_usd: self.reported_cost().unwrap_or_default(),
            in_pool: self.in_pool,
        }
    }

    /// What was said in a conversation, as far as the store knows.
    pub(super) async fn said(&self, id: CliSessionId) -> Result<Kept, Cause> {
        let said = self.nothing_said(id);
        said.ask().await.map(|()| said)
    }

    /// The same of one that begins.
    pub(super) fn nothing_said(&self, id: CliSessionId) -> Kept {
        let store = Arc::clone(&self.ctx.store);
        Kept::new(store, self.key.clone(), id, !self.ephemeral, &self.accounts.memory)
    }

    /// Ends a process; what it says last is on its way to the store then. A turn that it
    /// began by itself just then is cut; what that cost counts, and what was spent in its
    /// background.
    pub(super) async fn part_with(&mut self, mut lease: Lease, grace: StopGrace) {
        if grace == StopGrace::GENTLE {
            self.ask_last(&mut lease).await;
        }
        let mut meter = std::mem::take(&mut lease.meter);
        let frames = lease.end(grace).await;
        self.hear_last(&mut meter, frames);
        // It works nowhere any more.
        self.commits.take_expelled();
        self.keep_on().await;
    }

    /// Keeps what the tenant has counted, where the session itself leaves nothing.
    pub(super) fn count_kept(&self) -> impl Future<Output = Result<(), Cause>> + Send + 'static {
        let (store, tenant) = (Arc::clone(&self.ctx.store), self.key.tenant.clone());
        let totals = self.ctx.tenant.totals();
        async move { store.count(&tenant, totals).await.map_err(failed) }
    }

    /// Forgets the session's conversations for good; the store tries until then. Fails if they
    /// are still there, or files of them: the store may be asked again, also once the session
    /// has left the pool.
    pub(super) fn forgotten(
        &mut self,
        until: Instant,
    ) -> impl Future<Output = Result<(), Cause>> + Send + 'static {
        let before = std::mem::take(&mut self.keeping);
        self.keeping.recalled = true;
        // One that was never kept goes if it began here, and not only by its CLI's word.
        let began = !before.taken_up && !before.claimed;
        let never_kept: Vec<_> = began.then_some(self.status.cli_session_id).into_iter().collect();
        let (ephemeral, key) = (self.ephemeral, self.key.clone());
        let (store, supply) = (Arc::clone(&self.ctx.store), Arc::clone(&self.ctx.supply));
        async move {
            // Of a session without a name nothing is kept.
            let kept = match ephemeral {
                true => Ok(None),
                false => store.forget(&key, until).await,
            };
            let kept = kept.map_err(|error| {
                warn!(session_id = %key.session, %error, "session_not_forgotten");
                failed(error)
            })?;
            let conversations = kept.unwrap_or(never_kept);
            supply.forget(&key, &conversations).await
        }
    }
}

/// What a caller is told whose call the store did not serve.
pub fn failed(error: StoreError) -> Cause {
    let detail = error.to_string();
    match error.is_temporary() {
        true => Cause::StoreUnavailable { detail },
        false => Cause::Internal { detail },
    }
}
