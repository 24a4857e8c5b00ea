//! Reads along what the API says that a request has used: in the events of a stream, or in an
//! answer that comes as a whole. Holds one line of a stream at a time, within a bound.
//!
//! Source: `message_start` has the model and the input; each `message_delta` has sums of the whole
//! message, so that later figures replace earlier ones. Whoever hangs up before the last of them has
//! been given text that no figure tells of: that is estimated by its bytes, so that nobody writes
//! for nothing.

use serde::Deserialize;

use crate::domain::usage::TokenUsage;

/// Bytes of a line that is looked at. Those that tell of usage have some hundreds.
const LONGEST_LINE: usize = 1 << 20;

/// Bytes of an answer that comes as a whole.
const LONGEST_ANSWER: usize = 16 << 20;

/// Characters of a model's name.
const LONGEST_NAME: usize = 128;

/// Bytes of text for a token, where nobody tells how many there are. Fewer than in English prose, so
/// that an estimate is rather too high.
const BYTES_OF_A_TOKEN: u64 = 3;

/// Bytes of an event of a stream beside the text that it brings.
const AROUND_TEXT: u64 = 90;

/// What an event begins with in a line of a stream.
const DATA: &[u8] = b"data:";

/// What a request has used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// The model that answered.
    pub model: String,
    /// Tokens read that no cache had.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
    /// Tokens put into the prompt cache for five minutes.
    pub cached_5m: u64,
    /// Tokens put into it for an hour.
    pub cached_1h: u64,
    /// Tokens that came from it.
    pub from_cache: u64,
    /// Searches that the API has made.
    pub searches: u64,
    /// Whether it was served in the fast mode, which costs more.
    pub fast: bool,
}

impl Used {
    /// The tokens in the form that sessions count.
    pub(super) fn tokens(&self) -> TokenUsage {
        TokenUsage {
            input_tokens: self.input,
            output_tokens: self.output,
            cache_creation_input_tokens: self.cached_5m.saturating_add(self.cached_1h),
            cache_read_input_tokens: self.from_cache,
        }
    }

    /// Tokens that count for what a tenant may use in a minute: those that come from the cache do
    /// not, as for the API's own limits.
    pub(super) fn limited(&self) -> u64 {
        let written = self.cached_5m.saturating_add(self.cached_1h);
        self.input.saturating_add(self.output).saturating_add(written)
    }

    /// What was used since an earlier figure of the same request.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            model: self.model.clone(),
            input: self.input.saturating_sub(earlier.input),
            output: self.output.saturating_sub(earlier.output),
            cached_5m: self.cached_5m.saturating_sub(earlier.cached_5m),
            cached_1h: self.cached_1h.saturating_sub(earlier.cached_1h),
            from_cache: self.from_cache.saturating_sub(earlier.from_cache),
            searches: self.searches.saturating_sub(earlier.searches),
            fast: self.fast,
        }
    }

    fn take(&mut self, told: &Told) {
        let raise = |place: &mut u64, told: Option<u64>| *place = (*place).max(told.unwrap_or(0));
        raise(&mut self.input, told.input_tokens);
        raise(&mut self.output, told.output_tokens);
        raise(&mut self.from_cache, told.cache_read_input_tokens);
        match &told.cache_creation {
            Some(parts) => {
                raise(&mut self.cached_5m, parts.ephemeral_5m_input_tokens);
                raise(&mut self.cached_1h, parts.ephemeral_1h_input_tokens);
            }
            // One that says only a sum may be the later figure of one that told its parts.
            None => {
                let sum = told.cache_creation_input_tokens.unwrap_or(0);
                self.cached_5m = self.cached_5m.max(sum.saturating_sub(self.cached_1h));
            }
        }
        let searches = told.server_tool_use.as_ref().and_then(|it| it.web_search_requests);
        raise(&mut self.searches, searches);
        self.fast |= told.speed.as_deref().is_some_and(|speed| speed != STANDARD);
    }
}

/// The speed at which most is served.
const STANDARD: &str = "standard";

#[derive(Deserialize, Default)]
struct Told {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<Parts>,
    server_tool_use: Option<Tools>,
    speed: Option<String>,
}

#[derive(Deserialize)]
struct Parts {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Tools {
    web_search_requests: Option<u64>,
}

/// An event, or an answer as a whole: the message is in it, or is it.
#[derive(Deserialize)]
struct Event {
    message: Option<Message>,
    model: Option<String>,
    usage: Option<Told>,
}

#[derive(Deserialize)]
struct Message {
    model: Option<String>,
    usage: Option<Told>,
}

/// In which form an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As a stream of events.
    Events,
    /// As a whole.
    Whole,
    /// As nothing that usage is read from.
    Other,
}

/// Reads an answer along.
#[derive(Debug)]
pub(super) struct Tap {
    form: Form,
    held: Vec<u8>,
    /// Whether what comes up to the end of the line is too long to be looked at.
    skips: bool,
    used: Used,
    /// Bytes of the request, where it says so.
    asked: u64,
    /// Bytes of text that no figure tells of yet.
    untold: u64,
}

impl Tap {
    /// Of the answer to a request of so many bytes.
    pub(super) fn new(form: Form, asked: u64) -> Self {
        Self { form, held: Vec::new(), skips: false, used: Used::default(), asked, untold: 0 }
    }

    /// What is known by now.
    pub(super) fn used(&self) -> &Used {
        &self.used
    }

    /// The next piece.
    pub(super) fn read(&mut self, piece: &[u8]) {
        match self.form {
            Form::Other => {}
            Form::Whole => {
                self.untold += piece.len() as u64;
                self.hold(piece, LONGEST_ANSWER);
            }
            Form::Events => self.read_lines(piece),
        }
    }

    /// There is no more. What no figure has told by now, none will.
    pub(super) fn end(&mut self) {
        if !self.skips {
            let held = std::mem::take(&mut self.held);
            match self.form {
                Form::Whole => self.take(&held),
                Form::Events => self.line(&held),
                Form::Other => {}
            }
        }
        if self.untold > 0 {
            self.used.output += self.untold.div_ceil(BYTES_OF_A_TOKEN);
            self.untold = 0;
            if self.form == Form::Whole {
                self.used.input += self.asked.div_ceil(BYTES_OF_A_TOKEN);
            }
        }
    }

    fn read_lines(&mut self, mut piece: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            if self.held.is_empty() && !self.skips {
                self.line(line);
            } else {
                self.hold(line, LONGEST_LINE);
                let held = std::mem::take(&mut self.held);
                if !std::mem::take(&mut self.skips) {
                    self.line(&held);
                }
            }
            piece = &rest[1..];
        }
        self.hold(piece, LONGEST_LINE);
    }

    fn hold(&mut self, piece: &[u8], bound: usize) {
        if self.held.len() + piece.len() > bound {
            self.skips = true;
            self.held = Vec::new();
        }
        if !self.skips {
            self.held.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(DATA) else { return };
        // Most lines are pieces of a text, and not worth reading.
        if memchr::memmem::find(data, b"\"usage\"").is_some() {
            self.take(data);
        } else if memchr::memmem::find(data, b"content_block_delta").is_some() {
            self.untold += (data.len() as u64).saturating_sub(AROUND_TEXT).max(1);
        }
    }

    fn take(&mut self, json: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event>(json) else { return };
        let (model, usage) = match event.message {
            Some(message) => (message.model, message.usage),
            None => {
                // A sum of the whole message, up to here.
                if event.usage.as_ref().is_some_and(|told| told.output_tokens.is_some()) {
                    self.untold = 0;
                }
                (event.model, event.usage)
            }
        };
        if let Some(model) = model.filter(|_| self.used.model.is_empty()) {
            self.used.model = model.chars().take(LONGEST_NAME).collect();
        }
        if let Some(told) = usage {
            self.used.take(&told);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "event: message_start\n",
        "data: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-a\",\"usage\":{\"input_tokens\":11,\"output_tokens\":1,",
        "\"cache_creation_input_tokens\":30,\"cache_read_input_tokens\":40,\"cache_creation\":{\"ephemeral_5m_input_tokens\":10,\"ephemeral_1h_input_tokens\":20}}}}\n\n",
        "event: content_block_delta\r\n",
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\\"usage\\\" {\"}}\r\n\r\n",
        "event: message_delta\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":70,\"cache_creation_input_tokens\":30,\"server_tool_use\":{\"web_search_requests\":2}}}\n\n",
        "data: {\"type\":\"message_stop\"}\n\n",
    );

    fn expected() -> Used {
        Used {
            model: "claude-a".into(),
            input: 11,
            output: 70,
            cached_5m: 10,
            cached_1h: 20,
            from_cache: 40,
            searches: 2,
            fast: false,
        }
    }

    fn read(form: Form, pieces: &[&[u8]]) -> Used {
        let mut tap = Tap::new(form, 300);
        pieces.iter().for_each(|piece| tap.read(piece));
        tap.end();
        tap.used
    }

    proptest! {
        #[test]
        fn a_stream_tells_the_same_however_it_is_cut(mut cuts in prop::collection::vec(0..STREAM.len(), 0..20)) {
            cuts.sort_unstable();
            let (mut pieces, mut rest, mut at) = (Vec::new(), STREAM.as_bytes(), 0);
            for cut in cuts {
                let (piece, later) = rest.split_at(cut - at);
                pieces.push(piece);
                (rest, at) = (later, cut);
            }
            pieces.push(rest);
            prop_assert_eq!(read(Form::Events, &pieces), expected());
        }

        #[test]
        fn nothing_that_a_stream_says_is_taken_amiss(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            read(Form::Events, &[&bytes]);
            read(Form::Whole, &[&bytes]);
        }
    }

    #[test]
    fn an_answer_as_a_whole_tells_it_too_and_others_nothing() {
        let whole = br#"{"type":"message","model":"claude-a","content":[],"usage":{"input_tokens":3,"output_tokens":4}}"#;
        let told = Used { model: "claude-a".into(), input: 3, output: 4, ..Used::default() };
        assert_eq!(read(Form::Whole, &[&whole[..20], &whole[20..]]), told);
        assert_eq!(read(Form::Other, &[whole]), Used::default());
    }

    #[test]
    fn a_line_without_end_is_passed_over_and_held_by_nobody() {
        let mut tap = Tap::new(Form::Events, 0);
        let piece = vec![b'x'; 100_000];
        tap.read(b"data: ");
        for _ in 0..100 {
            tap.read(&piece);
            assert!(tap.held.capacity() <= 2 * LONGEST_LINE);
        }
        tap.read(b"\n");
        tap.read(STREAM.as_bytes());
        assert_eq!(tap.used, expected());
    }

    #[test]
    fn a_stream_that_is_cut_has_used_what_was_told_until_then() {
        let start = STREAM.find("event: content").expect("there");
        let told = read(Form::Events, &[&STREAM.as_bytes()[..start]]);
        assert_eq!(told, Used { output: 1, searches: 0, ..expected() });
    }

    #[test]
    fn text_that_no_figure_tells_of_is_estimated() {
        let delta = "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"TEXT\"}}\n\n";
        let long = delta.replace("TEXT", &"x".repeat(3000));
        let start = STREAM.find("event: content").expect("there");
        let cut = format!("{}{long}{long}", &STREAM[..start]);
        let told = read(Form::Events, &[cut.as_bytes()]);
        assert!((1950..2010).contains(&told.output), "{told:?}");
        // The figure that comes in the end counts instead.
        let whole = format!("{cut}{}", &STREAM[start..]);
        assert_eq!(read(Form::Events, &[whole.as_bytes()]), expected());
        // An answer as a whole that is cut tells nothing by itself.
        let told = read(Form::Whole, &[br#"{"type":"message","content":[{"text":"abcdef"#]);
        assert_eq!((told.input, told.output), (100, 15));
    }

    #[test]
    fn a_fast_answer_is_known_as_one() {
        let told = |speed: &str| {
            let text = format!(r#"{{"usage":{{"input_tokens":1,"speed":"{speed}"}}}}"#);
            read(Form::Whole, &[text.as_bytes()]).fast
        };
        assert!(told("fast") && !told("standard"));
    }
}
