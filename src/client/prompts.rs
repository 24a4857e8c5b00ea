//! What the CLI asks in a turn, and the answers of a person at the terminal.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{
    args::Answer,
    connect::Service,
    exit::Failure,
    hooks,
    output::remark,
    questions::Questions,
    terminal::{Terminal, answer_of},
    values::{cut, one_line},
};
use crate::proto::{
    HookCall, OpenPrompt, PromptAllow, PromptDeny, PromptEvent, PromptKind, RespondRequest,
    TurnEvent, content_block::Block, respond_request::Decision, turn_event::Kind,
};

/// Columns of a tool's input that a question shows: it is to be read before it is answered.
const SHOWN_INPUT: usize = 2000;

/// The open prompts of a turn.
#[derive(Debug)]
pub struct Prompts {
    service: Service,
    terminal: Option<Terminal>,
    /// Somebody is asked in a conversation, which takes the lines itself and hands them on.
    in_conversation: bool,
    session_id: String,
    open: VecDeque<PromptEvent>,
    /// Answers to the questions of the first, if it has some.
    questions: Questions,
}

impl Prompts {
    /// None yet. Without a terminal nobody can be asked.
    pub fn new(service: Service, terminal: Option<Terminal>) -> Self {
        Self {
            service,
            terminal,
            in_conversation: false,
            session_id: String::new(),
            open: VecDeque::new(),
            questions: Questions::default(),
        }
    }

    /// Those of a session whose turns may have begun before.
    pub fn of_session(mut self, session_id: &str) -> Self {
        session_id.clone_into(&mut self.session_id);
        self
    }

    /// Asked of the person who talks with the session, whose lines `take` is given.
    pub fn in_conversation(mut self) -> Self {
        self.in_conversation = true;
        self
    }

    /// The one that is asked.
    pub fn asked(&self) -> Option<&PromptEvent> {
        self.open.front()
    }

    /// Lets go of all but those that are still open, and says which of these are new.
    pub fn reconcile(&mut self, still: &[OpenPrompt]) -> Vec<String> {
        self.settle(|prompt| still.iter().all(|open| open.prompt_id != prompt.prompt_id));
        let ids = still.iter().map(|open| &open.prompt_id);
        ids.filter(|id| !self.is_open(id)).cloned().collect()
    }

    fn is_open(&self, id: &str) -> bool {
        self.open.iter().any(|prompt| prompt.prompt_id == id)
    }

    /// Says how those can be answered that are left open.
    pub fn leave(&mut self) {
        for prompt in self.open.drain(..) {
            remark(&hint(&self.session_id, &prompt));
        }
    }

    /// Takes note of an event, which may ask something or show that it is answered.
    pub fn note(&mut self, event: &TurnEvent) {
        match &event.kind {
            Some(Kind::Started(started)) => self.session_id.clone_from(&started.session_id),
            Some(Kind::Prompt(prompt)) => {
                let can_ask = match prompt.kind() {
                    PromptKind::ToolPermission => true,
                    PromptKind::Question => !prompt.questions.is_empty(),
                    PromptKind::Hook => prompt.hook.is_some(),
                    PromptKind::Unspecified | PromptKind::Elicitation | PromptKind::Dialog => false,
                };
                // The session's picture may have told of it before.
                if self.is_open(&prompt.prompt_id) {
                    return;
                }
                if (self.terminal.is_none() && !self.in_conversation) || !can_ask {
                    remark(&hint(&self.session_id, prompt));
                    return;
                }
                self.open.push_back(prompt.clone());
                if self.open.len() == 1 {
                    self.ask();
                }
            }
            Some(Kind::User(message)) => {
                let results = message.content.iter().filter_map(|block| block.block.as_ref());
                for block in results {
                    if let Block::ToolResult(result) = block {
                        self.settle(|prompt| prompt.tool_use_id == result.tool_use_id);
                    }
                }
            }
            Some(Kind::PromptResolved(resolved)) => {
                self.settle(|prompt| prompt.prompt_id == resolved.prompt_id);
            }
            // The CLI takes a question back.
            Some(Kind::Other(other)) if other.r#type == "control_cancel_request" => {
                self.settle(|prompt| other.frame_json.contains(&prompt.prompt_id));
            }
            Some(Kind::Result(_)) => self.open.clear(),
            _ => {}
        }
    }

    /// Others are answered elsewhere.
    fn settle(&mut self, answered: impl Fn(&PromptEvent) -> bool) {
        let asked = self.open.front().map(|prompt| prompt.prompt_id.clone());
        self.open.retain(|prompt| !answered(prompt));
        let front = self.open.front().map(|prompt| &prompt.prompt_id);
        if front.is_some() && front != asked.as_ref() {
            self.ask();
        }
    }

    /// Asks the first one, again if it was asked before.
    pub fn ask(&mut self) {
        self.questions = Questions::default();
        if let Some(terminal) = &mut self.terminal {
            terminal.forget();
        }
        if let Some(prompt) = self.open.front() {
            remark(&question(prompt, self.in_conversation));
        }
    }

    /// Waits for the person's answer to the question that is asked, and gives it. For ever
    /// while there is none.
    pub async fn answer(&mut self) -> Result<(), Failure> {
        let (Some(prompt), Some(terminal)) = (self.open.front(), &mut self.terminal) else {
            return std::future::pending().await;
        };
        let Some(line) = terminal.line().await else {
            // Ctrl-D: nobody is there any more.
            remark(&format!("\n{}", hint(&self.session_id, prompt)));
            self.terminal = None;
            self.open.clear();
            return Ok(());
        };
        self.take(&line).await;
        Ok(())
    }

    /// Takes a line as the answer to the one that is asked, and asks on.
    pub async fn take(&mut self, line: &str) {
        let Some(prompt) = self.open.front() else { return };
        let decision = match prompt.kind() {
            PromptKind::Question => {
                self.questions.take(&prompt.questions, line);
                if let Some(next) = self.questions.shown(&prompt.questions) {
                    remark(&next);
                }
                self.questions.all(&prompt.questions).map(Decision::Answers)
            }
            PromptKind::Hook => {
                let event = prompt.hook.as_ref().map_or("", |hook| hook.event.as_str());
                let said = answer_of(line)
                    .and_then(|answer| hooks::decision(event, answer, hooks::Words::default()));
                if said.is_none() {
                    remark(hooks::asked(event));
                }
                said.map(Decision::Hook)
            }
            _ => {
                let answer = answer_of(line);
                if answer.is_none() {
                    remark("[y]es, [n]o or [a]lways? ");
                }
                answer.map(|answer| decision(answer, prompt))
            }
        };
        if let Some(decision) = decision {
            self.give(decision).await;
        }
    }

    /// Answers the one that is asked, and asks on.
    pub async fn give(&mut self, decision: Decision) {
        let Some(prompt) = self.open.front() else { return };
        let decision = Some(decision);
        let (session_id, prompt_id) = (self.session_id.clone(), prompt.prompt_id.clone());
        let request = RespondRequest { session_id, prompt_id, decision };
        match self.service.respond(request).await {
            Ok(_) => drop(self.open.pop_front()),
            // Answered by somebody else, or over.
            Err(status) if status.code() == tonic::Code::NotFound => drop(self.open.pop_front()),
            // An "always" that the policy does not allow, for example.
            Err(status) => {
                remark(&format!("{}\n", Failure::from(status)));
            }
        }
        self.ask();
    }
}

fn question(prompt: &PromptEvent, in_conversation: bool) -> String {
    if let Some(question) = Questions::default().shown(&prompt.questions) {
        return question;
    }
    if let Some(hook) = &prompt.hook {
        let call = hooks::call(hook, &prompt.input_json, SHOWN_INPUT);
        return format!("? {call}\n  {}", hooks::asked(&hook.event));
    }
    let input = cut(&prompt.input_json, SHOWN_INPUT);
    let about = one_line(&format!("{} {}", prompt.description, prompt.decision_reason));
    let about = if about.is_empty() { String::new() } else { format!("  ({about})\n") };
    let edit = if in_conversation { ", [e]dit its input" } else { "" };
    format!(
        "? {} {input}\n{about}  Allow it? [y]es, [n]o, [a]lways in this session{edit}: ",
        one_line(&prompt.tool_name)
    )
}

/// A prompt that is shown with its session, and how it is answered.
pub fn open_prompt(session: &str, prompt: &OpenPrompt) -> String {
    let OpenPrompt { prompt_id, kind, tool_name, input_excerpt, expire_time, hook_event } =
        prompt.clone();
    let input_json = input_excerpt;
    let hook = (!hook_event.is_empty()).then(|| HookCall {
        event: hook_event,
        tool_name: tool_name.clone(),
        ..HookCall::default()
    });
    let prompt = PromptEvent {
        prompt_id,
        kind,
        tool_name,
        input_json,
        hook,
        expire_time,
        ..PromptEvent::default()
    };
    hint(session, &prompt)
}

/// How somebody else can answer.
fn hint(session: &str, prompt: &PromptEvent) -> String {
    let asks = match &prompt.hook {
        Some(hook) => hooks::call(hook, &prompt.input_json, 200),
        None => format!("{} {}", one_line(&prompt.tool_name), cut(&prompt.input_json, 200)),
    };
    let answer = match prompt.kind() {
        PromptKind::ToolPermission => "yes|no|always".to_owned(),
        PromptKind::Hook => "yes|no".to_owned(),
        PromptKind::Question => "--answer 'QUESTION=ANSWER'".to_owned(),
        _ => "--response-json JSON".to_owned(),
    };
    let (session, id) = (one_line(session), one_line(&prompt.prompt_id));
    format!("? {asks}\n  waits for an answer: session-pool respond {session} {id} {answer}\n")
}

fn decision(answer: Answer, prompt: &PromptEvent) -> Decision {
    match answer {
        Answer::Yes => Decision::Allow(PromptAllow::default()),
        Answer::No => Decision::Deny(PromptDeny::default()),
        Answer::Always => Decision::Allow(PromptAllow {
            updated_permissions_json: from_now_on(prompt),
            ..PromptAllow::default()
        }),
    }
}

/// The permission updates that the CLI suggests, for this session; without any, the tool.
pub fn from_now_on(prompt: &PromptEvent) -> String {
    let suggested: Option<Vec<Value>> = serde_json::from_str(&prompt.suggestions_json).ok();
    let mut updates = suggested.unwrap_or_default();
    if updates.is_empty() {
        let rules = json!([{ "toolName": prompt.tool_name }]);
        updates.push(json!({ "type": "addRules", "rules": rules, "behavior": "allow" }));
    }
    for update in &mut updates {
        if let Some(update) = update.as_object_mut() {
            update.insert("destination".to_owned(), json!("session"));
        }
    }
    Value::Array(updates).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_always_is_what_the_cli_suggests_for_this_session() {
        let suggestions_json = r#"[{"type":"addRules","rules":[{"toolName":"Bash","ruleContent":"make:*"}],"behavior":"allow","destination":"localSettings"}]"#;
        let mut prompt = PromptEvent {
            tool_name: "Bash".into(),
            suggestions_json: suggestions_json.into(),
            ..PromptEvent::default()
        };
        let updates: Value = serde_json::from_str(&from_now_on(&prompt)).expect("JSON");
        assert_eq!(updates[0]["destination"], "session");
        assert_eq!(updates[0]["rules"][0]["ruleContent"], "make:*");
        prompt.suggestions_json = String::new();
        let updates: Value = serde_json::from_str(&from_now_on(&prompt)).expect("JSON");
        assert_eq!(updates[0]["rules"], json!([{"toolName": "Bash"}]));
    }

    #[test]
    fn f2_without_a_terminal_the_way_to_answer_is_named() {
        let mut prompt = PromptEvent {
            prompt_id: "p1".into(),
            tool_name: "Bash".into(),
            input_json: r#"{"command":"make"}"#.into(),
            ..PromptEvent::default()
        };
        prompt.set_kind(PromptKind::ToolPermission);
        let text = hint("demo", &prompt);
        assert!(text.contains("session-pool respond demo p1 yes|no|always"), "{text}");
    }
}
