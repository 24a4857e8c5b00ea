//! Collects what is wrong with a request, so that all of it is said at once. Knows bounds
//! and names; nothing of what the fields mean.

use std::{ops::RangeInclusive, time::Duration};

use serde_json::{Map, Value, value::RawValue};
use tonic::Status;

use crate::{
    cli::frame::excerpt,
    domain::ids::NameError,
    policy::Denial,
    rpc::status::{Rejection, Violation, of_rejection},
};

/// Bytes of a text.
pub(super) const MAX_TEXT: usize = 1024 * 1024;
/// Bytes of a model's name and the like.
const MAX_NAME: usize = 256;
/// How deep JSON may be nested: the CLI and whoever reads its frames later have bounds too.
pub(super) const MAX_DEPTH: usize = 100;
/// How many violations of a kind are kept; the rest are counted. How many of them fit into
/// the trailers of an answer is decided where statuses are made.
const MAX_KEPT: usize = 1024;
/// How much of a bad value is told, in bytes.
const MAX_SHOWN: usize = 80;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Violations,
    denied: Violations,
}

/// Violations of one kind.
#[derive(Debug, Default)]
struct Violations {
    kept: Vec<Violation>,
    /// How many more there are.
    more: usize,
}

impl Violations {
    fn push(&mut self, field: &str, description: String) {
        if self.kept.len() < MAX_KEPT {
            self.kept.push(Violation { field: field.to_owned(), description });
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self) -> Vec<Violation> {
        if self.more > 0 {
            let description = format!("has {} more violations", self.more);
            self.kept.push(Violation { field: "request".to_owned(), description });
        }
        self.kept
    }
}

impl Check {
    pub(super) fn bad(&mut self, field: &str, description: impl Into<String>) {
        self.violations.push(field, description.into());
    }

    fn deny(&mut self, field: &str, allowed: impl Into<String>) {
        self.denied.push(field, allowed.into());
    }

    /// What the policy says to a value of `field`.
    pub(super) fn deny_all(&mut self, field: &str, denials: Vec<Denial>) {
        for Denial { at, allowed } in denials {
            self.deny(&format!("{field}{at}"), allowed);
        }
    }

    /// Whether nothing is wrong so far but what the policy says.
    pub(super) fn is_within_bounds(&self) -> bool {
        self.violations.kept.is_empty()
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Status> {
        let (violations, denied) = (self.violations.finish(), self.denied.finish());
        if !violations.is_empty() {
            return Err(of_rejection(&Rejection::Invalid(violations)));
        }
        if denied.is_empty() { Ok(value) } else { Err(of_rejection(&Rejection::Denied(denied))) }
    }

    /// The fields that were refused and why, in the order in which that was found out.
    #[cfg(test)]
    pub(super) fn refused(self) -> Option<(String, String)> {
        let all = [self.violations.finish(), self.denied.finish()].concat();
        let (fields, reasons): (Vec<_>, Vec<_>) =
            all.into_iter().map(|refused| (refused.field, refused.description)).unzip();
        (!fields.is_empty()).then(|| (fields.join(","), reasons.join("; ")))
    }

    pub(super) fn name<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, NameError>,
    ) -> Option<T> {
        parse(text).map_err(|error| self.bad(field, error.to_string())).ok()
    }

    pub(super) fn text(&mut self, field: &str, text: &str, limit: usize) {
        if text.len() > limit {
            self.bad(field, format!("must have at most {limit} bytes, has {}", text.len()));
        }
        if text.contains('\0') {
            self.bad(field, "must not contain a NUL character");
        }
    }

    /// A value that becomes part of a command line: short and printable.
    pub(super) fn word(&mut self, field: &str, text: &str, limit: usize) {
        self.text(field, text, limit);
        if text.chars().any(|c| c.is_control() && c != '\0') {
            self.bad(field, "must not contain control characters");
        }
    }

    pub(super) fn optional_word(&mut self, field: &str, text: Option<&String>) {
        if let Some(text) = text {
            if text.is_empty() {
                self.bad(field, "must not be empty");
            }
            self.word(field, text, MAX_NAME);
        }
    }

    pub(super) fn words(
        &mut self,
        field: &str,
        values: &[String],
        count: usize,
        length: usize,
        empty: bool,
    ) {
        if values.len() > count {
            self.bad(field, format!("must have at most {count} entries, has {}", values.len()));
        }
        for (index, value) in values.iter().enumerate().take(count) {
            let field = format!("{field}[{index}]");
            if value.trim().is_empty() && !empty {
                self.bad(&field, "must not be blank");
            }
            self.word(&field, value, length);
        }
    }

    pub(super) fn one_of(&mut self, field: &str, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let allowed = allowed.join(", ");
            self.bad(field, format!("must be one of {allowed}, is {}", shown(value)));
        }
    }

    /// JSON that is passed on as it stands.
    pub(super) fn json_object(&mut self, field: &str, text: &str) {
        self.text(field, text, MAX_TEXT);
        if !is_object(text) {
            self.bad(field, format!("must be a JSON object, nested at most {MAX_DEPTH} deep"));
        }
    }

    /// JSON that the policy has to understand: what it saw is what is passed on, and a
    /// key that comes twice has one meaning.
    pub(super) fn json_map(
        &mut self,
        field: &str,
        text: &str,
        limit: usize,
    ) -> Option<Map<String, Value>> {
        self.text(field, text, limit);
        let map = serde_json::from_str(text).ok().filter(|_| depth(text) <= MAX_DEPTH);
        if map.is_none() {
            self.bad(field, format!("must be a JSON object, nested at most {MAX_DEPTH} deep"));
        }
        map
    }

    /// A time that is said or not, and that has bounds.
    pub(super) fn duration(
        &mut self,
        field: &str,
        value: Option<prost_types::Duration>,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let nanos = nanos_of(&value?);
        let time = u64::try_from(nanos).ok().map(Duration::from_nanos);
        let time = time.filter(|time| bounds.contains(time));
        if time.is_none() {
            let (least, most) = (bounds.start().as_secs(), bounds.end().as_secs());
            let said = in_seconds(nanos);
            self.bad(field, format!("must be from {least} s to {most} s, is {said} s"));
        }
        time
    }

    pub(super) fn choice<E: TryFrom<i32>>(&mut self, field: &str, value: i32) -> Option<E> {
        let choice = E::try_from(value);
        if choice.is_err() {
            self.bad(field, format!("is not a value of the contract: {value}"));
        }
        choice.ok()
    }
}

/// Whether a text is a JSON object that is not nested too deep.
pub(super) fn is_object(text: &str) -> bool {
    let object = |raw: &RawValue| raw.get().starts_with('{');
    depth(text) <= MAX_DEPTH && serde_json::from_str::<&RawValue>(text).is_ok_and(object)
}

/// How deep brackets are nested in a text that is JSON.
pub(super) fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whatever comes: the parts may be of different signs, and larger than a duration may be, which
/// the conversion of `prost-types` 0.14.4 answers with a panic.
fn nanos_of(value: &prost_types::Duration) -> i128 {
    i128::from(value.seconds) * 1_000_000_000 + i128::from(value.nanos)
}

fn in_seconds(nanos: i128) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A bad value for a message.
pub(super) fn shown(value: &str) -> String {
    format!("{:?}", excerpt(value, MAX_SHOWN))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn brackets_count_outside_of_strings() {
        for (text, wanted) in
            [("1", 0), ("{}", 1), (r#"{"[[": [[{}], []]}"#, 4), (r#"["\"[[[", 1]"#, 1)]
        {
            assert_eq!(depth(text), wanted, "{text}");
        }
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_object(&nested(MAX_DEPTH - 1)));
        assert!(!is_object(&nested(MAX_DEPTH)));
        assert!(!is_object(&nested(1_000_000)));
    }

    #[test]
    fn a_time_is_said_as_it_came_when_it_is_out_of_bounds() {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
        let refused = |seconds, nanos| {
            let mut check = Check::default();
            let value = Some(prost_types::Duration { seconds, nanos });
            assert_eq!(check.duration("f", value, bounds.clone()), None);
            check.refused().expect("refused").1
        };
        assert_eq!(refused(0, 999_999_999), "must be from 1 s to 3600 s, is 0.999999999 s");
        assert_eq!(refused(3600, 1), "must be from 1 s to 3600 s, is 3600.000000001 s");
        assert_eq!(refused(-5, 0), "must be from 1 s to 3600 s, is -5 s");
        let lowest = "must be from 1 s to 3600 s, is -9223372036854775810.147483648 s";
        assert_eq!(refused(i64::MIN, i32::MIN), lowest);
        assert!(refused(i64::MAX, i32::MAX).contains("is 9223372036854775809.147483647 s"));
        let mut check = Check::default();
        for seconds in [1, 3600] {
            let value = Some(prost_types::Duration { seconds, nanos: 0 });
            let time = check.duration("f", value, bounds.clone());
            assert_eq!(time.map(|time| time.as_secs()), u64::try_from(seconds).ok());
        }
        assert_eq!(check.duration("f", None, bounds), None);
        assert_eq!(check.refused(), None);
    }

    #[test]
    fn violations_of_either_kind_are_kept_within_bounds_and_all_are_counted() {
        for is_denial in [false, true] {
            let mut check = Check::default();
            for index in 0..2 * MAX_KEPT {
                let field = format!("f[{index}]");
                if is_denial {
                    check.deny(&field, "nothing");
                } else {
                    check.one_of(&field, &"x".repeat(1 << 20), &["a"]);
                }
            }
            let status = check.finish(()).expect_err("refused");
            let told = status.get_error_details().bad_request().expect("there").clone();
            let last = told.field_violations.last().expect("one");
            assert!(last.description.ends_with(" more"), "{last:?}");
            assert_eq!(last.field, "request");
        }
    }
}
