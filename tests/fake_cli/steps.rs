//! What each directive of a script does; the table is in [`crate::script`].

use std::io::Write;

use serde_json::Value;

use crate::burst;
use crate::children;
use crate::ending::BackgroundTask;
use crate::frames::{self, AssistantNotes};
use crate::ids;
use crate::json::{Json, object};
use crate::script::Step;
use crate::session::{Flow, Session, Stop};
use crate::signals;
use crate::turn::Turn;

impl Turn {
    pub fn step(&mut self, session: &mut Session, step: Step) -> Flow {
        match step {
            Step::Say(text) => self.stream(session, &text, 1)?,
            Step::Partial { count, size } => self.stream(session, &filler(size), count)?,
            Step::Frames { count, size } => self.frames(session, count, size)?,
            Step::Repeat { count, line } => self.repeat(session, count, &line)?,
            Step::Big(size) => self.big(session, size),
            Step::Thinking(text) => self.block(session, frames::thinking_block(&text)),
            Step::Tool { id, name, input } => {
                self.block(session, frames::tool_use_block(&id, &name, &input));
                self.open_tools.push(id);
            }
            Step::ToolResult { id, text } => self.tool_result(session, &id, &text, false)?,
            Step::Ask { tool, input } => self.ask(session, &tool, &input)?,
            Step::Mcp { server, tool, input } => self.call(session, &server, &tool, &input)?,
            Step::Sleep(time) => session.pause(time)?,
            Step::Hang => loop {
                session.wait(None)?;
            },
            Step::Deaf => session.deaf = true,
            Step::LoseInterrupts(count) => session.lose_interrupts = count,
            Step::Retry { count, status } => {
                for attempt in 1..=count {
                    let id = &session.conversation.session;
                    let frame = frames::api_retry(id, attempt.into(), status);
                    session.frame(&frame);
                }
            }
            Step::Error(text) => {
                self.ending.error = Some(text.clone());
                self.assistant(session, &frames::synthetic_message(&text), false);
            }
            Step::NoResult { idle } => {
                self.ending.no_result = true;
                self.ending.no_idle |= !idle;
            }
            Step::NoIdle => self.ending.no_idle = true,
            Step::IdleLate(time) => self.ending.idle_late = Some(time),
            Step::MirrorAfterResult => self.ending.mirror_after_result = true,
            Step::ExitAfterResult(code) => self.ending.exit_after_result = Some(code),
            Step::BackgroundTurn(after) => self.start_background_task(session, after),
            Step::Tasks { count, size } => return start_tasks(session, count, size),
            Step::Later(after, line) => {
                let task = BackgroundTask::named("");
                self.ending.background.push(BackgroundTask { after, line: Some(line), ..task });
            }
            step => return self.report(session, step),
        }
        Ok(())
    }

    /// The steps that say something about the process.
    fn report(&mut self, session: &mut Session, step: Step) -> Flow {
        let text = match step {
            Step::Recite => {
                let prompt = |prompt: &String| prompt.replace('\n', "\\n");
                session.conversation.prompts.iter().map(prompt).collect::<Vec<_>>().join("\n")
            }
            Step::Env(name) => {
                session.settings.variable(&name).unwrap_or_else(|| "unset".to_owned())
            }
            Step::Hook { event, input } => session.hook(&event, &input)?,
            Step::McpList(server) => session.listed(&server)?,
            Step::Argv => Value::from(session.argv.clone()).to_string(),
            Step::InitializePayload => session.initialize.clone().unwrap_or_default().to_string(),
            Step::Cwd => session.conversation.cwd.clone(),
            Step::Pid => std::process::id().to_string(),
            Step::Child(kind) => {
                // What is said so far goes first: the child may hold stdout.
                session.out.flush();
                let pid = children::start(kind).map_err(|error| {
                    eprintln!("fake-claude: cannot start a child: {error}");
                    Stop::Exit(2)
                })?;
                format!("{} {pid}", kind.name())
            }
            step => return Self::act(session, step),
        };
        self.stream(session, &text, 1)
    }

    /// The steps that do something to the process or to its output.
    fn act(session: &mut Session, step: Step) -> Flow {
        match step {
            Step::Raw(line) => session.frame(&Json(line)),
            Step::RawPartial(text) => {
                session.out.bytes(text.as_bytes());
                session.out.flush();
            }
            Step::Garbage => session.out.bytes(b"{\"type\":\"assistant\",\"message\":{cut off\n"),
            Step::UnknownFrame(kind) => {
                let frame = frames::unknown(&session.conversation.session, &kind);
                session.frame(&frame);
            }
            Step::Stderr(text) => {
                drop(writeln!(std::io::stderr(), "{text}"));
            }
            Step::Exit(code) => return Err(Stop::Exit(code)),
            Step::KillSelf(name) => {
                session.out.flush();
                if let Err(text) = signals::raise(&name) {
                    eprintln!("{text}");
                    return Err(Stop::Exit(2));
                }
            }
            Step::IgnoreTerm => session.ignore_term.ignore(),
            Step::ExitAtPrompt(code) => session.exit_at_prompt = Some(code),
            Step::IgnoreEof => session.ignore_eof = true,
            Step::CloseStdout => {
                if let Err(error) = session.out.close() {
                    eprintln!("fake-claude: cannot close stdout: {error}");
                    return Err(Stop::Exit(2));
                }
            }
            Step::Allocate(megabytes) => session.hoard.push(vec![1; megabytes << 20]),
            // `step` and `report` have done all others.
            _ => {}
        }
        Ok(())
    }

    /// An assistant frame of one block.
    pub fn block(&mut self, session: &mut Session, block: Json) {
        let message =
            frames::assistant_message(&ids::prefixed("msg_"), &session.settings.model, &[block]);
        self.assistant(session, &message, false);
    }

    /// The result of a tool, and behind it what has been said meanwhile.
    pub fn tool_result(
        &mut self,
        session: &mut Session,
        id: &str,
        text: &str,
        is_error: bool,
    ) -> Flow {
        self.open_tools.retain(|open| open != id);
        self.tool_results += 1;
        let told = if is_error { format!("Error: {text}") } else { text.to_owned() };
        self.user(session, &frames::tool_result_block(id, text, is_error), Some(&told));
        self.take_up(session)
    }

    /// A text of `count` equal deltas, with its stream events when the process was asked for them.
    fn stream(&mut self, session: &mut Session, delta: &str, count: usize) -> Flow {
        let message = ids::prefixed("msg_");
        let model = session.settings.model.clone();
        let mut printed = count;
        let mut flow = Ok(());
        if session.args.partial_messages {
            self.open_stream(session, &message);
            let event = object! {
                "index": 0u64,
                "delta": object! { "type": "text_delta", "text": delta },
                "type": "content_block_delta",
            };
            let template =
                frames::stream_event(&session.conversation.session, &event, &message, false);
            (printed, flow) = burst::print(session, &numbered_uuid(&template.0), count);
        }
        self.last_text = delta.repeat(printed);
        let body =
            frames::assistant_message(&message, &model, &[frames::text_block(&self.last_text)]);
        self.assistant(session, &body, flow.is_err());
        if flow.is_err() {
            self.cut_stream = Some(message);
        } else if session.args.partial_messages {
            self.close_stream(session, &message, Some("end_turn"));
        }
        flow
    }

    /// The stream events before a message's first delta.
    fn open_stream(&mut self, session: &mut Session, message: &str) {
        let id = session.conversation.session.clone();
        let requesting = [("status", frames::text("requesting"))];
        session.frame(&frames::system(&id, "status", &requesting));
        let begun = frames::assistant_message(message, &session.settings.model, &[]);
        let start = object! { "message": begun, "type": "message_start" };
        session.frame(&frames::stream_event(&id, &start, message, true));
        let block = object! {
            "index": 0u64,
            "content_block": frames::text_block(""),
            "type": "content_block_start",
        };
        session.frame(&frames::stream_event(&id, &block, message, false));
    }

    fn frames(&mut self, session: &mut Session, count: usize, size: usize) -> Flow {
        let model = session.settings.model.clone();
        let line = |lean: bool, text: &str| {
            let block = frames::text_block(&format!("{text}{}", burst::NUMBER));
            let id = &session.conversation.session;
            let frame = if lean {
                frames::lean_assistant(id, &model, block)
            } else {
                let message = frames::assistant_message("msg_fake", &model, &[block]);
                let notes = AssistantNotes { uuid: &ids::uuid(), ..AssistantNotes::default() };
                frames::assistant(id, &message, notes)
            };
            numbered_uuid(&frame.0)
        };
        // Small frames, which measure throughput, have to do without some of the ordinary keys.
        let lean = line(false, "").len() + 1 > size;
        let bare = line(lean, "").len() + 1;
        let template = line(lean, &filler(size.saturating_sub(bare)));
        let (printed, flow) = burst::print(session, &template, count);
        self.last_text = format!("{printed:012}");
        flow
    }

    fn repeat(&mut self, session: &mut Session, count: usize, line: &str) -> Flow {
        let template = line.replace("$SESSION", &session.conversation.session);
        let (printed, flow) = burst::print(session, &template, count);
        self.last_text = format!("{printed:012}");
        flow
    }

    fn big(&mut self, session: &mut Session, size: usize) {
        let text = filler(size);
        let model = session.settings.model.clone();
        let message =
            frames::assistant_message(&ids::prefixed("msg_"), &model, &[frames::text_block(&text)]);
        self.assistant(session, &message, false);
        self.last_text = text;
    }

    fn start_background_task(&mut self, session: &mut Session, after: std::time::Duration) {
        let task = BackgroundTask { after, ..BackgroundTask::named(&ids::prefixed("b")) };
        let fields = [
            ("task_id", frames::text(&task.id)),
            ("tool_use_id", frames::text(&task.tool_use_id)),
            ("description", frames::text("fake")),
            ("is_backgrounded", Json("true".to_owned())),
            ("task_type", frames::text("local_bash")),
        ];
        let frame = frames::system(&session.conversation.session, "task_started", &fields);
        session.frame(&frame);
        self.ending.background.push(task);
    }
}

/// Tasks that work until they are stopped.
fn start_tasks(session: &mut Session, count: usize, size: usize) -> Flow {
    let id = format!("task-{}", burst::NUMBER);
    let fields = [
        ("task_id", frames::text(&id)),
        ("description", frames::text(&filler(size))),
        ("is_backgrounded", Json("true".to_owned())),
        ("task_type", frames::text("local_bash")),
    ];
    let frame = frames::system(&session.conversation.session, "task_started", &fields);
    let (printed, flow) = burst::print(session, &frame.0, count);
    session.tasks.extend((1..=printed).map(|number| format!("task-{number:012}")));
    flow
}

/// The frame with the last part of its uuid made the place for a burst's number.
fn numbered_uuid(frame: &str) -> String {
    let mark = "\"uuid\":\"";
    let Some(at) = frame.find(mark) else {
        return frame.to_owned();
    };
    let tail = at + mark.len() + 24;
    let mut frame = frame.to_owned();
    frame.replace_range(tail..tail + burst::NUMBER.len(), burst::NUMBER);
    frame
}

/// A text of so many bytes.
fn filler(size: usize) -> String {
    "lorem ipsum dolor ".chars().cycle().take(size).collect()
}
