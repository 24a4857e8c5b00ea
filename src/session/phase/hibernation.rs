//! How a session rests: one that is idle lets its process go, and one without a process
//! and with nothing to tell lets its task go too. The store has all that the next turn
//! needs to go on.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::{
    cli::process::StopGrace,
    session::{
        command::HibernateReason,
        process::Process,
        state::{DetachReason, Phase},
        task::SessionTask,
    },
};

/// How long a session without a process stays at hand after it was asked something.
const LINGER: Duration = Duration::from_secs(1);

impl SessionTask {
    /// From when on the process has nothing to do and nothing that it may yet begin: what works
    /// behind its turns would end with it, and is left to do so for `pool.background_max_age`.
    /// `None` is not before something happens.
    pub(super) fn hibernatable_from(&self, process: &Process) -> Option<Instant> {
        let quiet = process.traits.quiet_from(Instant::now());
        let from = quiet.or_else(|| self.works_until(process));
        from.filter(|_| self.may_yield(Some(process)) && !self.ephemeral)
    }

    /// Whether something works behind the turns, or has just ended so that the CLI may begin a turn
    /// about it, or somebody waits for that.
    pub(in crate::session) fn works_behind(&self, process: Option<&Process>) -> bool {
        let quiet_from = |process: &Process| process.traits.quiet_from(Instant::now());
        let echoes = process.is_some_and(|it| quiet_from(it).is_none_or(|at| at > Instant::now()));
        echoes || !self.status.work.is_empty() || !self.followers.is_empty()
    }

    /// Until when what works behind the turns of a process is left to do so; `None` if nothing
    /// works, or for ever.
    fn works_until(&self, process: &Process) -> Option<Instant> {
        process.traits.background.is_of_age_at(self.ctx.settings.background_max_age?)
    }

    /// Whether the process, if there is one, could be let go now.
    pub(in crate::session) fn may_hibernate(&self, process: Option<&Process>) -> bool {
        let quiet =
            |process| self.hibernatable_from(process).is_some_and(|from| from <= Instant::now());
        process.map_or_else(|| self.may_yield(None) && !self.ephemeral, quiet)
    }

    /// The same although something may work in its background.
    pub(in crate::session) fn may_yield(&self, process: Option<&Process>) -> bool {
        let all_read = process.is_none_or(|process| process.leftover.is_empty());
        all_read && self.queue.has_nothing_to_do()
    }

    /// Shows whether the process could be let go, if that has changed since the phase began,
    /// and tells whoever needs one.
    pub(super) fn show_can_hibernate(&mut self, process: &Process) {
        let can_hibernate = self.may_hibernate(Some(process));
        if can_hibernate == self.status.can_hibernate {
            return;
        }
        self.status.set_can_hibernate(can_hibernate);
        self.show();
        if can_hibernate {
            self.ctx.hibernatable.notify_waiters();
        }
    }

    /// When the process is let go if nothing happens until then.
    pub(super) fn hibernates_at(&self, process: &Process) -> Option<Instant> {
        let works = process.traits.background.has_work();
        // Work that has gone on for too long is ended whether or not idle processes are let go.
        let after = self.ctx.settings.hibernate_after.or(works.then_some(Duration::ZERO))?;
        self.hibernatable_from(process).map(|from| from.max(self.status.last_used_at + after))
    }

    /// Lets the process go. What it says last is kept.
    pub(in crate::session) async fn hibernate(
        &mut self,
        process: Box<Process>,
        why: HibernateReason,
    ) -> Phase {
        debug!(
            session_id = %self.status.session_id,
            client_id = %process.lease.client_id,
            ?why,
            idle_seconds = self.status.last_used_at.elapsed().as_secs_f64(),
            "session_hibernated"
        );
        // Nobody else need ask for it.
        self.status.set_can_hibernate(false);
        self.show();
        let works = process.traits.background.has_work();
        self.part_with(process, StopGrace::GENTLE).await;
        self.detach_reason = DetachReason::Hibernated;
        let counters = &self.ctx.tenant.counters;
        counters.hibernations.add_one();
        match why {
            HibernateReason::Idle => {}
            HibernateReason::Pressure => counters.hibernations_under_pressure.add_one(),
            HibernateReason::Fairness => counters.hibernations_under_pressure.add_one(),
        }
        if works {
            let told = match why {
                HibernateReason::Fairness => {
                    "its background work was ended: a tenant with fewer processes waited"
                }
                HibernateReason::Idle | HibernateReason::Pressure => {
                    "its background work was ended: it had gone on for pool.background_max_age"
                }
            };
            self.status.note_failure(told.to_owned());
            self.journal.remember();
        }
        Phase::Detached
    }

    /// When the task of a session without a process can end: nobody has asked for anything
    /// since `asked`, no ended turn can be joined any more, and everything is kept.
    pub(super) fn unloads_at(&self, asked: Instant) -> Option<Instant> {
        if self.detach_reason != DetachReason::Hibernated
            || !self.queue.is_empty()
            || !self.journal.is_kept()
        {
            return None;
        }
        self.queue.joinable_until().max(Some(asked + LINGER))
    }
}
