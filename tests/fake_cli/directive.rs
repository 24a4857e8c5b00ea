//! Reads one line of a script. What the directives mean is in the table of [`crate::script`].

use std::time::Duration;

use serde_json::Value;

use crate::children::Kind;
use crate::script::Step;

/// The step that a directive's name and the rest of its line ask for; the error says what is wrong with them.
pub fn step(name: &str, rest: &str) -> Result<Step, &'static str> {
    let text = || rest.to_owned();
    Ok(match name {
        "say" => Step::Say(text()),
        "partial" => two(rest).map(|(count, size)| Step::Partial { count, size })?,
        "repeat" => {
            let (count, line) = rest.split_once(' ').ok_or("needs a number and a line")?;
            Step::Repeat { count: number(count)?, line: line.to_owned() }
        }
        "frames" => two(rest).map(|(count, size)| Step::Frames { count, size })?,
        "big" => Step::Big(number(rest)?),
        "thinking" => Step::Thinking(text()),
        "tool" => tool(rest)?,
        "tool-result" => {
            let (id, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Step::ToolResult { id: id.to_owned(), text: text.to_owned() }
        }
        "ask" => {
            let (tool, input) = rest.split_once(' ').unwrap_or((rest, "{}"));
            Step::Ask { tool: tool.to_owned(), input: json(input)? }
        }
        "mcp" => {
            let (server, rest) = rest.split_once(' ').ok_or("needs a server and a tool")?;
            let (tool, input) = rest.split_once(' ').unwrap_or((rest, "{}"));
            let (server, tool) = (server.to_owned(), tool.to_owned());
            Step::Mcp { server, tool, input: json(input)? }
        }
        "hook" => {
            let (event, input) = rest.split_once(' ').unwrap_or((rest, "{}"));
            Step::Hook { event: event.to_owned(), input: json(input)? }
        }
        "mcp-list" => Step::McpList(rest.to_owned()),
        "sleep" => Step::Sleep(millis(rest)?),
        "hang" => Step::Hang,
        "deaf" => Step::Deaf,
        "lose-interrupts" => Step::LoseInterrupts(number(rest)?),
        "no-result" => Step::NoResult { idle: rest.trim() == "idle" },
        "no-idle" => Step::NoIdle,
        "idle-late" => Step::IdleLate(millis(rest)?),
        "mirror-after-result" => Step::MirrorAfterResult,
        "exit-after-result" => Step::ExitAfterResult(number(rest)?),
        "error" => Step::Error(text()),
        "retry" => {
            let (count, status) = rest.split_once(' ').unwrap_or((rest, "529"));
            Step::Retry { count: number(count)?, status: number(status)? }
        }
        "recite" => Step::Recite,
        "env" => Step::Env(rest.trim().to_owned()),
        "argv" => Step::Argv,
        "initialize-payload" => Step::InitializePayload,
        "cwd" => Step::Cwd,
        "pid" => Step::Pid,
        _ => return process_step(name, rest),
    })
}

/// The directives about lines as such and about the process.
fn process_step(name: &str, rest: &str) -> Result<Step, &'static str> {
    let text = || rest.to_owned();
    Ok(match name {
        "raw" => Step::Raw(text()),
        "raw-partial" => Step::RawPartial(text()),
        "garbage" => Step::Garbage,
        "unknown-frame" => Step::UnknownFrame(text()),
        "stderr" => Step::Stderr(text()),
        "exit" => Step::Exit(number(rest)?),
        "exit-at-prompt" => Step::ExitAtPrompt(number(rest)?),
        "kill-self" => Step::KillSelf(rest.trim().to_owned()),
        "ignore-term" => Step::IgnoreTerm,
        "ignore-eof" => Step::IgnoreEof,
        "close-stdout" => Step::CloseStdout,
        "child" => Step::Child(Kind::named(rest.trim()).ok_or("no such kind of child")?),
        "background-turn" => Step::BackgroundTurn(millis(rest)?),
        "tasks" => two(rest).map(|(count, size)| Step::Tasks { count, size })?,
        "later" => {
            let (after, line) = rest.split_once(' ').ok_or("needs a time and a line")?;
            Step::Later(millis(after)?, line.to_owned())
        }
        "allocate" => Step::Allocate(number(rest)?),
        _ => return Err("no such directive"),
    })
}

fn tool(rest: &str) -> Result<Step, &'static str> {
    let mut words = rest.splitn(3, ' ');
    let (Some(id), Some(name), input) = (words.next(), words.next(), words.next()) else {
        return Err("needs an id and a name");
    };
    Ok(Step::Tool { id: id.to_owned(), name: name.to_owned(), input: json(input.unwrap_or("{}"))? })
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, &'static str> {
    text.trim().parse().map_err(|_| "needs a number")
}

fn two(text: &str) -> Result<(usize, usize), &'static str> {
    let (one, other) = text.trim().split_once(' ').ok_or("needs two numbers")?;
    Ok((number(one)?, number(other)?))
}

/// A number of milliseconds.
pub fn millis(text: &str) -> Result<Duration, &'static str> {
    number(text).map(Duration::from_millis)
}

fn json(text: &str) -> Result<Value, &'static str> {
    serde_json::from_str(text).map_err(|_| "needs JSON")
}
