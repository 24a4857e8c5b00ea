//! The process's state and its main loop: starts turns, leaves when stdin ends.
//!
//! One thread does all of it; what comes in meanwhile is [`crate::intake`]'s business.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::Args;
use crate::control::Settings;
use crate::conversation::Conversation;
use crate::ending::BackgroundTask;
use crate::frames;
use crate::inbox::Inbox;
use crate::incoming::UserMessage;
use crate::journal;
use crate::json::Json;
use crate::knobs::Knobs;
use crate::output::Output;
use crate::result::Ledger;
use crate::signals::{self, IgnoreTerm};
use crate::turn;

/// Why a turn, or the process, does not simply go on.
#[derive(Debug)]
pub enum Stop {
    /// An interrupt was granted; only while a turn runs.
    Interrupted,
    Sigint,
    Exit(i32),
}

pub type Flow<T = ()> = Result<T, Stop>;

pub struct Session {
    pub out: Output,
    pub inbox: Inbox,
    pub args: Args,
    pub argv: Vec<String>,
    pub conversation: Conversation,
    pub ledger: Ledger,
    pub settings: Settings,
    /// The first `initialize` request; later ones change nothing.
    pub initialize: Option<Value>,
    pub ignore_term: IgnoreTerm,
    pub ignore_eof: bool,
    pub deaf: bool,
    /// The code to exit with when the next prompt comes.
    pub exit_at_prompt: Option<i32>,
    pub answers_initialize: bool,
    /// Whether it says when it takes up a prompt, and which prompts a result answers.
    pub names_prompts: bool,
    pub lose_interrupts: u32,
    /// Whether the process asked for `session_state_changed` frames.
    state_events: bool,
    /// A turn runs or is about to.
    pub busy: bool,
    pub eof: bool,
    pub last_result_failed: bool,
    pub queue: VecDeque<UserMessage>,
    /// Message uuids taken in before: the CLI drops a second message under one of them.
    pub seen: HashSet<String>,
    /// Tasks that go on between turns, and when they end.
    background: Vec<(Instant, BackgroundTask)>,
    /// Tasks that work until they are stopped.
    pub tasks: HashSet<String>,
    /// The permission prompt that waits for an answer.
    pub asking: Option<String>,
    /// The call of a tool server's tool that waits for an answer: the server, and the id.
    pub calling: Option<(String, u64)>,
    pub hoard: Vec<Vec<u8>>,
}

impl Session {
    /// Lives the process's life; returns its exit code.
    pub fn serve(args: Args, argv: Vec<String>) -> i32 {
        let environment = std::env::var("FAKE_CLAUDE").ok();
        let knobs = match Knobs::parse(environment.as_deref(), args.model.as_deref()) {
            Ok(knobs) => knobs,
            Err(text) => {
                eprintln!("{text}");
                return 2;
            }
        };
        if let Some(code) = knobs.exit {
            eprintln!("fake-claude: told to exit at start");
            return code;
        }
        let inbox = Inbox::open();
        let ignore_term = IgnoreTerm::new(knobs.ignore_term);
        let mut out = Output::stdout().expect("stdout is open");
        signals::watch(inbox.sender(), ignore_term.clone()).expect("signals can be caught");
        std::thread::sleep(knobs.boot);
        if knobs.garbage_first {
            out.bytes(b"a line on stdout that is not JSON\n");
        }
        match Conversation::open(&args) {
            Ok((conversation, cost)) => {
                journal::start(&conversation.session);
                let ledger = Ledger::new(cost, args.max_budget_usd, knobs.counts_from_zero);
                Self::new(out, inbox, ignore_term, args, argv, &knobs, conversation, ledger).run()
            }
            Err(unavailable) => {
                if let Some(result) = &unavailable.result {
                    out.frame(result);
                }
                out.flush();
                eprintln!("{}", unavailable.stderr);
                1
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "called once, by the function above")]
    fn new(
        out: Output,
        inbox: Inbox,
        ignore_term: IgnoreTerm,
        args: Args,
        argv: Vec<String>,
        knobs: &Knobs,
        conversation: Conversation,
        ledger: Ledger,
    ) -> Self {
        Self {
            out,
            inbox,
            settings: Settings::new(&args),
            args,
            argv,
            ledger,
            initialize: None,
            ignore_term,
            ignore_eof: knobs.ignore_eof,
            deaf: knobs.deaf,
            exit_at_prompt: knobs.exit_at_prompt,
            answers_initialize: !knobs.no_init,
            names_prompts: !knobs.names_no_prompts,
            lose_interrupts: 0,
            state_events: std::env::var("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS").as_deref()
                == Ok("1"),
            busy: false,
            eof: false,
            last_result_failed: false,
            queue: VecDeque::new(),
            seen: conversation.known.iter().cloned().collect(),
            background: Vec::new(),
            tasks: HashSet::new(),
            conversation,
            asking: None,
            calling: None,
            hoard: Vec::new(),
        }
    }

    fn run(mut self) -> i32 {
        loop {
            let code = match self.step() {
                Ok(()) | Err(Stop::Interrupted) => continue,
                Err(Stop::Sigint) => 0,
                Err(Stop::Exit(code)) => code,
            };
            self.out.flush();
            journal::stop();
            return code;
        }
    }

    fn step(&mut self) -> Flow {
        let messages = self.next_messages();
        let due = self.background.first().map(|(end, _)| *end);
        if !messages.is_empty() {
            return turn::run(self, messages);
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            let (_, task) = self.background.remove(0);
            return turn::run_background(self, &task);
        }
        if self.eof && !self.ignore_eof && due.is_none() {
            return Err(self.leave());
        }
        self.wait(due)
    }

    /// The messages of the next turn: all that wait, since the CLI folds them into one, but a `/clear` is alone.
    pub fn next_messages(&mut self) -> Vec<UserMessage> {
        let mut messages: Vec<UserMessage> = Vec::new();
        while let Some(next) = self.queue.front() {
            if !messages.is_empty() && (turn::is_clear(next) || turn::is_clear(&messages[0])) {
                break;
            }
            messages.extend(self.queue.pop_front());
        }
        messages
    }

    /// The end of a process whose stdin has ended: the last notes, and a code that tells of the last result.
    fn leave(&mut self) -> Stop {
        if !self.conversation.prompts.is_empty() {
            self.conversation.add_last_prompt();
            self.mirror();
            if let Some(cost) = self.ledger.to_be_saved() {
                self.conversation.add_cost(cost);
                self.mirror();
            }
            self.conversation.save();
        }
        Stop::Exit(i32::from(self.last_result_failed))
    }

    pub fn frame(&mut self, frame: &Json) {
        self.out.frame(frame);
    }

    /// Repeats a message, when the process was asked to: it is taken up.
    pub fn replay(&mut self, uuid: &str, words: &str) {
        if self.args.replay_user_messages {
            let frame = frames::replay(&self.conversation.session, uuid, words);
            self.out.frame(&frame);
        }
    }

    /// Prints the mirror of what was recorded, when the process was asked to mirror.
    pub fn mirror(&mut self) {
        let frame = self.conversation.take_mirror();
        if let Some(frame) = frame.filter(|_| self.args.session_mirror) {
            self.out.frame(&frame);
        }
    }

    pub fn state(&mut self, state: &str) {
        if self.state_events {
            let frame = frames::state_changed(&self.conversation.session, state);
            self.out.frame(&frame);
        }
    }

    pub fn start_in_background(&mut self, task: BackgroundTask) {
        self.background.push((Instant::now() + task.after, task));
        self.background.sort_by_key(|(end, _)| *end);
    }

    /// Stops a task that goes on between turns. Its end is told at once, and begins a turn if the task would have.
    pub fn stop_background_task(&mut self, id: &str) -> bool {
        if self.tasks.remove(id) {
            let task = BackgroundTask::named(id);
            turn::tell_end(self, &task, "killed", "stopped");
            return true;
        }
        let Some(index) = self.background.iter().position(|(_, task)| task.id == id) else {
            return false;
        };
        let (_, mut task) = self.background.remove(index);
        turn::tell_end(self, &task, "killed", "stopped");
        (task.after, task.told) = (Duration::ZERO, true);
        self.start_in_background(task);
        true
    }

    /// Tells what became of a message; of one without a uuid nothing can be told.
    pub fn lifecycle(&mut self, message: Option<&str>, state: &str) {
        if let Some(message) = message.filter(|_| self.names_prompts) {
            let frame = frames::command_lifecycle(&self.conversation.session, message, state);
            self.out.frame(&frame);
        }
    }
}
