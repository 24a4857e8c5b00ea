//! What goes wrong in a turn: a broken connection, a dead process, a watchdog that bites.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::watchdog::Watchdog;
use crate::{
    cli::{
        connection::ConnectionError,
        frame::{Frame, excerpt},
        lines::LineError,
        process::StopGrace,
    },
    domain::{
        exit::{Exit, Overrun, Resource},
        failure::{Cause, Failure},
        ids::ClientId,
    },
    session::{
        command::{CloseReason, InterruptOutcome},
        state::{Active, Phase},
        stop::{AfterInterrupt, StopFor},
        task::SessionTask,
        turn_end::End,
    },
};

/// How long what a dead process printed last may take to be read, when a child of its
/// own holds its output open.
const LAST_WORDS: Duration = Duration::from_millis(100);

impl SessionTask {
    /// The connection cannot go on: the process is replaced at the next turn.
    pub(in crate::session) async fn broken(
        &mut self,
        mut active: Active,
        mut frames: Vec<Frame>,
        error: &ConnectionError,
    ) -> Phase {
        if let Some(over) = self.digest(&mut active, &mut frames, false) {
            // What broke comes after the turn; the next read will say so again.
            return self.turn_over(active, frames, over).await;
        }
        let cause = match error {
            ConnectionError::Closed => {
                let mut stops = Vec::new();
                let exit = timeout(LAST_WORDS * 5, active.process.lease.child.wait());
                let exit = self.while_dying(&mut stops, exit).await.unwrap_or(Exit::Unknown);
                return self.died(active, frames, exit, stops).await;
            }
            ConnectionError::Line(LineError::TooLong { limit }) => {
                Cause::FrameTooLarge { limit: *limit }
            }
            error => Cause::Protocol { detail: excerpt(&error.to_string(), 300) },
        };
        self.lose(active, End::Failed(cause), Vec::new()).await
    }

    /// A turn has ended by itself, and its process is of no use any more. Those who wanted it
    /// stopped came too late.
    async fn lose(&mut self, mut active: Active, end: End, stops: Vec<StopFor>) -> Phase {
        // Who waits for what it has left behind is told that the process has ended.
        self.leave_behind(&mut active);
        let Active { process, turn } = active;
        self.conclude(turn, process.lease.client_id, end);
        for purpose in stops {
            self.answer_stop(purpose, InterruptOutcome::TurnEnded);
        }
        self.part_with(process, StopGrace::FIRM).await;
        self.after_loss()
    }

    /// The process was killed because it held too much.
    pub(super) fn warn_of(&self, overrun: Overrun, client_id: ClientId) {
        let session_id = &self.status.session_id;
        let Overrun { resource, limit, used } = overrun;
        match resource {
            Resource::Memory => warn!(%session_id, %client_id, limit, used, "memory_limit"),
            Resource::Processes => warn!(%session_id, %client_id, limit, used, "process_limit"),
            Resource::Tasks => warn!(%session_id, %client_id, limit, used, "task_limit"),
            Resource::Workspace => warn!(%session_id, %client_id, limit, used, "workspace_limit"),
        }
    }

    /// The process ended in the turn. What it printed last may be the turn's result, and is read
    /// before anything is decided: who has wanted the turn stopped since the end (`stops`) is
    /// answered by what it says.
    pub(in crate::session) async fn died(
        &mut self,
        mut active: Active,
        mut frames: Vec<Frame>,
        exit: Exit,
        mut stops: Vec<StopFor>,
    ) -> Phase {
        let rest =
            async { while active.process.lease.connection.read(&mut frames).await.is_ok() {} };
        drop(self.while_dying(&mut stops, timeout(LAST_WORDS, rest)).await);
        self.notice_lost_tenure();
        let mut over = self.digest(&mut active, &mut frames, false);
        let pending = !active.process.steers.pending().is_empty();
        if let Some(over) = over.take_if(|_| pending) {
            // It may have begun with a message behind the result, which then is not to run again:
            // the next turn sees what it printed, and its end.
            let next = self.turn_over(active, frames, over).await;
            for purpose in stops {
                self.answer_stop(purpose, InterruptOutcome::TurnEnded);
            }
            return next;
        }
        if let Some(cause) = self.journal.moved().filter(|_| over.is_none()).cloned() {
            let next = self.moved(active, cause).await;
            for purpose in stops {
                self.answer_stop(purpose, InterruptOutcome::Terminated);
            }
            return next;
        }
        let overrun = active.process.lease.child.overrun();
        self.ctx.tenant.counters.cli_exits.add_one();
        self.ctx.tenant.measures.exited(exit.cause(overrun));
        if let Some(overrun) = overrun {
            self.warn_of(overrun, active.process.lease.client_id);
        }
        if let Some(over) = over {
            return self.lose(active, End::Result(over), stops).await;
        }
        // Of a process whose end is not known nobody can say what it still does.
        if exit != Exit::Unknown {
            active = match Self::withdraw(active) {
                Ok((process, turn)) => {
                    return self.send_again(process, turn, &exit.to_string(), stops).await;
                }
                Err(active) => *active,
            };
        }
        let tool_use_seen = active.turn.reader.has_used_tools();
        let (session_id, client_id) = (&self.status.session_id, active.process.lease.client_id);
        let cause = match overrun {
            Some(overrun) => Cause::HoldsTooMuch { overrun, tool_use_seen },
            None => {
                let stderr_tail = active.process.lease.child.stderr_tail();
                warn!(%session_id, %client_id, %exit, tool_use_seen, "cli_exited_in_turn");
                Cause::CliExited { exit, stderr_tail, tool_use_seen }
            }
        };
        self.lose(active, End::Failed(cause), stops).await
    }

    /// Says that a process was not to be had, as loudly as somebody has to act on it.
    pub(super) fn log_not_connected(&mut self, failure: &Failure) {
        let session_id = self.status.session_id.clone();
        let client_id = failure.client_id.map(tracing::field::display);
        match failure.cause {
            // More processes would help, and only the operator can give them.
            Cause::NoProcess { .. } => {
                warn!(%session_id, error = %failure, "session_pool_no_process");
            }
            // Somebody asked for it.
            Cause::TenantQuota { .. }
            | Cause::ShuttingDown
            | Cause::EndedByShutdown { .. }
            | Cause::TurnInterrupted
            | Cause::NotAllowed { .. }
            | Cause::ConversationNotFound { .. } => {
                debug!(%session_id, client_id, error = %failure, "session_pool_not_connected");
            }
            Cause::HoldsTooMuch { overrun, .. } if let Some(client_id) = failure.client_id => {
                self.warn_of(overrun, client_id);
            }
            Cause::PoolDisabled
            | Cause::PoolAtCapacity { .. }
            | Cause::MemoryBudget { .. }
            | Cause::QueueFull { .. }
            | Cause::TooManyListeners { .. }
            | Cause::SessionBusy
            | Cause::OptionsMismatch { .. }
            | Cause::BudgetExhausted { .. }
            | Cause::SessionConflict { .. }
            | Cause::SessionMoved { .. }
            | Cause::SessionNotFound
            | Cause::TurnNotFound
            | Cause::PromptNotFound { .. }
            | Cause::TaskNotFound { .. }
            | Cause::BackgroundTimeout { .. }
            | Cause::InvalidAnswer { .. }
            | Cause::CliNotFound { .. }
            | Cause::ConnectFailed { .. }
            | Cause::FirstChunkTimeout { .. }
            | Cause::CredentialsRefused { .. }
            | Cause::StreamStalled { .. }
            | Cause::CliExited { .. }
            | Cause::HoldsTooMuch { .. }
            | Cause::FrameTooLarge { .. }
            | Cause::Protocol { .. }
            | Cause::ListenerTooSlow { .. }
            | Cause::EventsExpired { .. }
            | Cause::CursorExpired { .. }
            | Cause::StoreUnavailable { .. }
            | Cause::Internal { .. } => {
                error!(%session_id, client_id, error = %failure, "session_pool_connection_failed");
            }
        }
    }

    /// Another service has the session by now: two processes must not serve it.
    pub(in crate::session) async fn moved(&mut self, mut active: Active, cause: Cause) -> Phase {
        let (session_id, client_id) = (&self.status.session_id, active.process.lease.client_id);
        warn!(%session_id, %client_id, error = %cause, "session_moved");
        self.fail_active(&mut active, cause);
        self.leave(CloseReason::Moved);
        self.part_with(active.process, StopGrace::FIRM).await;
        Phase::Closing(None, CloseReason::Moved)
    }

    /// Where a session goes whose process is gone.
    pub(super) fn after_loss(&self) -> Phase {
        if self.ephemeral && self.queue.is_empty() {
            return Phase::Closing(None, CloseReason::Ephemeral);
        }
        Phase::Detached
    }

    /// Ends a turn whose process has not begun to answer, and the process.
    async fn first_chunk_too_late(&mut self, mut active: Active) -> Phase {
        let session_id = self.status.session_id.clone();
        let client_id = active.process.lease.client_id;
        let idle_seconds = active.turn.silent_for().as_secs_f64();
        let limit = self.ctx.settings.first_chunk_timeout;
        warn!(%session_id, %client_id, idle_seconds, ?limit, limit_seconds = limit.as_secs_f64(),
            "session_pool_first_chunk_timeout");
        self.ctx.tenant.counters.first_chunk_timeouts.add_one();
        let mcp_servers = self.status.options.mcp_server_names();
        let cause = Cause::FirstChunkTimeout { limit, mcp_servers };
        self.fail_active(&mut active, cause);
        debug!(%session_id, %client_id, was_interrupted = false,
            was_first_chunk_timeout = true, was_ongoing_timeout = false,
            "session_pool_stream_cleared");
        // A process that does not answer at all is taken for broken.
        self.part_with(active.process, StopGrace::FIRM).await;
        self.after_loss()
    }

    /// Does what a watchdog is there for.
    pub(super) async fn bite(&mut self, mut active: Active, dog: Watchdog) -> Phase {
        let session_id = self.status.session_id.clone();
        let client_id = active.process.lease.client_id;
        let idle_seconds = active.turn.silent_for().as_secs_f64();
        match dog {
            Watchdog::FirstChunk => self.first_chunk_too_late(active).await,
            Watchdog::Ongoing => {
                let has_first_chunk = active.turn.reader.has_first_frame();
                info!(%session_id, %client_id, idle_seconds, has_first_chunk, is_completed = false,
                    "session_pool_interrupting_ongoing_timeout");
                Phase::Interrupting(active, self.new_stop(AfterInterrupt::Stay).of_silent_turn())
            }
            Watchdog::Stalled => {
                let limit = self.ctx.settings.stall_timeout.unwrap_or_default();
                warn!(%session_id, %client_id, idle_seconds, ?limit, limit_seconds = limit.as_secs_f64(), "turn_stalled");
                self.ctx.tenant.counters.stalled.add_one();
                self.fail_active(&mut active, Cause::StreamStalled { limit });
                self.stop(active, AfterInterrupt::Stay)
            }
            Watchdog::Refused => {
                let tool_use_seen = active.turn.reader.has_used_tools();
                warn!(%session_id, %client_id, tool_use_seen, "credentials_refused");
                self.ctx.tenant.counters.credentials_refused.add_one();
                let cause = Cause::CredentialsRefused { tool_use_seen };
                self.fail_active(&mut active, cause);
                // It keeps the credentials that it was started with. The next one gets those
                // that are in force by then.
                self.part_with(active.process, StopGrace::FIRM).await;
                self.after_loss()
            }
            Watchdog::Overspent => {
                let cause = active.turn.overspent().cloned().unwrap_or(Cause::TurnInterrupted);
                self.fail_active(&mut active, cause);
                self.stop_spending(active.process).await
            }
            Watchdog::Unkept => {
                let limit = self.ctx.settings.commit_timeout;
                let failure = self.journal.commits.failure().cloned();
                let cause = failure.unwrap_or_else(|| Cause::StoreUnavailable {
                    detail: format!("what the turn says was not kept in {limit:?}"),
                });
                warn!(%session_id, %client_id, ?limit, error = %cause, "turn_not_kept");
                self.fail_active(&mut active, cause);
                self.stop(active, AfterInterrupt::Stay)
            }
            Watchdog::Stuck => {
                warn!(%session_id, %client_id, "turn_stuck");
                self.ctx.tenant.counters.stuck.add_one();
                self.stop(active, AfterInterrupt::StayUnlessKilled(CloseReason::Stuck))
            }
        }
    }
}
