//! What an error says, cut so that all of its trailers together stay under
//! [`TRAILERS_LIMIT`]. An error that is larger is replaced by the client's library with one
//! that says nothing of the cause, so a short account is worth more than a complete one.
//! Knows the wire form of an error; nothing of what the errors are.
//!
//! A text travels in up to three places and three encodings: percent-encoded in
//! `grpc-message` (up to three times its length), and twice in base64 (four thirds) inside
//! of `grpc-status-details-bin`. The size is therefore measured, not estimated.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::DOMAIN;

/// Bytes of all trailers of an error, counted as HTTP/2 counts a header list. The
/// strictest default that a common client library has is 8 KiB; what is left of it is for
/// the headers of the HTTP response, which share the list when there is no body.
pub const TRAILERS_LIMIT: usize = 7 * 1024 + 512;

/// HTTP/2 counts this for each entry of a header list, beside its name and value.
const ENTRY_OVERHEAD: usize = 32;

/// How much of each text is told: the first that makes the error small enough. Ids, which
/// have at most 128 bytes, are never cut.
const SHARES: [usize; 5] = [1500, 750, 400, 200, 150];

/// Bytes of a field's path, which may hold names from a request.
const LONGEST_FIELD: usize = 200;

/// The end of a text that is cut.
const ELLIPSIS: &str = "...";

/// A text of an error that may have to be shortened.
#[derive(Debug, Clone)]
pub(super) enum Text {
    /// The beginning is told.
    Start(String),
    /// The end is told, such as of what a process printed last.
    End(String),
    /// The first entries are told and the rest are counted.
    List {
        /// The entries.
        entries: Vec<String>,
        /// What stands between them.
        separator: &'static str,
    },
}

impl Text {
    fn within(&self, share: usize) -> String {
        match self {
            Self::Start(text) => start_of(text, share),
            Self::End(text) => end_of(text, share).to_owned(),
            Self::List { entries, separator } => list_of(entries, separator, share),
        }
    }
}

/// Everything that an error says.
#[derive(Debug)]
pub(super) struct Report {
    pub code: Code,
    /// `ErrorInfo.reason`.
    pub reason: &'static str,
    pub message: Text,
    /// `ErrorInfo.metadata`.
    pub metadata: Vec<(&'static str, Text)>,
    /// `BadRequest`.
    pub violations: Vec<FieldViolation>,
    /// `RetryInfo`.
    pub retry: Option<Duration>,
}

impl Report {
    /// The status, as complete as [`TRAILERS_LIMIT`] lets it be.
    pub fn status(self) -> Status {
        let told = SHARES.iter().map(|share| self.within(*share)).find(fits);
        told.unwrap_or_else(|| {
            let mut details = ErrorDetails::new();
            details.set_error_info(self.reason, DOMAIN, HashMap::<String, String>::new());
            Status::with_error_details(self.code, self.reason, details)
        })
    }

    fn within(&self, share: usize) -> Status {
        let metadata =
            self.metadata.iter().map(|(key, text)| ((*key).to_owned(), text.within(share)));
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, metadata.collect::<HashMap<_, _>>());
        if let Some(delay) = self.retry {
            details.set_retry_info(Some(delay));
        }
        if !self.violations.is_empty() {
            details.set_bad_request(violations_of(&self.violations, share));
        }
        Status::with_error_details(self.code, self.message.within(share), details)
    }
}

/// As many violations as the share has room for twice, and how many more there are.
fn violations_of(all: &[FieldViolation], share: usize) -> Vec<FieldViolation> {
    let mut room = 2 * share;
    let mut told = Vec::new();
    for violation in all {
        let field = start_of(&violation.field, LONGEST_FIELD);
        let description = start_of(&violation.description, share);
        let size = field.len() + description.len();
        if size > room && !told.is_empty() {
            let more = format!("and {} more", all.len() - told.len());
            told.push(FieldViolation::new("request", more));
            break;
        }
        room = room.saturating_sub(size);
        told.push(FieldViolation::new(field, description));
    }
    told
}

fn list_of(entries: &[String], separator: &str, share: usize) -> String {
    let mut text = String::new();
    for (told, entry) in entries.iter().enumerate() {
        if told > 0 && text.len() + separator.len() + entry.len() > share {
            return format!("{text}{separator}and {} more", entries.len() - told);
        }
        if told > 0 {
            text.push_str(separator);
        }
        text.push_str(&start_of(entry, share));
    }
    text
}

fn start_of(text: &str, share: usize) -> String {
    if text.len() <= share {
        return text.to_owned();
    }
    let room = share.saturating_sub(ELLIPSIS.len());
    let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{ELLIPSIS}", &text[..end])
}

fn end_of(text: &str, share: usize) -> &str {
    let start = text.len().saturating_sub(share);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[start..]
}

fn fits(status: &Status) -> bool {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).is_ok() && list_size(&headers) <= TRAILERS_LIMIT
}

/// The size of a header list as HTTP/2 counts it.
fn list_size(headers: &HeaderMap) -> usize {
    let size = |(name, value): (&http::HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ENTRY_OVERHEAD
    };
    headers.iter().map(size).sum()
}

/// Shortens an error that was not made here, such as the gRPC library's own, which repeats
/// values of a request: without its details, and with the beginning of its message.
pub fn bound_trailers(trailers: &mut HeaderMap) {
    if list_size(trailers) <= TRAILERS_LIMIT {
        return;
    }
    let Some(status) = Status::from_header_map(trailers) else { return };
    trailers.remove(Status::GRPC_STATUS_DETAILS);
    trailers.remove(Status::GRPC_MESSAGE);
    let cut = |share: &usize| Status::new(status.code(), start_of(status.message(), *share));
    if let Some(short) = SHARES.iter().map(cut).find(fits) {
        // Cannot fail: the same headers were made a moment ago to be measured.
        short.add_header(trailers).ok();
    }
}
