//! Turns that the CLI begins by itself, for example when a background task ends.

use std::time::{Duration, SystemTime};

use tracing::{Span, debug};

use crate::{
    cli::frame::Frame,
    domain::ids::TurnId,
    session::{
        command::DisconnectPolicy,
        process::Process,
        running::Running,
        state::{Active, Phase},
        task::SessionTask,
        turn_end::Ending,
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
        let mut frames = active.turn.take_foreign();
        frames.push((Class::Result, result.raw.clone()));
        log.append(frames);
        self.end_turn(
            &log,
            Ok(Ending { spent: std::mem::take(&mut active.turn.spent), ..Ending::default() }),
        );
        self.queue.end(log);
    }

    /// A turn that the CLI begins by itself, with the frames seen so far.
    pub(super) fn background_turn(&mut self, mut process: Process, frames: Vec<Frame>) -> Phase {
        let log = self.background_log(&process.lease);
        self.queue.begin(&log);
        process.leftover = frames;
        let counted = self.ctx.turns.token();
        // Nobody need listen to it.
        let policy = DisconnectPolicy::Continue;
        let asked = process.prompts.number();
        let turn = Running::new(log, None, policy, &process.traits, asked, counted);
        Phase::Active(Active { process, turn })
    }

    fn background_log(&mut self, lease: &Lease) -> TurnLog {
        let log = self.new_log(TurnId::fresh(), &Span::current());
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
        log
    }
}
