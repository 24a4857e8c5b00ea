//! What of a session outlives it: its record, and what was said in it. The CLI tells what
//! it adds to its transcript; a turn's share is kept before its result is told, so that
//! what a caller was told is never lost. Owns what is not kept yet, and what is on its way to
//! the store ([`Commits`]); knows the store, and nothing of processes or phases.

use std::{future::Future, sync::Arc};

use tokio::time::Instant;
use tracing::warn;

use super::{
    claim::Claim,
    commits::{Commits, Outcome, Share, failed},
    context::SessionContext,
};
use crate::{
    cli::mirror::Mirrored,
    domain::{
        failure::Cause,
        ids::{CliSessionId, SessionKey},
    },
    store::{Commit, Epoch, KeptTurn, Line, Record, Store, StoreError},
    supply::Supply,
    tasks::spawn_owned,
    tenant::Tenant,
};

/// Bytes of transcript that are held for the end of a turn. A turn that says more is kept
/// piece by piece.
const HELD_BYTES: usize = 1 << 20;

/// Bytes of it that may wait for the store: the CLI waits before there is more.
const MOST_UNKEPT: usize = 32 << 20;

/// What a line takes beside its text.
const LINE_BYTES: usize = 128;

/// What a session is when a commit of it begins.
#[derive(Debug)]
pub struct Snapshot {
    /// Its record.
    pub record: Record,
    /// The conversations that it holds.
    pub held: Vec<CliSessionId>,
}

/// What is not kept yet.
#[derive(Debug, Default)]
struct Unkept {
    lines: Vec<Line>,
    bytes: usize,
    /// The turn that is over, if its caller named it.
    turn: Option<KeptTurn>,
    /// Whether the record has changed since it was kept.
    changed: bool,
    /// Whether that is not to wait for the next turn.
    due: bool,
}

/// What of a session is kept, and is to be.
#[derive(Debug)]
pub struct Journal {
    store: Arc<dyn Store>,
    supply: Arc<dyn Supply>,
    tenant: Arc<Tenant>,
    key: SessionKey,
    /// Whether the session has a name: of one without nothing is kept.
    has_name: bool,
    unkept: Unkept,
    /// What it knows, if somebody has asked before the session was made.
    found: Option<Option<Record>>,
    /// Whether the store has been asked what it knows.
    recalled: bool,
    /// Whether it knew the session, or does by now.
    known: bool,
    /// Whether the session is to be in the pool when the service starts again.
    in_pool: bool,
    /// That the session is this service's.
    pub claim: Arc<Claim>,
    /// Why it is not any more, if it is not.
    moved: Option<Cause>,
    /// What is being kept, and who waits for that.
    pub commits: Commits,
}

impl Journal {
    /// The journal of a session of which nothing is known yet.
    pub fn new(ctx: &SessionContext, key: SessionKey, has_name: bool) -> Self {
        Self {
            store: Arc::clone(&ctx.store),
            supply: Arc::clone(&ctx.supply),
            tenant: Arc::clone(&ctx.tenant),
            claim: Arc::new(Claim::new(Arc::clone(&ctx.store), key.clone())),
            moved: None,
            key,
            has_name,
            unkept: Unkept::default(),
            found: None,
            recalled: false,
            known: false,
            in_pool: true,
            commits: Commits::within(ctx.store.tenure()),
        }
    }

    /// The store was asked, and knows this of the session.
    pub fn find(&mut self, record: Option<Record>) {
        self.found = Some(record);
    }

    /// Asks the store what it knows of the session; `None` if it was asked, or never is.
    pub fn ask(
        &mut self,
    ) -> Option<impl Future<Output = Result<Option<Record>, Cause>> + Send + 'static> {
        if self.recalled || !self.has_name {
            return None;
        }
        let (store, key, found) = (Arc::clone(&self.store), self.key.clone(), self.found.take());
        Some(async move {
            match found {
                Some(found) => Ok(found),
                None => store.load(&key).await.map_err(failed),
            }
        })
    }

    /// The store was asked whether it knows the session; it does if it says an epoch.
    pub fn recall(&mut self, known: Option<Epoch>) {
        self.recalled = true;
        self.known = known.is_some();
        self.claim.note_read(known.unwrap_or_default());
    }

    /// Asks the store again what it knows if others had the session since it was last this
    /// service's; returns whether they had.
    pub fn recall_anew(&mut self) -> bool {
        let was_elsewhere = self.claim.take_was_elsewhere();
        self.recalled &= !was_elsewhere;
        was_elsewhere
    }

    /// Whether the store knows a conversation of the session.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Whether the store has been asked what it knows.
    pub fn is_recalled(&self) -> bool {
        self.recalled
    }

    /// Whether the store has all that there is to keep.
    pub fn is_kept(&self) -> bool {
        self.known && !self.has_unkept() && self.commits.are_settled()
    }

    /// Whether the store may have something else of the session than what is to be kept.
    pub fn may_differ(&self) -> bool {
        self.known && !self.is_kept() || self.commits.failure().is_some()
    }

    /// Whether the session is to be in the pool when the service starts again.
    pub fn is_in_pool(&self) -> bool {
        self.in_pool
    }

    /// The session leaves the pool for good.
    pub fn leave_pool(&mut self) {
        self.in_pool = false;
    }

    /// The record is to be kept with the next turn.
    pub fn remember(&mut self) {
        self.unkept.changed = true;
    }

    /// The record is to be kept soon.
    pub fn remember_soon(&mut self) {
        self.remember();
        self.unkept.due = true;
    }

    /// Whether something is to be kept soon that can be now; said once.
    pub fn take_due(&mut self) -> bool {
        self.commits.may_begin() && std::mem::take(&mut self.unkept.due)
    }

    /// Takes note of what the CLI added to a transcript.
    pub fn hear(&mut self, mirrored: Mirrored) {
        let Mirrored { conversation, subpath, entries } = mirrored;
        for (uuid, json) in entries {
            self.unkept.bytes += json.len() + LINE_BYTES;
            let subpath = Arc::clone(&subpath);
            self.unkept.lines.push(Line { conversation, subpath, uuid, json });
        }
    }

    /// A turn's name and result are to be kept with what was said in it.
    pub fn keep_turn(&mut self, turn: KeptTurn) {
        self.unkept.turn = Some(turn);
    }

    /// Whether more is held than should be.
    pub fn holds_much(&self) -> bool {
        self.unkept.bytes > HELD_BYTES
    }

    /// Whether so much waits for the store that the CLI has to wait, too.
    pub fn holds_too_much(&self) -> bool {
        self.unkept.bytes + self.commits.bytes() > MOST_UNKEPT
    }

    /// Whether there is something to keep.
    pub fn has_unkept(&self) -> bool {
        self.has_name && (!self.unkept.lines.is_empty() || self.unkept.changed)
    }

    /// Begins to keep what there is to keep, which is with this snapshot. A trial asks the
    /// store in any case. Says what becomes of those who wait if that is known at once.
    pub fn begin(&mut self, snapshot: Option<Snapshot>, is_trial: bool) -> Option<Outcome> {
        if let Some(cause) = self.moved.clone() {
            return Some(self.fail(cause, is_trial));
        }
        let store = Arc::clone(&self.store);
        if let Some(snapshot) = snapshot {
            let (commit, share) = self.next_commit(snapshot);
            let (claim, is_known) = (Arc::clone(&self.claim), self.known);
            let (tenant, began) = (Arc::clone(&self.tenant), Instant::now());
            let work = async move {
                let (epoch, releases) = (claim.hold(is_known).await?, commit.releases);
                if claim.was_elsewhere() {
                    // What others have kept meanwhile is newer.
                    return Err(StoreError::Fenced { owner: String::new() });
                }
                let committed = store.commit(Commit { epoch, ..commit }).await;
                tenant.measures.committed(began.elapsed());
                committed?;
                claim.note_commit(epoch, releases);
                Ok(())
            };
            self.commits.begin(work, Some(share), is_trial);
            return None;
        }
        if is_trial {
            let (tenant, totals) = (self.key.tenant.clone(), self.tenant.counted());
            let work = async move { store.count(&tenant, totals).await };
            self.commits.begin(work, None, is_trial);
            return None;
        }
        Some(self.commits.succeed(is_trial))
    }

    /// Begins to claim the session, before a process serves it.
    pub fn begin_claim(&mut self) {
        let claim = Arc::clone(&self.claim);
        let work = async move { claim.hold(true).await.map(drop) };
        self.commits.begin(work, None, false);
    }

    /// Whether the session is to be claimed before a process serves it.
    pub fn is_unclaimed(&self) -> bool {
        let is_another_s_to_begin = self.known || self.claim.is_shared();
        self.has_name && is_another_s_to_begin && !self.claim.is_held() && self.moved.is_none()
    }

    /// Gives the session back if the store has all that there is to keep, and nobody wants it.
    pub fn release(&self) {
        if self.is_kept()
            && let Some(given) = self.give_back(true)
        {
            // The store has the order even if the session ends first.
            drop(spawn_owned(given));
        }
    }

    /// Gives the session back, whatever the store has of it; the store is told by what is returned.
    pub fn give_back(&self, goes_on: bool) -> Option<impl Future<Output = ()> + Send + 'static> {
        let epoch = self.moved.is_none().then(|| self.claim.let_go(goes_on)).flatten()?;
        let claim = Arc::clone(&self.claim);
        Some(async move { claim.release(epoch).await })
    }

    /// Why the session is not this service's any more, if it is not.
    pub fn moved(&self) -> Option<&Cause> {
        self.moved.as_ref()
    }

    fn next_commit(&mut self, Snapshot { record, held }: Snapshot) -> (Commit, Share) {
        let unkept = &mut self.unkept;
        let lines = Arc::new(std::mem::take(&mut unkept.lines));
        let bytes = std::mem::take(&mut unkept.bytes);
        unkept.changed = false;
        let conversation = record.cli_session_id;
        let share = Share { lines: Arc::clone(&lines), bytes, conversation, held };
        let commit = Commit {
            key: self.key.clone(),
            // Shown when the session is claimed.
            epoch: Epoch::NONE,
            releases: !self.in_pool,
            record,
            turn: unkept.turn.take(),
            lines,
            totals: self.tenant.counted(),
        };
        (commit, share)
    }

    /// What there is to keep cannot be now: it goes with the next commit, except for the name
    /// of a turn whose result is not told.
    pub fn fail(&mut self, cause: Cause, is_trial: bool) -> Outcome {
        self.unkept.turn = None;
        let outcome = self.commits.fail(cause, is_trial);
        self.plan_retry();
        outcome
    }

    /// The store has answered. What it does not have goes with the next commit.
    pub fn answered(&mut self, answer: Result<(), StoreError>) -> Option<Outcome> {
        let (outcome, share) = self.commits.answered(answer)?;
        if let Err(cause @ Cause::SessionMoved { .. }) = &outcome.result {
            self.moved = Some(cause.clone());
        }
        let kept = match (&outcome.result, share) {
            (Ok(()), Some(share)) => {
                self.recalled = true;
                self.known = true;
                Some(share)
            }
            (Err(_), Some(share)) => {
                let mut lines = Arc::unwrap_or_clone(share.lines);
                lines.append(&mut self.unkept.lines);
                self.unkept.lines = lines;
                self.unkept.bytes += share.bytes;
                self.remember();
                None
            }
            (_, None) => None,
        };
        self.plan_retry();
        Some(Outcome { kept, ..outcome })
    }

    /// The session is this service's no more, before the store has said so.
    pub fn lose(&mut self) -> Outcome {
        let moved = self.moved.get_or_insert_with(|| Cause::moved(""));
        self.commits.lose(moved.clone())
    }

    /// Whether those who wait for the next commit are told of the failure of the last instead.
    pub fn end_with_failure(&mut self) -> Option<Outcome> {
        let outcome = self.commits.ends_here()?;
        self.plan_retry();
        Some(outcome)
    }

    /// What a running turn says is not held without end while the store fails.
    fn plan_retry(&mut self) {
        if self.commits.failure().is_some() && self.holds_much() && self.moved.is_none() {
            self.commits.try_again();
        }
    }

    /// Keeps what the tenant has counted, where the session itself leaves nothing.
    pub fn count_kept(&self) -> impl Future<Output = Result<(), Cause>> + Send + 'static {
        let (store, tenant) = (Arc::clone(&self.store), self.key.tenant.clone());
        let totals = self.tenant.counted();
        async move { store.count(&tenant, totals).await.map_err(failed) }
    }

    /// Forgets the session's conversations for good, and these where nothing was ever kept; the
    /// store tries until then. Fails if they are still there, or files of them: the store may
    /// be asked again, also once the session has left the pool.
    pub fn forget(
        &mut self,
        never_kept: Vec<CliSessionId>,
        until: Instant,
    ) -> impl Future<Output = Result<(), Cause>> + Send + 'static {
        self.unkept = Unkept::default();
        self.known = false;
        self.recalled = true;
        let (has_name, key) = (self.has_name, self.key.clone());
        let (store, supply) = (Arc::clone(&self.store), Arc::clone(&self.supply));
        async move {
            // Of a session without a name nothing is kept.
            let kept = match has_name {
                true => store.forget(&key, until).await,
                false => Ok(None),
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
