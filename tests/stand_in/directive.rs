//! Reading one directive: its name and its arguments. What they mean is in the table of [`super::script`].

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::attempts::Times;
use super::message::Usage;
use super::script::{Directive, Failure};

/// Bound of every count, size and time in a directive.
const MAX_NUMBER: u32 = 10_000_000;

/// Bound of the text that one `deltas` makes.
const MAX_TEXT: u64 = 100_000_000;

/// Reads one directive; `None` if it is not one at all.
pub fn read(body: &str) -> Result<Option<Directive>, String> {
    let (keyword, arguments) = split_word(body);
    let directive = match keyword {
        "say" => Directive::Say(arguments.to_owned()),
        "think" => Directive::Think(arguments.to_owned()),
        "words" => {
            let [count, every] = numbers(arguments, "N every MS")?;
            Directive::Words { count, every: Duration::from_millis(every.into()) }
        }
        "deltas" => {
            let [count, size] = numbers(arguments, "N size B")?;
            if u64::from(count) * u64::from(size) > MAX_TEXT {
                return Err(format!("more than {MAX_TEXT} characters"));
            }
            Directive::Deltas { count, size: usize::try_from(size).map_err(|e| e.to_string())? }
        }
        "pause" => {
            let [millis] = numbers(arguments, "MS")?;
            Directive::Pause(Duration::from_millis(millis.into()))
        }
        "usage" => usage(arguments)?,
        "tool" => tool(arguments)?,
        "bash" => bash(arguments, false),
        "bash-background" => bash(arguments, true),
        "write" => write(arguments)?,
        "status" | "drop" | "sse-error" | "stall" => failure(keyword, arguments)?,
        _ => return Ok(None),
    };
    Ok(Some(directive))
}

fn tool(arguments: &str) -> Result<Directive, String> {
    let (name, input) = split_word(arguments);
    let input = serde_json::from_str(input).map_err(|e| format!("the input is not JSON: {e}"))?;
    if name.is_empty() || !matches!(input, Value::Object(_)) {
        return Err("expected NAME {json object}".to_owned());
    }
    Ok(Directive::Tool { name: name.to_owned(), input })
}

fn bash(command: &str, background: bool) -> Directive {
    let mut input = json!({ "command": command, "description": "Run a scripted command" });
    if background {
        input["run_in_background"] = Value::Bool(true);
    }
    Directive::Tool { name: "Bash".to_owned(), input }
}

fn write(arguments: &str) -> Result<Directive, String> {
    let (path, content) = split_word(arguments);
    if path.is_empty() {
        return Err("expected PATH TEXT".to_owned());
    }
    Ok(Directive::Tool {
        name: "Write".to_owned(),
        input: json!({ "file_path": path, "content": content }),
    })
}

fn usage(arguments: &str) -> Result<Directive, String> {
    let mut usage = Usage::default();
    let mut words = arguments.split_whitespace().peekable();
    words.peek().ok_or("expected input, output, cache-read or cache-write, each with a number")?;
    while let Some(name) = words.next() {
        let figure = match name {
            "input" => &mut usage.input,
            "output" => &mut usage.output,
            "cache-read" => &mut usage.cache_read,
            "cache-write" => &mut usage.cache_write,
            other => return Err(format!("{other:?} is no figure of tokens")),
        };
        *figure = Some(number(words.next().unwrap_or_default())?);
    }
    Ok(Directive::Usage(usage))
}

fn failure(keyword: &str, arguments: &str) -> Result<Directive, String> {
    let mut words = arguments.split_whitespace();
    let failure = match keyword {
        "drop" => Failure::Drop,
        "sse-error" => Failure::SseError,
        "stall" => match words.next() {
            Some("before-headers") => Failure::StallBeforeHeaders,
            Some("after-headers") => Failure::StallAfterHeaders,
            Some("mid") => Failure::StallMid,
            _ => return Err("expected before-headers, after-headers or mid".to_owned()),
        },
        _ => Failure::Status { code: status(words.next())?, retry_after: None },
    };
    let (times, retry_after) = failure_options(words)?;
    let times = times.unwrap_or(match failure {
        Failure::Drop | Failure::SseError => Times::Count(1),
        _ => Times::Forever,
    });
    let failure = match (failure, retry_after) {
        (failure, None) => failure,
        (Failure::Status { code, .. }, retry_after) => Failure::Status { code, retry_after },
        (_, Some(_)) => return Err("retry-after belongs to status".to_owned()),
    };
    Ok(Directive::Fail { failure, times })
}

fn failure_options<'a>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<(Option<Times>, Option<u64>), String> {
    let (mut times, mut retry_after) = (None, None);
    while let Some(option) = words.next() {
        let value = number(words.next().unwrap_or_default())?;
        match option {
            "times" => times = Some(Times::Count(value)),
            "retry-after" => retry_after = Some(value.into()),
            other => return Err(format!("{other:?} is neither times nor retry-after")),
        }
    }
    Ok((times, retry_after))
}

fn status(word: Option<&str>) -> Result<StatusCode, String> {
    let code: u16 = word.unwrap_or_default().parse().unwrap_or_default();
    match StatusCode::from_u16(code) {
        Ok(status) if (400..600).contains(&code) => Ok(status),
        _ => Err("expected a status from 400 to 599".to_owned()),
    }
}

/// Reads `form`, a list of words in which those in capitals stand for a number.
fn numbers<const N: usize>(arguments: &str, form: &str) -> Result<[u32; N], String> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let places: Vec<&str> = form.split_whitespace().collect();
    let is_place = |word: &str| word.chars().all(char::is_uppercase);
    let fits = |(word, place): (&&str, &&str)| is_place(place) || word == place;
    if words.len() != places.len() || !words.iter().zip(&places).all(fits) {
        return Err(format!("expected {form}"));
    }
    let mut found = [0; N];
    let given = words.iter().zip(&places).filter(|(_, place)| is_place(place));
    for (slot, (word, _)) in found.iter_mut().zip(given) {
        *slot = number(word)?;
    }
    Ok(found)
}

fn number(word: &str) -> Result<u32, String> {
    match word.parse() {
        Ok(number) if number <= MAX_NUMBER => Ok(number),
        _ => Err(format!("{word:?} is no number from 0 to {MAX_NUMBER}")),
    }
}

/// The first word and what follows the blank behind it.
pub fn split_word(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(failure: Failure, times: Times) -> Directive {
        Directive::Fail { failure, times }
    }

    #[test]
    fn every_form_of_the_table_is_read() {
        let words = Directive::Words { count: 3, every: Duration::from_millis(40) };
        let deltas = Directive::Deltas { count: 5, size: 10 };
        let call = |name: &str, input| Directive::Tool { name: name.to_owned(), input };
        let bash = |extra: Value| {
            let mut input =
                json!({ "command": "echo hi", "description": "Run a scripted command" });
            if let (Some(input), Value::Object(mut extra)) = (input.as_object_mut(), extra) {
                input.append(&mut extra);
            }
            call("Bash", input)
        };
        let figures = Usage { input: Some(5), cache_read: Some(7), ..Usage::default() };
        let written = json!({ "file_path": "/x", "content": "a b" });
        for (body, expected) in [
            ("words 3 every 40", words),
            ("deltas 5 size 10", deltas),
            ("pause 7", Directive::Pause(Duration::from_millis(7))),
            ("usage cache-read 7 input 5", Directive::Usage(figures)),
            ("tool Read {\"a\": 1}", call("Read", json!({ "a": 1 }))),
            ("bash echo hi", bash(json!({}))),
            ("bash-background echo hi", bash(json!({ "run_in_background": true }))),
            ("write /x a b", call("Write", written)),
            ("drop", fail(Failure::Drop, Times::Count(1))),
            ("sse-error times 2", fail(Failure::SseError, Times::Count(2))),
            ("stall mid times 1", fail(Failure::StallMid, Times::Count(1))),
            ("stall after-headers", fail(Failure::StallAfterHeaders, Times::Forever)),
        ] {
            assert_eq!(read(body), Ok(Some(expected)), "{body}");
        }
    }

    #[test]
    fn the_options_of_a_status_come_in_any_order() {
        let status =
            |retry_after| Failure::Status { code: StatusCode::TOO_MANY_REQUESTS, retry_after };
        for (body, expected) in [
            ("status 429", fail(status(None), Times::Forever)),
            ("status 429 times 2 retry-after 3", fail(status(Some(3)), Times::Count(2))),
            ("status 429 retry-after 3 times 2", fail(status(Some(3)), Times::Count(2))),
        ] {
            assert_eq!(read(body), Ok(Some(expected)), "{body}");
        }
    }
}
