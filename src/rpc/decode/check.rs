//! Collects what is wrong with a request, so that all of it is said at once. Knows bounds
//! and names; nothing of what the fields mean.

use serde_json::value::RawValue;
use tonic::Status;

use crate::{
    ids::NameError,
    rpc::status::{Rejection, Violation, of_rejection},
};

/// Bytes of a text.
pub(super) const MAX_TEXT: usize = 1024 * 1024;
/// Bytes of a model's name and the like.
const MAX_NAME: usize = 256;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Vec<Violation>,
    denied: Option<Rejection>,
}

impl Check {
    pub(super) fn bad(&mut self, field: &str, description: impl Into<String>) {
        let description = description.into();
        self.violations.push(Violation { field: field.to_owned(), description });
    }

    pub(super) fn deny(&mut self, field: &str, allowed: impl Into<String>) {
        let rejection = Rejection::Denied { field: field.to_owned(), allowed: allowed.into() };
        self.denied.get_or_insert(rejection);
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Status> {
        if !self.violations.is_empty() {
            return Err(of_rejection(&Rejection::Invalid(self.violations)));
        }
        match self.denied {
            Some(denied) => Err(of_rejection(&denied)),
            None => Ok(value),
        }
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
            self.bad(field, format!("must be one of {allowed}, is {value:?}"));
        }
    }

    pub(super) fn json_object(&mut self, field: &str, text: &str) {
        self.text(field, text, MAX_TEXT);
        if !is_object(text) {
            self.bad(field, "must be a JSON object");
        }
    }

    pub(super) fn choice<E: TryFrom<i32>>(&mut self, field: &str, value: i32) -> Option<E> {
        let choice = E::try_from(value);
        if choice.is_err() {
            self.bad(field, format!("is not a value of the contract: {value}"));
        }
        choice.ok()
    }
}

pub(super) fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{'))
}
