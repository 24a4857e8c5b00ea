//! How a turn ends: the mirror of its answer, its result, the idle event, and the faults in these.

use std::time::Duration;

use crate::frames;
use crate::ids;
use crate::json::{Json, object};
use crate::result::{self, Outcome, Rounds, TurnFacts};
use crate::session::{Flow, Session, Stop};
use crate::turn::Turn;

const REJECTED: &str = "The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it was a file edit, the new_string was NOT written to the file). STOP what you are doing and wait for the user to tell you how to proceed.";

/// What the script said about the turn's end.
#[derive(Debug, Default)]
pub struct Ending {
    pub no_result: bool,
    pub no_idle: bool,
    pub idle_late: Option<Duration>,
    pub mirror_after_result: bool,
    pub exit_after_result: Option<i32>,
    /// The API call failed with this text.
    pub error: Option<String>,
    /// What goes on after the turn.
    pub background: Vec<BackgroundTask>,
}

/// A task whose end starts a turn that nobody asks for.
#[derive(Debug)]
pub struct BackgroundTask {
    /// How long after its turn's end it ends itself.
    pub after: Duration,
    pub id: String,
    pub tool_use_id: String,
    /// Its end was told already.
    pub told: bool,
    /// All that it does is to print this line.
    pub line: Option<String>,
}

impl BackgroundTask {
    /// One of this id, which ends at once.
    pub fn named(id: &str) -> Self {
        let tool_use_id = ids::prefixed("toolu_");
        Self { after: Duration::ZERO, id: id.to_owned(), tool_use_id, told: false, line: None }
    }
}

impl Turn {
    /// Ends the turn as its steps came out.
    pub fn end(mut self, session: &mut Session, outcome: Flow) -> Flow {
        match outcome {
            Ok(()) => self.complete(session),
            Err(Stop::Interrupted) => self.abort(session),
            Err(Stop::Sigint) => {
                // The real one gives the turn its result, then exits as if all were well, without an idle event.
                self.ending.no_idle = true;
                let _ = self.abort(session);
                Err(Stop::Exit(0))
            }
            Err(exit @ Stop::Exit(_)) => Err(exit),
        }
    }

    fn complete(&mut self, session: &mut Session) -> Flow {
        let error = self.ending.error.take();
        let text = std::mem::take(&mut self.last_text);
        session.last_result_failed = error.is_some();
        session.mirror();
        self.tell_taken_up(session);
        if !self.ending.no_result {
            let (rounds, outcome) = match &error {
                Some(text) => {
                    (Rounds { whole: self.tool_results, cut: 0 }, Outcome::ApiError { text })
                }
                None => (self.rounds(false), Outcome::Success { text: &text }),
            };
            let outcome = match session.ledger.spent_budget(rounds) {
                Some(budget) => Outcome::OverBudget(budget),
                None => outcome,
            };
            self.print_result(session, rounds, &outcome);
        }
        self.after_result(session, "completed")
    }

    /// Ends the turn as an interrupt does.
    fn abort(&mut self, session: &mut Session) -> Flow {
        if !self.init_printed {
            self.print_init(session);
        }
        let tools = std::mem::take(&mut self.open_tools);
        for tool in &tools {
            self.user(
                session,
                &frames::tool_result_block(tool, REJECTED, true),
                Some("User rejected tool use"),
            );
        }
        let (note, terminal_reason) = if tools.is_empty() {
            ("[Request interrupted by user]", "aborted_streaming")
        } else {
            ("[Request interrupted by user for tool use]", "aborted_tools")
        };
        self.user(session, &frames::text_block(note), None);
        if let Some(message) = self.cut_stream.take() {
            self.close_stream(session, &message, None);
        }
        session.last_result_failed = true;
        session.mirror();
        if !self.ending.no_result {
            let rounds = self.rounds(tools.is_empty());
            self.print_result(session, rounds, &Outcome::Aborted { terminal_reason });
        }
        self.after_result(session, "cancelled")
    }

    /// What it has taken up is done with before its result.
    fn tell_taken_up(&self, session: &mut Session) {
        for message in &self.messages[self.started_by..] {
            session.lifecycle(Some(message), "completed");
        }
    }

    pub fn print_result(&mut self, session: &mut Session, rounds: Rounds, outcome: &Outcome<'_>) {
        let facts = TurnFacts {
            session: &session.conversation.session,
            model: &session.settings.model,
            messages: self.named(session),
            started_by: self.started_by,
            denials: &self.denials,
            rounds,
            took: self.took(),
            background: self.background,
            queued: session.queue.len(),
        };
        let frame = result::result(&mut session.ledger, &facts, outcome);
        session.frame(&frame);
    }

    fn after_result(&mut self, session: &mut Session, lifecycle: &str) -> Flow {
        if self.ending.mirror_after_result {
            session.conversation.add_last_prompt();
            session.mirror();
        }
        // The real CLI prints the result before the transcript is on disk; who reads the one cannot count on the other.
        session.out.flush();
        if let Some(code) = self.ending.exit_after_result {
            return Err(Stop::Exit(code));
        }
        session.conversation.save();
        if let Some(late) = self.ending.idle_late {
            // There is no turn left to interrupt, yet the process counts as busy.
            match session.pause(late) {
                Ok(()) | Err(Stop::Interrupted) => {}
                Err(stop) => return Err(stop),
            }
        }
        self.settle(session, lifecycle);
        Ok(())
    }

    /// Tells that the turn is over. With messages waiting there is no idle event: the next turn starts at once.
    pub fn settle(&mut self, session: &mut Session, lifecycle: &str) {
        if !self.ending.no_result {
            for message in &self.messages[..self.started_by] {
                session.lifecycle(Some(message), lifecycle);
            }
        }
        for task in self.ending.background.drain(..) {
            session.start_in_background(task);
        }
        if session.queue.is_empty() {
            session.busy = false;
            if !self.ending.no_idle {
                session.state("idle");
            }
        }
    }

    /// The stream events behind a message's assistant frame.
    pub fn close_stream(
        &mut self,
        session: &mut Session,
        message: &str,
        stop_reason: Option<&str>,
    ) {
        let events = [
            object! { "index": 0u64, "type": "content_block_stop" },
            object! {
                "delta": object! { "stop_reason": stop_reason, "stop_sequence": None::<Json> },
                "usage": object! { "output_tokens": 5u64 },
                "type": "message_delta",
            },
            object! { "type": "message_stop" },
        ];
        for event in &events {
            let frame = frames::stream_event(&session.conversation.session, event, message, false);
            session.frame(&frame);
        }
    }
}
