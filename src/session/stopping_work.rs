//! Stops what works behind the turns, because a caller wants it or a turn ended that was not to
//! leave anything behind. The CLI is asked and says of each task when it has ended; nobody waits
//! for that but the caller.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    command::InterruptReport,
    process::Process,
    task::SessionTask,
    work_stops::{Pending, StopReply, WorkStop, WorkStops, WorkToStop},
};
use crate::{
    cli::{
        background::{Background, MOST_SHOWN, Task},
        request::ControlRequest,
    },
    domain::failure::Cause,
};

/// Stops under way at the same time.
const MOST: usize = 64;

impl SessionTask {
    /// Begins to stop work. The answer comes when it has ended.
    pub(super) fn stop_work(&mut self, process: &mut Process, stop: WorkStop) {
        let WorkStop { what, reply } = stop;
        let background = &process.traits.background;
        let tasks = match &what {
            WorkToStop::Task(id) => background.find(std::slice::from_ref(id)),
            WorkToStop::Tasks(ids) => background.find(ids),
            WorkToStop::All => background.behind(),
        };
        if let (WorkToStop::Task(id), true) = (&what, tasks.is_empty()) {
            return self.refuse_stop(reply, Cause::TaskNotFound { task_id: id.clone() });
        }
        if process.work_stops.pending.len() >= MOST {
            return self.refuse_stop(reply, Cause::QueueFull { limit: MOST });
        }
        let connection = &mut process.lease.connection;
        // Subagents end without a word to the model by an interrupt, and by `stop_task` with a
        // turn of the CLI's own about it. Where no turn runs an interrupt stops nothing else; one
        // may have begun since the wish was taken.
        let alone = matches!(what, WorkToStop::All) && self.queue.current().is_none();
        let interrupt = alone.then(ControlRequest::interrupt);
        let stops = tasks.iter().map(|task| ControlRequest::stop_task(&task.id));
        // The frames that say that a task has ended say more than the answers.
        if let Err(blocked) = connection.request_all(interrupt.into_iter().chain(stops)) {
            return self.refuse_stop(reply, Cause::Protocol { detail: blocked.to_string() });
        }
        let began = Instant::now();
        let deadline = began + self.ctx.settings.interrupt_timeout;
        process.work_stops.pending.push(Pending { tasks, reply, began, deadline });
        self.settle_work_stops(process);
    }

    /// The same where the process is not at hand: it is asked as soon as it is. Where nothing works
    /// any more, because the process ends or there is none, there is nothing to wait for.
    pub(super) fn stop_work_later(&mut self, stop: WorkStop) {
        if self.deferred_stops.len() >= MOST {
            self.refuse_stop(stop.reply, Cause::QueueFull { limit: MOST });
        } else if self.status.work.tasks.is_empty() {
            let task_id = match stop.what {
                WorkToStop::Task(task_id) => task_id,
                WorkToStop::Tasks(_) | WorkToStop::All => String::new(),
            };
            self.refuse_stop(stop.reply, Cause::TaskNotFound { task_id });
        } else {
            self.deferred_stops.push(stop);
        }
    }

    /// Tells those whose work has stopped, or does not stop.
    pub(super) fn settle_work_stops(&mut self, process: &mut Process) {
        for stop in std::mem::take(&mut self.deferred_stops) {
            self.stop_work(process, stop);
        }
        let now = Instant::now();
        let background = &process.traits.background;
        if process.work_stops.pending.is_empty() {
            return;
        }
        let working = background.ids();
        let works = |task: &Arc<Task>| working.contains(task.id.as_str());
        for stop in std::mem::take(&mut process.work_stops.pending) {
            if stop.deadline > now && stop.tasks.iter().any(works) {
                process.work_stops.pending.push(stop);
                continue;
            }
            let Pending { tasks, reply, began, .. } = stop;
            let has_stopped = !tasks.iter().any(works);
            let stopped = tasks.into_iter().filter(|task| !works(task)).take(MOST_SHOWN).collect();
            let elapsed = began.elapsed();
            match reply {
                StopReply::Nobody => {}
                StopReply::Task(reply) if has_stopped => {
                    reply.send(Ok(())).ok();
                }
                StopReply::Task(reply) => {
                    reply.send(Err(self.failure(not_stopped(elapsed)).into())).ok();
                }
                StopReply::Interrupt(reply, report) => {
                    let still_running = background.shown().tasks;
                    reply.send(InterruptReport { elapsed, stopped, still_running, ..report }).ok();
                }
            }
        }
    }

    /// The process ends, and with it what works in it.
    pub(super) fn end_work_stops(&mut self, stops: WorkStops, background: &Background) {
        let mut replies: Vec<_> = stops.pending.into_iter().map(|stop| stop.reply).collect();
        for WorkStop { what, reply } in std::mem::take(&mut self.deferred_stops) {
            match what {
                WorkToStop::Task(task_id) if !background.has_task(&task_id) => {
                    self.refuse_stop(reply, Cause::TaskNotFound { task_id });
                }
                WorkToStop::Task(_) | WorkToStop::Tasks(_) | WorkToStop::All => {
                    replies.push(reply);
                }
            }
        }
        for reply in replies {
            match reply {
                StopReply::Nobody => {}
                StopReply::Task(reply) => {
                    reply.send(Ok(())).ok();
                }
                // What worked when it was asked for.
                StopReply::Interrupt(reply, report) => {
                    reply.send(report.with_all_stopped()).ok();
                }
            }
        }
    }

    fn refuse_stop(&self, reply: StopReply, cause: Cause) {
        match reply {
            StopReply::Nobody => {}
            StopReply::Task(reply) => {
                reply.send(Err(self.failure(cause).into())).ok();
            }
            StopReply::Interrupt(reply, report) => {
                reply.send(report).ok();
            }
        }
    }
}

fn not_stopped(after: Duration) -> Cause {
    let after = humantime::format_duration(Duration::from_millis(
        u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
    ));
    Cause::Protocol { detail: format!("the CLI did not stop the task in {after}") }
}
