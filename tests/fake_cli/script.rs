//! Scripts: what a prompt tells the fake to do.
//!
//! A prompt whose first line is `#!fake` is a script, one directive a line, run in order; empty lines and lines that
//! start with `#` are skipped. A directive that is not in the table ends the process with exit code 2 and
//! a line on stderr. `MS` is milliseconds, `TEXT` the rest of the line.
//!
//! | directive | what it does |
//! |---|---|
//! | `say TEXT` | an assistant frame with this text; with `--include-partial-messages` its stream events too |
//! | `partial N SIZE` | a text of N deltas of SIZE bytes: stream events (only with `--include-partial-messages`) and the assistant frame, in the real order |
//! | `frames N SIZE` | N assistant frames of about SIZE bytes a line, as fast as can be; text and uuid end in the frame's number, from 1; below some 550 bytes without `usage` and the like |
//! | `repeat N LINE` | N times the line as it stands, as fast as can be; `@@@@@@@@@@@@` in it is its number, from 1, and `$SESSION` the session's id |
//! | `big SIZE` | one assistant frame of about SIZE bytes |
//! | `thinking TEXT` | an assistant frame with a thinking block |
//! | `tool ID NAME JSON` | an assistant frame that uses a tool |
//! | `tool-result ID TEXT` | the tool's result, as a user frame; behind it, as behind every tool, the turn takes up what was said meanwhile |
//! | `ask TOOL JSON` | uses a tool and asks for the permission over stdio, then prints the result the answer calls for; refused by itself without `--permission-prompt-tool=stdio` |
//! | `mcp SERVER TOOL JSON` | uses the tool of a server that `initialize` named, without asking, and prints the result that it gives; an interrupt cancels it |
//! | `mcp-list SERVER` | asks for the tools of such a server and says their names |
//! | `hook EVENT JSON` | calls the hooks of this event that `initialize` registered, and says what was answered |
//! | `sleep MS` | silence; can be interrupted |
//! | `hang` | silence for ever; can be interrupted; end of stdin does not end it |
//! | `deaf` | from now on interrupts are neither answered nor obeyed, in later turns too |
//! | `lose-interrupts N` | the next N interrupts are answered with success, but the turn goes on |
//! | `late-init MS` | `system/init` of this turn comes so much later (wherever the line stands) |
//! | `no-init` | no `system/init` in this turn (wherever the line stands) |
//! | `no-result [idle]` | the turn ends without a result, and without the idle event unless `idle` is said |
//! | `no-idle` | no idle event after this turn's result |
//! | `idle-late MS` | the idle event comes so much later than the result |
//! | `mirror-after-result` | one more `transcript_mirror` frame between the result and the idle event |
//! | `exit-after-result CODE` | exits right after the result |
//! | `error TEXT` | ends the turn as a failed API call does (`is_error`), with this text |
//! | `retry N [STATUS]` | N `api_retry` frames, after answers of this status (529) |
//! | `recite` | a text that lists the earlier prompts of the conversation, one a line (line ends in them shown as `\n`) |
//! | `env NAME` | says the value of the variable, or `unset`; one set by `apply_flag_settings` counts |
//! | `argv` | says the command line as a JSON array |
//! | `initialize-payload` | says the first `initialize` request, as JSON, or `null` |
//! | `cwd`, `pid` | says the working directory, the process id |
//! | `raw LINE` | prints the line as it stands |
//! | `raw-partial TEXT` | prints the text without a line end and flushes |
//! | `garbage` | prints a line that is not JSON |
//! | `unknown-frame TYPE` | a frame of a type that nobody knows |
//! | `stderr TEXT` | prints a line on stderr |
//! | `exit CODE` | exits at once |
//! | `exit-at-prompt CODE` | exits when it reads the next prompt, without a word |
//! | `kill-self SIGNAL` | sends itself a signal: TERM, INT, HUP, KILL, ABRT, SEGV, STOP |
//! | `ignore-term`, `ignore-eof` | from now on SIGTERM, the end of stdin have no effect |
//! | `close-stdout` | closes stdout; the process lives on |
//! | `child KIND` | starts a child that sleeps and says its `KIND PID`: `group` in the same process group, `setsid` in a session of its own, `nohup` likewise and deaf to SIGTERM and SIGHUP, `stdout-holder` as `setsid` but keeping stdout open, `bare` as `nohup` with an empty environment, `hog` as `group` holding 300 MB |
//! | `background-turn MS` | so long after this turn's end, a turn that nobody asked for; `stop_task` stops what it waits for |
//! | `tasks N SIZE` | N tasks begin in the background, `task-000000000001` and so on, with descriptions of SIZE bytes; each works until `stop_task` stops it, and begins no turn |
//! | `later MS LINE` | so long after this turn's end, a line, as it stands |
//! | `allocate MB` | takes so much memory and keeps it |

use std::time::Duration;

use serde_json::Value;

use crate::children::Kind;
use crate::directive::{millis, step};

const MARK: &str = "#!fake";

/// What one prompt tells the fake to do.
#[derive(Debug, Default, PartialEq)]
pub struct Script {
    pub init: Init,
    pub steps: Vec<Step>,
}

/// When a turn's `system/init` comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    #[default]
    AtOnce,
    After(Duration),
    Never,
}

/// One directive; the module's table says what each does.
#[derive(Debug, PartialEq)]
pub enum Step {
    Say(String),
    Partial { count: usize, size: usize },
    Frames { count: usize, size: usize },
    Repeat { count: usize, line: String },
    Big(usize),
    Thinking(String),
    Tool { id: String, name: String, input: Value },
    ToolResult { id: String, text: String },
    Ask { tool: String, input: Value },
    Mcp { server: String, tool: String, input: Value },
    McpList(String),
    Hook { event: String, input: Value },
    Sleep(Duration),
    Hang,
    Deaf,
    LoseInterrupts(u32),
    NoResult { idle: bool },
    NoIdle,
    IdleLate(Duration),
    MirrorAfterResult,
    ExitAfterResult(i32),
    Error(String),
    Retry { count: u32, status: u32 },
    Recite,
    Env(String),
    Argv,
    InitializePayload,
    Cwd,
    Pid,
    Raw(String),
    RawPartial(String),
    Garbage,
    UnknownFrame(String),
    Stderr(String),
    Exit(i32),
    ExitAtPrompt(i32),
    KillSelf(String),
    IgnoreTerm,
    IgnoreEof,
    CloseStdout,
    Child(Kind),
    BackgroundTurn(Duration),
    Tasks { count: usize, size: usize },
    Later(Duration, String),
    Allocate(usize),
}

impl Script {
    /// The script in a prompt; a prompt that is none is one that has itself echoed.
    pub fn of_prompt(prompt: &str) -> Result<Self, String> {
        let mut lines = prompt.lines();
        if lines.next().map(str::trim_end) != Some(MARK) {
            let steps = vec![Step::Say(format!("echo: {prompt}"))];
            return Ok(Self { init: Init::AtOnce, steps });
        }
        let mut script = Self::default();
        for (at, line) in lines.enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            script
                .add(line)
                .map_err(|why| format!("fake-claude: script line {}: {why}: '{line}'", at + 2))?;
        }
        Ok(script)
    }

    /// Takes the other script's steps behind one's own: the CLI folds prompts that wait into one turn.
    pub fn append(&mut self, other: Self) {
        if other.init != Init::AtOnce {
            self.init = other.init;
        }
        self.steps.extend(other.steps);
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let (name, rest) = line.split_once(' ').unwrap_or((line.trim_end(), ""));
        match name {
            "late-init" => self.init = Init::After(millis(rest)?),
            "no-init" => self.init = Init::Never,
            _ => self.steps.push(step(name, rest)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps(body: &str) -> Vec<Step> {
        let script = Script::of_prompt(&format!("{MARK}\n{body}"));
        script.expect("the script is well formed").steps
    }

    #[test]
    fn a_prompt_without_the_mark_is_echoed_whole() {
        let script = Script::of_prompt("say hello\n#!fake").unwrap();
        assert_eq!(script.steps, [Step::Say("echo: say hello\n#!fake".to_owned())]);
        assert_eq!(script.init, Init::AtOnce);
    }

    #[test]
    fn directives_run_in_order_and_comments_are_skipped() {
        let expected =
            [Step::Say("a  b ".to_owned()), Step::Sleep(Duration::from_millis(5)), Step::Hang];
        assert_eq!(steps("say a  b \n\n# no\nsleep 5\nhang"), expected);
    }

    #[test]
    fn arguments_are_split_as_the_table_says() {
        let expected = [
            Step::Frames { count: 2, size: 300 },
            Step::Repeat { count: 3, line: r#"{"a": 1}"#.to_owned() },
            Step::Tool {
                id: "t1".to_owned(),
                name: "Bash".to_owned(),
                input: json!({"command": "ls -l"}),
            },
            Step::ToolResult { id: "t1".to_owned(), text: "a b".to_owned() },
            Step::Ask { tool: "Write".to_owned(), input: json!({}) },
            Step::NoResult { idle: true },
            Step::Child(Kind::Setsid),
            Step::Raw("{\"a\": 1}".to_owned()),
        ];
        let body = "frames 2 300\nrepeat 3 {\"a\": 1}\ntool t1 Bash {\"command\": \"ls -l\"}\ntool-result t1 a b\nask Write\n\
                    no-result idle\nchild setsid\nraw {\"a\": 1}";
        assert_eq!(steps(body), expected);
    }

    #[test]
    fn init_is_known_before_the_steps_run() {
        let script = Script::of_prompt("#!fake\nsay x\nlate-init 50").unwrap();
        assert_eq!(script.init, Init::After(Duration::from_millis(50)));
        assert_eq!(script.steps.len(), 1);
    }

    #[test]
    fn folding_keeps_the_order_and_the_faults() {
        let mut first = Script::of_prompt("one").unwrap();
        first.append(Script::of_prompt("#!fake\nno-init\nsay two").unwrap());
        assert_eq!(first.init, Init::Never);
        assert_eq!(first.steps[1], Step::Say("two".to_owned()));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (body, why) in [
            ("say x\nsey y", "script line 3: no such directive: 'sey y'"),
            ("sleep soon", "script line 2: needs a number: 'sleep soon'"),
            ("frames 3", "script line 2: needs two numbers: 'frames 3'"),
            ("ask Write {", "script line 2: needs JSON: 'ask Write {'"),
            ("child none", "script line 2: no such kind of child: 'child none'"),
        ] {
            let error = Script::of_prompt(&format!("{MARK}\n{body}")).unwrap_err();
            assert_eq!(error, format!("fake-claude: {why}"));
        }
    }
}
