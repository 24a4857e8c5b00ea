//! What a request to `/v1/messages` says about the conversation it belongs to.
//!
//! The CLI puts text of its own among the user's: reminders, output of slash commands, notes on
//! interruptions, notices of background tasks. None of that is a prompt.

use std::collections::BTreeMap;

use serde_json::Value;

use super::attempts::Step;
use super::record::RecordedRequest;
use super::side::Notice;

/// Elements the CLI adds to user messages. What is in them was not said by the user.
const ADDED: [&str; 9] = [
    "system-reminder",
    "local-command-caveat",
    "local-command-stdout",
    "local-command-stderr",
    "command-name",
    "command-message",
    "command-args",
    "bash-stdout",
    "bash-stderr",
];

/// How the CLI notes an interruption, whatever was interrupted.
const INTERRUPTED: &str = "[Request interrupted by user";

/// Something that the user's side said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// A prompt.
    Prompt(String),
    /// Something that the CLI wants in the user's place.
    Notice(Notice),
}

/// A conversation up to the request.
#[derive(Debug)]
pub struct Conversation {
    session: String,
    turns: Vec<Turn>,
    /// Whether the messages read so far end in a tool call or its result.
    in_tool_loop: bool,
    /// Whether the answer is to be streamed.
    pub streams: bool,
    /// Tool calls in the history since the newest turn began.
    pub tool_calls: usize,
    /// Text of the last tool result since then.
    pub tool_result: Option<String>,
}

impl Conversation {
    /// Reads a request that the API would take.
    pub fn read(request: &RecordedRequest) -> Self {
        let body = &request.body;
        let mut conversation = Self {
            session: request.session.clone().unwrap_or_default(),
            turns: Vec::new(),
            in_tool_loop: false,
            streams: body["stream"].as_bool().unwrap_or_default(),
            tool_calls: 0,
            tool_result: None,
        };
        for message in body["messages"].as_array().into_iter().flatten() {
            conversation.message(message);
        }
        conversation
    }

    /// The newest turn; a request without any text counts as an empty prompt.
    pub fn newest(&self) -> &Turn {
        const EMPTY: &Turn = &Turn::Prompt(String::new());
        self.turns.last().unwrap_or(EMPTY)
    }

    /// The place of a directive of the newest prompt among all there are.
    pub fn step(&self, prompt: &str, directive: usize) -> Step {
        Step {
            session: self.session.clone(),
            position: self.turns.len(),
            prompt: prompt.to_owned(),
            directive,
        }
    }

    /// What shows that the conversation is known: the newest prompt and those before it.
    pub fn echo(&self, prompt: &str) -> String {
        let prompts = self.prompts();
        // The newest is the last of them.
        match prompts.split_last() {
            Some((_, earlier)) if !earlier.is_empty() => format!(
                "You said: \"{prompt}\". Earlier in this conversation you said: {}.",
                earlier.join("; ")
            ),
            _ => format!("You said: \"{prompt}\"."),
        }
    }

    /// A summary of the conversation, as `/compact` wants it.
    pub fn summary(&self) -> String {
        format!("<summary>\nThe user said: {}.\n</summary>", self.prompts().join("; "))
    }

    /// The prompts, each in quotation marks.
    fn prompts(&self) -> Vec<String> {
        let prompts = self.turns.iter().filter_map(|turn| match turn {
            Turn::Prompt(text) => Some(format!("\"{text}\"")),
            Turn::Notice(_) => None,
        });
        prompts.collect()
    }

    fn message(&mut self, message: &Value) {
        let role = message["role"].as_str().unwrap_or_default();
        if role == "assistant" {
            self.in_tool_loop = false;
        }
        match &message["content"] {
            Value::String(text) => self.said(role, text),
            Value::Array(blocks) => {
                for block in blocks {
                    self.block(role, block);
                }
            }
            _ => {}
        }
    }

    fn block(&mut self, role: &str, block: &Value) {
        match block["type"].as_str() {
            Some("text") => self.said(role, block["text"].as_str().unwrap_or_default()),
            Some("tool_use") => {
                self.in_tool_loop = true;
                self.tool_calls += 1;
            }
            Some("tool_result") => self.tool_result = Some(result_text(&block["content"])),
            _ => {}
        }
    }

    fn said(&mut self, role: &str, text: &str) {
        if role != "user" {
            return;
        }
        if text.starts_with(INTERRUPTED) {
            self.in_tool_loop = false;
            return;
        }
        match Notice::of(text) {
            // On the way back from a tool it is only for information: the turn goes on.
            Some(Notice::TaskEnded) if self.in_tool_loop => {}
            Some(notice) => self.begin(Turn::Notice(notice)),
            None => match without_additions(text) {
                text if text.is_empty() => {}
                text => self.begin(Turn::Prompt(text)),
            },
        }
    }

    fn begin(&mut self, turn: Turn) {
        self.turns.push(turn);
        self.tool_calls = 0;
        self.tool_result = None;
    }
}

/// The CLI session that a request names, in its header or in its metadata.
pub fn session_of(headers: &BTreeMap<String, String>, body: &Value) -> Option<String> {
    if let Some(session) = headers.get("x-claude-code-session-id") {
        return Some(session.clone());
    }
    let user = body["metadata"]["user_id"].as_str()?;
    if let Ok(user) = serde_json::from_str::<Value>(user) {
        return user["session_id"].as_str().map(str::to_owned);
    }
    let (_, session) = user.rsplit_once("_session_")?;
    Some(session.to_owned())
}

fn result_text(content: &Value) -> String {
    let text = match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts = blocks.iter().filter_map(|block| block["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    };
    without_additions(&text)
}

/// The text without the elements that the CLI adds.
fn without_additions(text: &str) -> String {
    let mut text = text.to_owned();
    for name in ADDED {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        while let Some(start) = text.find(&open) {
            let Some(length) = text[start..].find(&close) else {
                break;
            };
            text.replace_range(start..start + length + close.len(), "");
        }
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(messages: Value) -> Conversation {
        let body = json!({ "model": "m", "messages": messages });
        let request = RecordedRequest {
            sequence: 1,
            arrived: std::time::SystemTime::UNIX_EPOCH,
            method: "POST".to_owned(),
            path: "/v1/messages".to_owned(),
            query: None,
            headers: BTreeMap::new(),
            session: session_of(&BTreeMap::new(), &body),
            body_bytes: 0,
            body,
            refused: None,
        };
        Conversation::read(&request)
    }

    fn text(text: &str) -> Value {
        json!({ "type": "text", "text": text })
    }

    #[test]
    fn what_the_cli_adds_is_no_prompt() {
        let conversation = read(json!([
            { "role": "user", "content": [text("<system-reminder>\nx\n</system-reminder>\n"), text("one")] },
            { "role": "system", "content": "Available agent types" },
            { "role": "assistant", "content": [text("You said")] },
            { "role": "user", "content": [
                text("[Request interrupted by user]\n"),
                text("<local-command-stdout>Set model to x</local-command-stdout>\n"),
                text("two <system-reminder>y</system-reminder>"),
            ] },
        ]));
        let echo = "You said: \"two\". Earlier in this conversation you said: \"one\".";
        assert_eq!(*conversation.newest(), Turn::Prompt("two".to_owned()));
        assert_eq!(conversation.echo("two"), echo);
    }

    #[test]
    fn progress_is_the_tool_calls_since_the_newest_prompt() {
        let call = json!({ "role": "assistant", "content": [{ "type": "tool_use", "id": "a" }] });
        let result = json!({ "role": "user", "content": [
            { "type": "tool_result", "content": [text("hi")] },
            text("<task-notification>done</task-notification>"),
        ] });
        let prompt = json!({ "role": "user", "content": "go" });
        let conversation = read(json!([prompt, call, result, prompt, call, result]));
        assert_eq!(*conversation.newest(), Turn::Prompt("go".to_owned()));
        assert_eq!(conversation.tool_calls, 1);
        assert_eq!(conversation.tool_result.as_deref(), Some("hi"));
    }

    #[test]
    fn the_end_of_a_background_task_opens_a_turn_once_the_tools_are_done() {
        let notice =
            text("<system-reminder>\n[SYSTEM NOTIFICATION - NOT USER INPUT]</system-reminder>");
        let conversation = read(json!([
            { "role": "user", "content": "go" },
            { "role": "assistant", "content": [text("done")] },
            { "role": "user", "content": [notice] },
        ]));
        assert_eq!(*conversation.newest(), Turn::Notice(Notice::TaskEnded));
    }

    #[test]
    fn the_session_is_named_by_the_header_or_by_the_metadata() {
        let metadata = |user: &str| json!({ "metadata": { "user_id": user } });
        let none = BTreeMap::new();
        let header = BTreeMap::from([("x-claude-code-session-id".to_owned(), "h".to_owned())]);
        let json = metadata("{\"session_id\":\"m\"}");
        assert_eq!(session_of(&header, &json).as_deref(), Some("h"));
        assert_eq!(session_of(&none, &json).as_deref(), Some("m"));
        let old = metadata("user_1_account__session_o");
        assert_eq!(session_of(&none, &old).as_deref(), Some("o"));
        assert_eq!(session_of(&none, &Value::Null), None);
    }
}
