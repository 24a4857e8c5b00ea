//! A turn, from the messages that start it to its end: `system/init`, the script's steps, and [`crate::ending`].

use std::time::{Duration, Instant};

use crate::ending::{BackgroundTask, Ending};
use crate::frames::{self, AssistantNotes, InitFacts};
use crate::ids;
use crate::incoming::UserMessage;
use crate::journal;
use crate::json::{Json, object};
use crate::result::{Outcome, Rounds};
use crate::script::{Init, Script, Step};
use crate::session::{Flow, Session, Stop};

/// What a running turn has come to.
pub struct Turn {
    pub started: Instant,
    /// The uuids of the messages that it answers, of those that have one: those that started it, and those that it has
    /// taken up.
    pub messages: Vec<String>,
    /// How many of them started it.
    pub started_by: usize,
    pub init_printed: bool,
    /// Results of tools so far: each costs an API round of its own.
    pub tool_results: u64,
    /// Tools that have no result yet.
    pub open_tools: Vec<String>,
    /// The message whose stream events an interrupt cut off.
    pub cut_stream: Option<String>,
    /// The messages that came while it ran and that it has taken up.
    pub taken_up: Vec<String>,
    pub last_text: String,
    pub denials: Vec<Json>,
    pub ending: Ending,
    pub background: bool,
}

impl Turn {
    fn new(messages: Vec<String>, background: bool) -> Self {
        Self {
            started: Instant::now(),
            started_by: messages.len(),
            messages,
            init_printed: false,
            tool_results: 0,
            open_tools: Vec::new(),
            cut_stream: None,
            taken_up: Vec::new(),
            last_text: String::new(),
            denials: Vec::new(),
            ending: Ending::default(),
            background,
        }
    }
}

pub fn is_clear(message: &UserMessage) -> bool {
    message.text.trim() == "/clear"
}

/// Runs the turn that the messages ask for, to its end.
pub fn run(session: &mut Session, messages: Vec<UserMessage>) -> Flow {
    let mut script = Script::default();
    for message in &messages {
        script.append(Script::of_prompt(&message.text).map_err(|text| {
            eprintln!("{text}");
            Stop::Exit(2)
        })?);
    }
    for message in &messages {
        journal::run(&message.text);
    }
    let uuids: Vec<String> = messages.iter().filter_map(|message| message.uuid.clone()).collect();
    // Of several that wait each but the last is repeated by itself, and then all of them together.
    for message in &messages[..messages.len() - 1] {
        session.replay(message.uuid.as_deref().unwrap_or_default(), &message.text);
    }
    for uuid in &uuids {
        session.lifecycle(Some(uuid), "started");
    }
    let mut turn = Turn::new(uuids, false);
    if messages.iter().any(is_clear) {
        return turn.clear(session);
    }
    // A fork's copy of the old entries is mirrored by itself, before the turn.
    session.mirror();
    if let Some(budget) = session.ledger.spent_budget(Rounds::default()) {
        turn.print_init(session);
        turn.print_result(session, Rounds::default(), &Outcome::OverBudget(budget));
        turn.settle(session, "completed");
        return Ok(());
    }
    let outcome = turn.play(session, script, &messages);
    let prompts = messages.into_iter().map(|message| message.text);
    session.conversation.prompts.extend(prompts.chain(turn.taken_up.drain(..)));
    turn.end(session, outcome)
}

/// Runs a turn that nobody asked for: a background task has ended.
pub fn run_background(session: &mut Session, task: &BackgroundTask) -> Flow {
    if let Some(line) = &task.line {
        session.frame(&Json(line.clone()));
        return Ok(());
    }
    if !task.told {
        tell_end(session, task, "completed", "completed");
    }
    session.busy = true;
    session.state("running");
    let mut turn = Turn::new(Vec::new(), true);
    let script =
        Script { init: Init::AtOnce, steps: vec![Step::Say("background task done".to_owned())] };
    let outcome = turn.play(session, script, &[]);
    turn.end(session, outcome)
}

/// Prints how a background task ended, in the words of its two frames.
pub fn tell_end(session: &mut Session, task: &BackgroundTask, status: &str, notified: &str) {
    let id = session.conversation.session.clone();
    let updated = [
        ("task_id", frames::text(&task.id)),
        ("patch", object! { "status": status, "end_time": ids::now_ms() }),
    ];
    session.frame(&frames::system(&id, "task_updated", &updated));
    let notification = [
        ("task_id", frames::text(&task.id)),
        ("tool_use_id", frames::text(&task.tool_use_id)),
        ("status", frames::text(notified)),
        (
            "output_file",
            frames::text(&format!("{}/tasks/{}.output", session.conversation.cwd, task.id)),
        ),
        ("summary", frames::text("Background command \"fake\" completed (exit code 0)")),
    ];
    session.frame(&frames::system(&id, "task_notification", &notification));
}

impl Turn {
    fn play(&mut self, session: &mut Session, script: Script, messages: &[UserMessage]) -> Flow {
        let mode = session.settings.permission_mode.clone();
        let uuids: Vec<String> =
            messages.iter().map(|message| message.uuid.clone().unwrap_or_else(ids::uuid)).collect();
        for (message, uuid) in messages.iter().zip(&uuids) {
            session.conversation.add_prompt(uuid, &message.text, &mode);
        }
        if let Init::After(time) = script.init {
            session.pause(time)?;
        }
        if script.init != Init::Never {
            self.print_init(session);
        }
        session.mirror();
        if let Some(last) = uuids.last() {
            let words: Vec<&str> = messages.iter().map(|message| message.text.as_str()).collect();
            session.replay(last, &words.join("\n"));
        }
        for step in script.steps {
            session.poll()?;
            self.step(session, step)?;
            if self.ending.error.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Takes up the messages that have come meanwhile, as the real one does behind a tool: the model is told of them in
    /// this turn. A script in one of them is not run.
    pub fn take_up(&mut self, session: &mut Session) -> Flow {
        session.poll()?;
        let messages: Vec<UserMessage> = session.next_messages();
        for message in &messages {
            session.replay(message.uuid.as_deref().unwrap_or_default(), &message.text);
            session.conversation.add_taken_up(message.uuid.as_deref(), &message.text);
        }
        for uuid in messages.iter().filter_map(|message| message.uuid.clone()) {
            session.lifecycle(Some(&uuid), "started");
            self.messages.push(uuid);
        }
        if !messages.is_empty() {
            session.mirror();
        }
        self.taken_up.extend(messages.into_iter().map(|message| message.text));
        Ok(())
    }

    /// The messages that it answers, as far as this version names them.
    pub fn named(&self, session: &Session) -> &[String] {
        if session.names_prompts { &self.messages } else { &[] }
    }

    pub fn print_init(&mut self, session: &mut Session) {
        self.init_printed = true;
        let server = |name: &String| object! { "name": name, "status": "connected" };
        let frame = frames::init(&InitFacts {
            session: &session.conversation.session,
            cwd: &session.conversation.cwd,
            model: &session.settings.model,
            permission_mode: &session.settings.permission_mode,
            memory_path: &session.conversation.memory_path(),
            mcp_servers: session.settings.mcp_servers.iter().map(server).collect(),
            messages: self.named(session),
        });
        session.frame(&frame);
    }

    /// Prints and records an assistant frame.
    pub fn assistant(&mut self, session: &mut Session, message: &Json, aborted: bool) {
        let uuid = ids::uuid();
        let notes = AssistantNotes {
            uuid: &uuid,
            aborted,
            failed: self.ending.error.is_some(),
            messages: self.named(session),
        };
        let frame = frames::assistant(&session.conversation.session, message, notes);
        session.frame(&frame);
        session.conversation.add_message("assistant", &uuid, message);
    }

    /// Prints and records a user frame that the CLI makes itself.
    pub fn user(&mut self, session: &mut Session, block: &Json, tool_use_result: Option<&str>) {
        let uuid = ids::uuid();
        let frame = frames::user(&session.conversation.session, &uuid, block, tool_use_result);
        session.frame(&frame);
        let message = object! { "role": "user", "content": [block] };
        session.conversation.add_message("user", &uuid, &message);
    }

    pub fn rounds(&self, cut: bool) -> Rounds {
        let whole = self.tool_results + u64::from(!cut);
        Rounds { whole, cut: u64::from(cut) }
    }

    /// `/clear`: the conversation starts over under a new id.
    fn clear(&mut self, session: &mut Session) -> Flow {
        session.conversation.save();
        let message = self.messages.last().cloned().unwrap_or_else(ids::uuid);
        let old = session.conversation.session.clone();
        session.frame(&frames::conversation_reset(&old, &message));
        session.conversation.clear();
        session.ledger.clear();
        self.print_init(session);
        let words = "<command-name>/clear</command-name>";
        session.conversation.add_message(
            "user",
            &message,
            &object! { "role": "user", "content": [frames::text_block(words)] },
        );
        session.mirror();
        self.print_result(session, Rounds::default(), &Outcome::LocalCommand("clear"));
        session.conversation.save();
        self.settle(session, "completed");
        Ok(())
    }

    /// How long the turn has run.
    pub fn took(&self) -> Duration {
        self.started.elapsed()
    }
}
