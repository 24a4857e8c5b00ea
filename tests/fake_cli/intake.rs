//! Taking in what comes from outside, whatever goes on at the time.
//!
//! Whatever has to wait (a sleeping step, a permission prompt, idleness) waits in [`Session::wait`], so that control
//! requests are answered at any time.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inbox::Input;
use crate::incoming::{Incoming, UserMessage};
use crate::session::{Flow, Session, Stop};

impl Session {
    /// Takes in what is there already.
    pub fn poll(&mut self) -> Flow {
        while let Some(input) = self.inbox.poll() {
            self.take_in(input)?;
        }
        Ok(())
    }

    /// Flushes, then waits for one input and takes it in; returns at the deadline when there is one.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Flow {
        self.out.flush();
        match self.inbox.wait(deadline) {
            Some(input) => self.take_in(input).map(drop),
            None => Ok(()),
        }
    }

    /// Stays silent, but takes in what comes.
    pub fn pause(&mut self, time: Duration) -> Flow {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.wait(Some(deadline))?;
        }
        Ok(())
    }

    /// Waits for the answer to the permission prompt; nothing when stdin ends before it.
    pub fn wait_for_answer(&mut self) -> Flow<Option<Value>> {
        self.out.flush();
        while !self.eof {
            if let Some(input) = self.inbox.wait(None)
                && let Some(answer) = self.take_in(input)?
            {
                return Ok(Some(answer));
            }
            self.out.flush();
        }
        Ok(None)
    }

    /// Does what an input asks for; returns the answer to the permission prompt if it is that.
    fn take_in(&mut self, input: Input) -> Flow<Option<Value>> {
        match input {
            Input::Line(line) => match Incoming::of_line(&line) {
                Incoming::User(message) => self.queue_up(message)?,
                Incoming::ControlRequest { id, request } => self.answer_control(&id, &request)?,
                Incoming::ControlResponse(answer)
                    if self.asking.as_deref() == answer["request_id"].as_str() =>
                {
                    return Ok(Some(answer));
                }
                Incoming::ControlResponse(_) | Incoming::Ignored => {}
                Incoming::Fatal(text) => {
                    eprintln!("{text}");
                    return Err(Stop::Exit(1));
                }
            },
            Input::Eof => self.eof = true,
            Input::Sigint => return Err(Stop::Sigint),
        }
        Ok(None)
    }

    fn queue_up(&mut self, message: UserMessage) -> Flow {
        if let Some(code) = self.exit_at_prompt {
            return Err(Stop::Exit(code));
        }
        if let Some(uuid) = &message.uuid
            && !self.seen.insert(uuid.clone())
        {
            // All that the real one prints about it.
            if !self.busy {
                self.state("idle");
            }
            return Ok(());
        }
        if !self.busy {
            self.busy = true;
            self.state("running");
        }
        self.lifecycle(message.uuid.as_deref(), "queued");
        self.queue.push_back(message);
        Ok(())
    }
}
