//! What to answer to a request: the part of the prompt's script that is due now, as pieces to deliver.

use std::time::Duration;

use serde_json::Value;

use super::attempts::{Attempts, Times};
use super::conversation::{Conversation, Turn};
use super::error::ApiError;
use super::ids;
use super::message::{Break, Message, Piece, Text, Usage};
use super::record::RecordedRequest;
use super::script::{self, Directive, Failure};
use super::side::{self, Notice};

/// What a request gets, once `after` is over.
#[derive(Debug)]
pub struct Answer {
    /// Pause before the headers.
    pub after: Duration,
    /// What comes then.
    pub outcome: Outcome,
}

/// The three ways to treat a request.
#[derive(Debug)]
pub enum Outcome {
    /// An error of the API.
    Refused(ApiError),
    /// Nothing at all, not even headers.
    Silence,
    /// A message, streamed or whole.
    Message(Message),
}

/// Decides about a request to `/v1/messages`.
pub fn to(request: &RecordedRequest, attempts: &Attempts) -> Answer {
    if let Some(wrong) = &request.refused {
        let outcome = Outcome::Refused(ApiError::bad_request(wrong));
        return Answer { after: Duration::ZERO, outcome };
    }
    let conversation = Conversation::read(request);
    let mut plan = Plan::default();
    let outcome = if let Some(text) = side::answer(&request.body) {
        plan.say(text);
        None
    } else {
        match conversation.newest() {
            Turn::Prompt(prompt) => plan.turn(&conversation, prompt, attempts),
            Turn::Notice(notice) => {
                plan.notice(*notice, &conversation, &request.body);
                None
            }
        }
    };
    Answer {
        after: plan.after,
        outcome: outcome
            .unwrap_or_else(|| Outcome::Message(Message::new(request, plan.pieces, plan.usage))),
    }
}

/// An answer in the making.
#[derive(Debug, Default)]
struct Plan {
    after: Duration,
    pieces: Vec<Piece>,
    usage: Usage,
    spoke: bool,
}

impl Plan {
    fn notice(&mut self, notice: Notice, conversation: &Conversation, body: &Value) {
        let call = side::structured_output(body);
        match (notice, call) {
            // 2.1.110 asks once more when the call has been made.
            (Notice::StructuredOutput, Some((name, input))) if conversation.tool_calls == 0 => {
                self.push(Directive::Tool { name, input });
            }
            (Notice::Summarise, _) => self.say(conversation.summary()),
            (Notice::StructuredOutput | Notice::TaskEnded | Notice::Continued, _) => {
                self.say("Noted.".to_owned());
            }
        }
    }

    /// Plans the answer to the newest prompt; `Some` if it is not a message.
    fn turn(
        &mut self,
        conversation: &Conversation,
        prompt: &str,
        attempts: &Attempts,
    ) -> Option<Outcome> {
        let directives = script::parse(prompt);
        let done = done(&directives, conversation.tool_calls);
        for (index, directive) in directives.into_iter().enumerate().skip(done) {
            let due = |failure: Failure, times: Times| {
                // Only a stream can break as a stream.
                let applies = conversation.streams || failure.is_of_the_whole_request();
                applies && attempts.take(conversation.step(prompt, index), times)
            };
            match directive {
                Directive::Fail { failure, times } if !due(failure, times) => {}
                Directive::Fail { failure, .. } => return self.fail(failure),
                directive => self.push(directive),
            }
            if matches!(self.pieces.last(), Some(Piece::ToolUse { .. })) {
                return None;
            }
        }
        if !self.spoke {
            self.say(match &conversation.tool_result {
                Some(result) => format!("Tool said: {result}"),
                None => conversation.echo(prompt),
            });
        }
        None
    }

    fn say(&mut self, text: String) {
        self.text(Text::Whole(text));
    }

    fn text(&mut self, text: Text) {
        self.pieces.push(Piece::Text(text));
        self.spoke = true;
    }

    fn push(&mut self, directive: Directive) {
        match directive {
            Directive::Say(text) => self.say(text),
            Directive::Words { count, every } => self.text(Text::Words { count, every }),
            Directive::Deltas { count, size } => self.text(Text::Deltas { count, size }),
            Directive::Think(text) => self.pieces.push(Piece::Thinking(text)),
            Directive::Tool { name, input } => {
                self.pieces.push(Piece::ToolUse { id: ids::tool_use(), name, input })
            }
            Directive::Pause(pause) if self.pieces.is_empty() => self.after += pause,
            Directive::Pause(pause) => self.pieces.push(Piece::Pause(pause)),
            Directive::Usage(usage) => self.usage = usage,
            Directive::Fail { .. } => {}
        }
    }

    fn fail(&mut self, failure: Failure) -> Option<Outcome> {
        let broken = match failure {
            Failure::Status { code, retry_after } => {
                self.wait_out_pauses();
                return Some(Outcome::Refused(ApiError::of_status(code, retry_after)));
            }
            Failure::StallBeforeHeaders => return Some(Outcome::Silence),
            Failure::StallAfterHeaders => {
                self.pieces.clear();
                Break::SilentFromTheStart
            }
            Failure::StallMid => Break::Silent,
            Failure::Drop => Break::Dropped,
            Failure::SseError => Break::ErrorEvent,
        };
        self.pieces.push(Piece::Broken(broken));
        None
    }

    /// Moves every pause planned to the front: nothing else comes before an error.
    fn wait_out_pauses(&mut self) {
        for piece in self.pieces.drain(..) {
            if let Piece::Pause(pause) = piece {
                self.after += pause;
            }
        }
    }
}

impl Failure {
    fn is_of_the_whole_request(self) -> bool {
        matches!(self, Self::Status { .. } | Self::StallBeforeHeaders)
    }
}

/// How many directives lie behind a conversation that has made so many tool calls.
fn done(directives: &[Directive], tool_calls: usize) -> usize {
    let mut tools = (directives.iter().enumerate())
        .filter(|(_, directive)| matches!(directive, Directive::Tool { .. }));
    match tool_calls {
        0 => 0,
        // More calls than the script has mean that all of it is done.
        calls => tools.nth(calls - 1).map_or(directives.len(), |(index, _)| index + 1),
    }
}
