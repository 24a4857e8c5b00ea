//! The directives a prompt may contain, and their parser.
//!
//! A directive stands in double square brackets anywhere in the prompt; several are carried out in order.
//! The text around them is not said. A prompt without any that says something is echoed:
//! `You said: "c". Earlier in this conversation you said: "a"; "b".`
//!
//! | directive | what happens |
//! |---|---|
//! | `[[say TEXT]]` | a text block, in a few deltas |
//! | `[[words N every MS]]` | a text block `word1 word2 …` of N deltas, MS milliseconds before each but the first: a slow stream |
//! | `[[deltas N size B]]` | a text block of N deltas of B characters each, as fast as they are taken |
//! | `[[think TEXT]]` | a thinking block |
//! | `[[tool NAME {"json":"input"}]]` | a call of that tool; the directives behind it are for the request that brings its result |
//! | `[[bash COMMAND]]` | the same for `Bash` |
//! | `[[bash-background COMMAND]]` | the same with `run_in_background` |
//! | `[[write PATH TEXT]]` | the same for `Write`; PATH has no blanks, TEXT may be empty |
//! | `[[pause MS]]` | MS milliseconds of nothing: before the headers if nothing has been said in this request yet, else in mid-stream |
//! | `[[usage input N output N cache-read N cache-write N]]` | figures of tokens of the answer to this request, any of them |
//! | `[[status CODE]]` | an API error of that status (400 to 599) |
//! | `[[status CODE retry-after S]]` | the same with that header |
//! | `[[drop]]` | the connection breaks in mid-stream, inside a text block |
//! | `[[sse-error]]` | an `error` event (`overloaded_error`) in the stream, then its end |
//! | `[[stall before-headers]]` | silence until the client leaves |
//! | `[[stall after-headers]]` | the same, once the headers are sent |
//! | `[[stall mid]]` | the same in mid-stream, inside a text block |
//!
//! - `status` and `stall` fail at every try, `drop` and `sse-error` at the first; `times N` in any of them
//!   says how many tries fail before the script goes on: `[[status 529 times 2]]`,
//!   `[[status 429 times 2 retry-after 3]]`, `[[stall mid times 1]]`. Tries are counted per CLI session and
//!   prompt.
//! - `status`, `stall before-headers` and `stall after-headers` decide about a request as a whole: of what is
//!   due in the same request, only pauses come before them. A retry says again what came before a failure.
//! - `drop`, `sse-error` and the other stalls are failures of streams: a request that does not stream (the
//!   CLI falls back to one) passes over them without using up a try.
//! - What the CLI makes of a broken stream differs: 2.1.197 repeats the request without streaming, unless a
//!   block was complete (then the turn fails with what it has); 2.1.330 retries it as a stream.
//! - After the last tool result the answer is `Tool said: RESULT`, unless the directives still to come say
//!   something. A script that says nothing at all ends with the echo.
//! - Brackets may nest (`[[say a [[b]] c]]`, a prompt for a subagent in a tool's input). What begins with no
//!   known name is plain text; a known directive with bad arguments is answered with what is wrong with it.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;

use super::attempts::Times;
use super::directive::{self, split_word};
use super::message::Usage;

/// One step of a script.
#[derive(Debug, Clone, PartialEq)]
pub enum Directive {
    /// `say`, and what is answered to a directive that cannot be read.
    Say(String),
    /// `words`
    Words {
        /// Number of deltas.
        count: u32,
        /// Pause before each but the first.
        every: Duration,
    },
    /// `deltas`
    Deltas {
        /// Number of deltas.
        count: u32,
        /// Characters in each.
        size: usize,
    },
    /// `think`
    Think(String),
    /// `tool` and its short hands
    Tool {
        /// The tool's name.
        name: String,
        /// Its input.
        input: Value,
    },
    /// `pause`
    Pause(Duration),
    /// `usage`
    Usage(Usage),
    /// `status`, `drop`, `sse-error` and `stall`
    Fail {
        /// What goes wrong.
        failure: Failure,
        /// At how many tries.
        times: Times,
    },
}

/// What can be made to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `status`
    Status {
        /// The status answered.
        code: StatusCode,
        /// Seconds for the header.
        retry_after: Option<u64>,
    },
    /// `stall before-headers`
    StallBeforeHeaders,
    /// `stall after-headers`
    StallAfterHeaders,
    /// `stall mid`
    StallMid,
    /// `drop`
    Drop,
    /// `sse-error`
    SseError,
}

/// The directives of a prompt, in order.
pub fn parse(prompt: &str) -> Vec<Directive> {
    let mut directives = Vec::new();
    let mut rest = prompt;
    while let Some(open) = rest.find("[[") {
        rest = &rest[open + 2..];
        let Some((body, after)) = body(rest) else {
            continue;
        };
        match directive::read(body) {
            Ok(Some(directive)) => directives.push(directive),
            Ok(None) => continue,
            Err(wrong) => directives
                .push(Directive::Say(format!("The stand-in cannot read [[{body}]]: {wrong}"))),
        }
        rest = after;
    }
    directives
}

/// Splits what follows an opening `[[` at the `]]` that closes it.
fn body(text: &str) -> Option<(&str, &str)> {
    if let Some(split) = tool_body(text) {
        return Some(split);
    }
    let bytes = text.as_bytes();
    let mut depth = 1_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let run = bytes[at..].iter().take_while(|b| **b == byte).count();
        match byte {
            b'[' => depth += run / 2,
            b']' if run / 2 >= depth => {
                // An odd one out belongs to the text: `[[bash [ -e x ]]]`.
                let end = at + 2 * depth + run % 2;
                return Some((&text[..end - 2], &text[end..]));
            }
            b']' => depth -= run / 2,
            _ => {}
        }
        at += run;
    }
    None
}

/// The same for `tool NAME {…}`, whose JSON may hold any brackets.
fn tool_body(text: &str) -> Option<(&str, &str)> {
    let (keyword, arguments) = split_word(text);
    let (_, input) = split_word(arguments);
    if keyword != "tool" {
        return None;
    }
    let start = text.len() - input.len();
    let mut values = serde_json::Deserializer::from_str(input).into_iter::<Value>();
    values.next()?.ok()?;
    let end = start + values.byte_offset();
    let after = text[end..].trim_start().strip_prefix("]]")?;
    Some((&text[..end], after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(text: &str) -> Directive {
        Directive::Say(text.to_owned())
    }

    fn tool(name: &str, input: Value) -> Directive {
        Directive::Tool { name: name.to_owned(), input }
    }

    #[test]
    fn directives_are_read_in_order_from_among_other_text() {
        let script = parse("first [[say a b]], then\n[[pause 20]][[think hm]] end ]] [[");
        let pause = Directive::Pause(Duration::from_millis(20));
        let think = Directive::Think("hm".to_owned());
        assert_eq!(script, [say("a b"), pause, think]);
    }

    #[test]
    fn brackets_nest_and_an_odd_one_belongs_to_the_text() {
        assert_eq!(parse("[[say a [[b]] c]]"), [say("a [[b]] c")]);
        assert_eq!(parse("[[say [ -e x ]]]"), [say("[ -e x ]")]);
        assert_eq!(parse("[[say [[x]]]] [[say y]]"), [say("[[x]]"), say("y")]);
    }

    #[test]
    fn text_in_brackets_that_is_no_directive_is_left_alone() {
        assert_eq!(parse("see [[Some Page]] and [[1, 2], [3]] and [[say open"), []);
        assert_eq!(parse("[[note [[say inner]]]]"), [say("inner")]);
    }

    #[test]
    fn the_json_of_a_tool_may_hold_brackets_of_any_kind() {
        let script = parse(r#"[[tool Agent {"prompt":"[[say x]] ]]","a":[1,[2]]}]] [[say y]]"#);
        let input = serde_json::json!({ "prompt": "[[say x]] ]]", "a": [1, [2]] });
        assert_eq!(script, [tool("Agent", input), say("y")]);
    }

    #[test]
    fn a_directive_that_cannot_be_read_is_answered_with_what_is_wrong() {
        for prompt in [
            "[[words 3]]",
            "[[words x every 5]]",
            "[[deltas 1 of 2]]",
            "[[pause -1]]",
            "[[status 200]]",
            "[[status 529 twice 2]]",
            "[[status 529 times]]",
            "[[drop retry-after 3]]",
            "[[stall]]",
            "[[tool Bash {]]",
            "[[tool Bash 3]]",
            "[[write ]]",
            "[[usage]]",
            "[[usage input]]",
            "[[usage tokens 3]]",
        ] {
            let script = parse(prompt);
            let complains = |text: &str| text.starts_with("The stand-in cannot read");
            assert!(
                matches!(&script[..], [Directive::Say(text)] if complains(text)),
                "{prompt}: {script:?}"
            );
        }
    }
}
