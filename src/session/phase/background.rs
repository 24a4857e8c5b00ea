//! Turns that the CLI begins by itself, for example when a background task ends.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{Span, debug};

use crate::{
    cli::frame::Frame,
    domain::{failure::Cause, ids::TurnId},
    session::{
        command::{BackgroundPolicy, DisconnectPolicy},
        followers::leaves_nothing,
        process::Process,
        running::Running,
        state::{Active, Phase},
        task::SessionTask,
        turn_end::{End, TurnEnd},
        work_stops::{StopReply, WorkStop, WorkToStop},
    },
    supply::Lease,
    turn::{
        event::{Class, ProcessOrigin, Started},
        log::TurnLog,
    },
};

impl SessionTask {
    /// Keeps a turn that the CLI had begun by itself just before it read the prompt of
    /// the one that runs.
    pub(super) fn foreign_turn(&mut self, active: &mut Active, result: &Frame) {
        let log = self.background_log(&active.process.lease);
        log.append(active.turn.take_foreign());
        let mut turn = self.own_turn(log, &active.process);
        turn.spent = std::mem::take(&mut active.turn.spent);
        let untold = vec![(Class::Result, result.raw.clone())];
        let over = TurnEnd { interrupted: false, is_error: false, settled: false, untold };
        self.conclude(turn, active.process.lease.client_id, End::Result(over));
    }

    /// A turn that the CLI begins by itself, with the frames seen so far.
    pub(super) fn background_turn(
        &mut self,
        mut process: Box<Process>,
        frames: Vec<Frame>,
    ) -> Phase {
        let log = self.background_log(&process.lease);
        self.queue.begin(&log);
        // What tells why it begins came first.
        process.leftover = std::mem::take(&mut process.announced);
        process.leftover.extend(frames);
        let turn = self.own_turn(log, &process);
        Phase::Active(Active { process, turn })
    }

    /// A turn of the CLI's own on this process.
    fn own_turn(&self, log: TurnLog, process: &Process) -> Running {
        // Nobody need listen to it.
        let policy = DisconnectPolicy::Continue;
        let (asked, counted) = (process.prompts.number(), self.ctx.turns.token());
        Running::new(log, None, policy, (&process.traits, Instant::now()), asked, counted)
    }

    /// Shows what the process asks, and what works behind its turns.
    pub(super) fn show_asked_and_work(&mut self, process: &mut Process) {
        self.show_prompts(&process.prompts.shown());
        self.show_work(process);
    }

    /// Shows what works behind the turns.
    fn show_work(&mut self, process: &mut Process) {
        let background = &process.traits.background;
        if background.version() != process.shown_work {
            process.shown_work = background.version();
            self.status.set_work(background.shown());
            self.show();
        }
    }

    /// A turn ends. What it leaves behind in the background goes on, is stopped, or is waited for
    /// by its caller.
    pub(super) fn leave_behind(&mut self, active: &mut Active) {
        // It runs on no other process, and what comes before its end is told now.
        active.turn.begin_for_good();
        self.tell_steered(active);
        Self::tell_notices(active);
        let Active { process, turn } = active;
        let tasks = process.traits.background.since(turn.tasks_from);
        if !turn.reader.is_asked_for() {
            self.followers.extend(&process.traits.background.families(&tasks));
        }
        match turn.on_background {
            BackgroundPolicy::Keep => {}
            BackgroundPolicy::Stop => {
                let what = WorkToStop::Tasks(tasks);
                self.stop_work(process, WorkStop { what, reply: StopReply::Nobody });
            }
            BackgroundPolicy::Wait => {
                let waits = !leaves_nothing(&process.traits.background, &tasks, turn.began);
                // Without anything to wait for its end is the stream's.
                if let Some((following, partials)) = turn.following.take().filter(|_| waits) {
                    let until = Instant::now() + self.ctx.settings.background_timeout;
                    let counted = self.ctx.turns.token();
                    let families = process.traits.background.families(&tasks);
                    self.followers.add(following, partials, families, until, counted);
                }
            }
        }
    }

    /// Those who have waited for too long for what works behind the turns are told so.
    pub(in crate::session) fn expire_followers(&mut self) {
        if self.followers.until().is_none_or(|until| until > Instant::now()) {
            return;
        }
        let limit = self.ctx.settings.background_timeout;
        let failure = self.failure(Cause::BackgroundTimeout { limit });
        self.followers.expire(|| failure.clone());
        // A turn of the CLI's own may run for nobody from here on.
        self.queue.listeners_gone_notifier().notify_one();
    }

    /// Whether a turn of the CLI's own runs in a session that was made for one turn, and nobody
    /// waits for it any more.
    pub(super) fn runs_for_nobody(&mut self, active: &Active) -> bool {
        if !self.ephemeral || active.turn.reader.is_asked_for() {
            return false;
        }
        self.followers.let_go();
        self.is_useless()
    }

    /// Whether the session was made for one turn, and nobody waits for anything any more.
    pub(super) fn is_useless(&self) -> bool {
        self.ephemeral && self.queue.is_empty() && self.followers.is_empty()
    }

    fn background_log(&mut self, lease: &Lease) -> TurnLog {
        // Of no call, also where it is found out about in the turn of one.
        let trace = self.ctx.traces.begun_here();
        let log = self.new_log(TurnId::fresh(), &Span::none(), trace);
        log.span().record("client_id", tracing::field::display(lease.client_id));
        debug!(parent: log.span(), turn_id = %log.id(), client_id = %lease.client_id, "background_turn");
        log.start(Started {
            session_id: self.status.session_id.clone(),
            turn_id: log.id().clone(),
            client_id: lease.client_id,
            cli_session_id: self.status.cli_session_id,
            origin: ProcessOrigin::Reused,
            queued_for: Duration::ZERO,
            connect_time: Duration::ZERO,
            start_time: SystemTime::now(),
            background: true,
        });
        self.followers.begin(&log);
        self.feed.begin(&log);
        log
    }
}
