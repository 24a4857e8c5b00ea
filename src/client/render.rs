//! A turn's events as text for people. Pure: an event in, text out.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;

use super::values::{cut, duration, one_line, show_cost, show_duration};
use crate::proto::{
    ApiRetry, AssistantMessage, PromptResolved, PromptResolver, RateLimitKind, RateLimited,
    StreamEvent, SystemMessage, ToolResultBlock, TurnEvent, TurnResult, TurnStarted, UserMessage,
    content_block::Block, stream_event::Delta, turn_event::Kind,
};

const DIM: &str = "\u{1b}[2m";
const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const CYAN: &str = "\u{1b}[36m";
const PLAIN: &str = "\u{1b}[0m";

/// Where the text is going to be read.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Whether it is a screen at all. Only there thinking is shown, dimmed: in a file
    /// it could not be told from the answer.
    pub is_screen: bool,
    /// Whether it takes colours: cyan is a tool's call, red is what failed, yellow is what
    /// was stopped or is tried again, green is done, dim is what is not the answer.
    pub colour: bool,
    /// Whether the place of remarks does.
    pub remarks_colour: bool,
    /// Columns that a line about a tool may take.
    pub width: usize,
}

/// Text to write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// For stdout.
    pub answer: String,
    /// For stderr.
    pub remarks: String,
}

/// Turns the events of one turn into text, in their order.
#[derive(Debug)]
pub struct Renderer {
    screen: Screen,
    session_id: String,
    /// What stands at the end of stdout.
    line: Line,
    /// Text of the block being written was shown as it came.
    text_came_in_pieces: bool,
    /// So was its thinking.
    thinking_came_in_pieces: bool,
    /// Some of the model's text was shown.
    has_answered: bool,
    /// An API's failure as an assistant message, which the result tells again.
    failure: Option<String>,
    /// The last text that was shown.
    last_text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Empty,
    Text,
    Thinking,
}

impl Renderer {
    /// For a turn that is read at `screen`.
    pub fn new(screen: Screen) -> Self {
        Self {
            screen,
            session_id: String::new(),
            line: Line::Empty,
            text_came_in_pieces: false,
            thinking_came_in_pieces: false,
            has_answered: false,
            failure: None,
            last_text: String::new(),
        }
    }

    /// Lines from now on may take so many columns.
    pub fn resize(&mut self, width: usize) {
        self.screen.width = width;
    }

    /// The text for the next event.
    pub fn render(&mut self, event: &TurnEvent) -> Rendered {
        let mut out = Rendered::default();
        match &event.kind {
            Some(Kind::Started(started)) => self.started(started),
            Some(Kind::System(system)) => self.system(system, &mut out),
            Some(Kind::Assistant(message)) => self.assistant(message, &mut out),
            Some(Kind::User(message)) => self.user(message, &mut out),
            Some(Kind::StreamEvent(piece)) => self.piece(piece, &mut out),
            // Asked by those who can answer.
            Some(Kind::Prompt(_)) => self.end_line(&mut out),
            Some(Kind::PromptResolved(resolved)) => self.resolved(resolved, &mut out),
            Some(Kind::Result(result)) => self.result(result, &mut out),
            Some(Kind::RateLimited(limit)) => self.remark(&limit_line(limit), &mut out),
            Some(Kind::EgressRefused(refused)) => {
                self.remark(&format!("kept from {}: {}", refused.host, refused.reason), &mut out);
            }
            Some(Kind::Other(_) | Kind::Heartbeat(_) | Kind::Steered(_)) | None => {}
        }
        out
    }

    /// Ends the line that an error left unfinished, and tells a failure that no result told.
    pub fn finish(&mut self) -> Rendered {
        let mut out = Rendered::default();
        self.end_line(&mut out);
        if let Some(failure) = self.failure.take() {
            self.error(&failure, &mut out);
        }
        out
    }

    /// Who has answered knows it; that nobody has is worth a word.
    fn resolved(&mut self, resolved: &PromptResolved, out: &mut Rendered) {
        if resolved.by() == PromptResolver::Timeout {
            self.remark("nobody has answered in time: refused", out);
        }
    }

    fn started(&mut self, started: &TurnStarted) {
        self.session_id = one_line(&started.session_id);
    }

    fn system(&mut self, system: &SystemMessage, out: &mut Rendered) {
        if let Some(retry) = &system.api_retry {
            self.remark(&retry_line(retry), out);
        } else if system.subtype == "compact_boundary" {
            self.remark("the conversation was compacted", out);
        }
    }

    fn assistant(&mut self, message: &AssistantMessage, out: &mut Rendered) {
        let of_subagent = !message.parent_tool_use_id.is_empty();
        for block in message.content.iter().filter_map(|block| block.block.as_ref()) {
            match block {
                Block::ToolUse(call) => {
                    let text = format!("{} {}", call.name, call.input_json);
                    self.mark('→', &text, of_subagent, out);
                }
                Block::ToolResult(result) => self.tool_result(result, of_subagent, out),
                Block::Other(other) => self.mark('·', &other.r#type, of_subagent, out),
                // A subagent's words are for the agent that called it.
                Block::Text(_) | Block::Thinking(_) if of_subagent => {}
                Block::Text(text) if !message.error.is_empty() => {
                    self.failure = Some(text.text.clone());
                }
                Block::Text(text) => {
                    if !std::mem::take(&mut self.text_came_in_pieces) {
                        self.text(&text.text, out);
                    }
                    self.last_text.clone_from(&text.text);
                    self.end_line(out);
                }
                Block::Thinking(thinking) => {
                    if !std::mem::take(&mut self.thinking_came_in_pieces) {
                        self.thinking(&thinking.thinking, out);
                    }
                    self.end_line(out);
                }
            }
        }
    }

    fn user(&mut self, message: &UserMessage, out: &mut Rendered) {
        let of_subagent = !message.parent_tool_use_id.is_empty();
        for block in &message.content {
            if let Some(Block::ToolResult(result)) = &block.block {
                self.tool_result(result, of_subagent, out);
            }
        }
    }

    fn tool_result(&mut self, result: &ToolResultBlock, of_subagent: bool, out: &mut Rendered) {
        let text = if result.text.is_empty() { &result.content_json } else { &result.text };
        self.mark(if result.is_error { '✗' } else { '←' }, text, of_subagent, out);
    }

    fn piece(&mut self, piece: &StreamEvent, out: &mut Rendered) {
        if !piece.parent_tool_use_id.is_empty() {
            return;
        }
        match &piece.delta {
            Some(Delta::Text(text)) => {
                self.text_came_in_pieces = true;
                self.text(text, out);
            }
            Some(Delta::Thinking(text)) => {
                self.thinking_came_in_pieces = true;
                self.thinking(text, out);
            }
            Some(Delta::PartialJson(_)) | None => {}
        }
    }

    fn result(&mut self, result: &TurnResult, out: &mut Rendered) {
        // A slash command answers in its result alone.
        if !self.has_answered && !result.is_error {
            self.text(&result.result, out);
        }
        self.end_line(out);
        let failure = self.failure.take().unwrap_or_default();
        if result.is_error && !result.interrupted {
            let line = error_line(result);
            let line = if line.is_empty() { one_line(&failure) } else { line };
            // It may stand there already, as the model's last words.
            if line != one_line(&self.last_text) {
                self.error(&line, out);
            }
        }
        let colour = match (result.interrupted, result.is_error) {
            (true, _) => YELLOW,
            (false, true) => RED,
            (false, false) => GREEN,
        };
        let summary = self.summary(result);
        let (outcome, rest) = summary.split_once(':').unwrap_or((&summary, ""));
        out.remarks += &paint(self.screen.remarks_colour, colour, outcome);
        out.remarks +=
            &format!("{}\n", paint(self.screen.remarks_colour, DIM, &format!(":{rest}")));
    }

    fn error(&self, text: &str, out: &mut Rendered) {
        let line = format!("error: {}", one_line(text));
        out.remarks += &format!("{}\n", paint(self.screen.remarks_colour, RED, &line));
    }

    fn summary(&self, result: &TurnResult) -> String {
        let outcome = match (result.interrupted, result.is_error) {
            (true, _) => "interrupted",
            (false, true) => "failed",
            (false, false) => "done",
        };
        format!(
            "{outcome}: session {}, {} {}, {}, {} since the process started",
            self.session_id,
            result.num_turns,
            if result.num_turns == 1 { "round" } else { "rounds" },
            show_duration(duration(result.duration)),
            show_cost(result.total_cost_usd)
        )
    }

    fn text(&mut self, text: &str, out: &mut Rendered) {
        if text.is_empty() {
            return;
        }
        if self.line == Line::Thinking {
            self.end_line(out);
        }
        self.has_answered = true;
        self.push(text, out);
        self.line = if text.ends_with('\n') { Line::Empty } else { Line::Text };
    }

    fn thinking(&mut self, text: &str, out: &mut Rendered) {
        if !self.screen.is_screen || text.is_empty() {
            return;
        }
        if self.line == Line::Text {
            self.end_line(out);
        }
        if self.screen.colour {
            // The dimming ends with every piece: the program may end before the next.
            out.answer += DIM;
            self.push(text, out);
            out.answer += PLAIN;
        } else {
            if self.line == Line::Empty {
                out.answer += "(thinking) ";
            }
            self.push(text, out);
        }
        self.line = if text.ends_with('\n') { Line::Empty } else { Line::Thinking };
    }

    /// Text as it is, but for what a screen would not show but obey.
    fn push(&self, text: &str, out: &mut Rendered) {
        if self.screen.is_screen {
            let visible = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
            out.answer.extend(text.chars().filter(visible));
        } else {
            out.answer += text;
        }
    }

    /// A line of its own about a tool.
    fn mark(&mut self, mark: char, text: &str, indented: bool, out: &mut Rendered) {
        self.end_line(out);
        let indent = if indented { "  " } else { "" };
        let width = self.screen.width.saturating_sub(2 + indent.len());
        let line = format!("{mark} {}", cut(text, width));
        let colour = match mark {
            '→' => CYAN,
            '✗' => RED,
            _ => DIM,
        };
        out.answer += &format!("{indent}{}\n", paint(self.screen.colour, colour, &line));
    }

    fn remark(&mut self, text: &str, out: &mut Rendered) {
        self.end_line(out);
        let line = paint(self.screen.remarks_colour, YELLOW, &one_line(text));
        out.remarks += &format!("{line}\n");
    }

    fn end_line(&mut self, out: &mut Rendered) {
        if self.line != Line::Empty {
            out.answer.push('\n');
            self.line = Line::Empty;
        }
    }
}

/// Text in a colour, where there are colours.
fn paint(on: bool, colour: &str, text: &str) -> String {
    if on { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
}

/// What failed, in words. The subtype can say `success` all the same.
fn error_line(result: &TurnResult) -> String {
    let subtype = if result.subtype == "success" { "" } else { &result.subtype };
    let errors = if result.errors.is_empty() { &result.result } else { &result.errors.join("; ") };
    one_line(&format!("{subtype} {errors}"))
}

fn limit_line(limit: &RateLimited) -> String {
    let until = limit.until.and_then(|until| SystemTime::try_from(until).ok());
    let until = until.map(|until| format!(" until {}", format_rfc3339_seconds(until)));
    let model = if limit.model.is_empty() { "any model" } else { limit.model.as_str() };
    let why = match limit.kind() {
        RateLimitKind::Unspecified | RateLimitKind::Requests => "too many requests for",
        RateLimitKind::Overloaded => "the API is overloaded with",
        RateLimitKind::Quota => "the quota is used up for",
        RateLimitKind::Tenant => "the tenant has used its tokens of the minute for",
    };
    format!("{why} {model}{}", until.unwrap_or_default())
}

fn retry_line(retry: &ApiRetry) -> String {
    let status = match retry.error_status {
        0 => String::new(),
        status => format!(" ({status})"),
    };
    format!(
        "retry {} of {} in {}: {}{status}",
        retry.attempt,
        retry.max_retries,
        show_duration(duration(retry.retry_delay)),
        retry.error
    )
}

#[cfg(test)]
mod tests;
