//! What is said of a trace from one program to the next (W3C Trace Context, level 1): the headers
//! `traceparent` and `tracestate`. What is not of the right form is ignored, as the standard wants
//! it: a call is never refused for its trace.

use std::str::FromStr as _;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header that says which span is the parent.
pub const TRACEPARENT: &str = "traceparent";
/// The same as a variable.
pub const VARIABLE: &str = "TRACEPARENT";
/// The header that vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// Characters of a `tracestate` that is passed on: what the standard asks for at least.
const LONGEST_STATE: usize = 512;

/// What a `traceparent` of version 00 has: `00-TRACE-SPAN-FLAGS`.
const LENGTH: usize = 55;

/// The span that a call's headers name as its parent.
pub fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let mut named = headers.get_all(TRACEPARENT).iter();
    let parent = named.next()?.to_str().ok()?;
    // Of two nobody knows which one is meant.
    if named.next().is_some() {
        return None;
    }
    let (trace, span, flags) = parse(parent.trim_matches([' ', '\t']))?;
    Some(SpanContext::new(trace, span, flags, true, state(headers)))
}

/// Takes a `traceparent` apart. The library's own way takes `+1` and `1` for ids, too.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    // A version to come may have more behind a dash.
    let rest = text.as_bytes().get(LENGTH);
    let of_version_0 = text.starts_with("00");
    if rest.is_some_and(|next| of_version_0 || *next != b'-') {
        return None;
    }
    let mut parts = text.get(..LENGTH)?.split('-');
    let mut part = |length| parts.next().filter(|part| is_hex(part, length));
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let is_valid = version != "ff" && trace != TraceId::INVALID && span != SpanId::INVALID;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    is_valid.then_some((trace, span, flags))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// What vendors have added. What cannot be read costs nothing but itself.
fn state(headers: &HeaderMap) -> TraceState {
    let lines: Option<Vec<_>> =
        headers.get_all(TRACESTATE).iter().map(|line| line.to_str().ok()).collect();
    let text = lines.unwrap_or_default().join(",");
    if text.len() > LONGEST_STATE {
        return TraceState::NONE;
    }
    TraceState::from_str(&text).unwrap_or(TraceState::NONE)
}

/// A span as the parent of what others do: `traceparent`, and `tracestate` if there is something
/// in it.
pub fn write(span: &SpanContext) -> (String, Option<String>) {
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    let parent = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    (parent, Some(span.trace_state().header()).filter(|state| !state.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn a_parent_is_written_as_it_was_read() {
        let unsampled = PARENT.replace("-01", "-00");
        for (parent, written) in [
            (PARENT, PARENT),
            (&*unsampled, &*unsampled),
            // Of flags that are not known nothing is passed on.
            (&PARENT.replace("-01", "-03"), PARENT),
            (&format!("cc{}-what-comes", &PARENT[2..]), PARENT),
        ] {
            let read = read(&headers(&[(TRACEPARENT, parent)])).expect(parent);
            assert!(read.is_remote());
            assert_eq!(write(&read), (written.to_owned(), None), "{parent}");
        }
    }

    #[test]
    fn what_is_no_parent_is_ignored() {
        let wrong = [
            String::new(),
            "00".to_owned(),
            PARENT.to_uppercase(),
            PARENT.replace('-', "_"),
            PARENT.replacen("00", "ff", 1),
            PARENT.replacen("0a", "+a", 1),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            format!("{PARENT}-more"),
            format!("{PARENT}-"),
            format!("{PARENT}0"),
            "00-1-1-01".to_owned(),
            format!("cc{}0", &PARENT[2..]),
            PARENT[..54].to_owned(),
        ];
        for parent in wrong {
            assert_eq!(read(&headers(&[(TRACEPARENT, &parent)])), None, "{parent:?}");
        }
        let two = headers(&[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)]);
        assert_eq!(read(&two), None, "nobody knows which");
        let mut odd = HeaderMap::new();
        odd.insert(TRACEPARENT, http::HeaderValue::from_bytes(b"00-\xff").expect("a value"));
        assert_eq!(read(&odd), None);
        assert_eq!(read(&HeaderMap::new()), None);
    }

    #[test]
    fn what_vendors_add_goes_along_as_far_as_it_can_be_read() {
        let state = |lines: &[(&'static str, &str)]| {
            let lines = [&[(TRACEPARENT, PARENT)], lines].concat();
            write(&read(&headers(&lines)).expect("a parent")).1
        };
        let two = [(TRACESTATE, "a=1, b=2"), (TRACESTATE, "c@d=3")];
        assert_eq!(state(&two).as_deref(), Some("a=1,b=2,c@d=3"));
        let long = format!("a={}", "x".repeat(LONGEST_STATE));
        for lost in ["", "no", "A=1", &long] {
            assert_eq!(state(&[(TRACESTATE, lost)]), None, "{lost}");
        }
    }
}
