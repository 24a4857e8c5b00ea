//! What a process does between turns, without anybody asking for it: what it prints then is of no
//! turn, it may end, and the session may be another service's by now.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::active::event_line;
use crate::{
    cli::{
        frame::Frame,
        process::StopGrace,
        turn::{Aside, told_aside},
    },
    domain::exit::Exit,
    session::{
        command::CloseReason, commits::Stir, process::Process, running::class_of, state::Phase,
        task::SessionTask,
    },
    turn::log::TurnLog,
};

/// How long the end of a process may come after that of its output: it is counted by how it ended.
const EXIT_LIMIT: Duration = Duration::from_millis(100);

impl SessionTask {
    /// Keeps what is much, and ends a process that works where it must not: the next turn
    /// gets another.
    pub(super) fn keep_up(&mut self, process: &mut Process) {
        if self.journal.take_due() {
            self.keep_on();
        }
        self.keep_much();
        if self.journal.commits.take_expelled() {
            process.lease.child.kill();
        }
    }

    /// Frames that belong to no turn. Returns whether the CLI said that it is idle.
    pub(super) fn between_turns(&mut self, process: &mut Process, frames: &mut Vec<Frame>) -> bool {
        let mut idle = false;
        self.hear_cost(&mut process.lease.meter);
        for frame in frames.drain(..) {
            self.hear_frame(process, &frame);
            process.announce(&frame);
            if let Some(kind) = told_aside(&frame) {
                self.feed.aside(class_of(kind), event_line(&process.prompts, &frame));
            }
            match Aside::of(&frame) {
                Aside::Nothing => {}
                Aside::Idle => idle = true,
                Aside::Moved(cli_session_id) => self.ownership.follow(cli_session_id),
                Aside::Over(summary) => {
                    self.spend(&mut process.lease.meter, summary);
                }
            }
        }
        self.show_asked_and_work(process);
        idle
    }

    /// Another service has taken the session over: its process serves nobody any more.
    pub(super) async fn moved_between_turns(&mut self, process: Box<Process>) -> Phase {
        self.leave(CloseReason::Moved);
        self.part_with(process, StopGrace::FIRM).await;
        Phase::Closing(None, CloseReason::Moved)
    }

    /// What has become of commits while a process starts. Returns whether another service has the
    /// session: then the turn does not begin here.
    pub(super) fn moves(&mut self, stir: Stir, turn: &TurnLog) -> bool {
        self.stirred(stir);
        self.has_moved(turn)
    }

    /// Whether another service has the session, of which the turn is told then.
    pub(super) fn has_moved(&mut self, turn: &TurnLog) -> bool {
        let moves = self.journal.moved().is_some();
        if moves {
            self.leave(CloseReason::Moved);
            self.drop_turn(turn);
        }
        moves
    }

    pub(super) fn count_strays(&self, process: &mut Process) {
        let strays = process.lease.connection.take_strays();
        self.ctx.tenant.counters.stray_lines.add(strays);
    }

    /// The process ended between turns, or cannot be used any more. The next turn continues on another.
    pub(super) async fn lost(&mut self, mut process: Box<Process>, why: &str) -> Phase {
        self.notice_lost_tenure();
        warn!(
            session_id = %self.status.session_id,
            client_id = %process.lease.client_id,
            error = why,
            "cli_exited_between_turns"
        );
        // The end of its output may be seen a moment before its own.
        let exit = timeout(EXIT_LIMIT, process.lease.child.wait());
        let exit = self.while_busy(exit).await.unwrap_or(Exit::Unknown);
        let overrun = process.lease.child.overrun();
        if let Some(overrun) = overrun {
            self.warn_of(overrun, process.lease.client_id);
        }
        self.ctx.tenant.counters.cli_exits.add_one();
        self.ctx.tenant.measures.exited(exit.cause(overrun));
        self.part_with(process, StopGrace::FIRM).await;
        self.after_loss()
    }
}
