//! What an entry says, and its form in a file.

use std::time::SystemTime;

use serde::Serialize;

/// What is recorded.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry<'a> {
    /// A call has ended.
    Call(Box<Call<'a>>),
    /// A process shows a credential to the API for the first time.
    CredentialUsed {
        /// Whose session the process is of.
        tenant: &'a str,
        /// The process, as sessions and log lines name it.
        client_id: String,
        /// The key of the configuration that names the credential's file.
        credential: &'a str,
    },
    /// A session was kept from a host.
    EgressRefused {
        /// Whose session it is.
        tenant: &'a str,
        /// Its process.
        client_id: String,
        /// Name or address, and port.
        host: &'a str,
        /// Which rule was in the way.
        reason: String,
    },
}

/// A call that has ended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Call<'a> {
    /// The rpc, without the name of the service; `unknown` if there is none of this name.
    pub method: &'a str,
    /// The address that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The node that has forwarded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded_by: Option<&'a str>,
    /// What the operator calls the credential of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<&'a str>,
    /// Whose sessions it was about; missing if the caller was not let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    /// The session that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// The prompt that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_id: Option<&'a str>,
    /// How: `allow`, `deny`, `answers`, `hook` or `response_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'a str>,
    /// The gRPC code.
    pub outcome: &'a str,
    /// The reason of the error, by the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The fields that were refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// From its beginning to its end.
    pub duration_ms: u64,
    /// By the W3C's Trace Context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a Entry<'a>,
}

impl Entry<'_> {
    /// The line of an entry, with its end.
    pub(super) fn line(&self, now: SystemTime) -> Vec<u8> {
        let time = humantime::format_rfc3339_millis(now).to_string();
        // Strings and numbers alone: nothing of it can fail.
        let mut line = serde_json::to_vec(&Line { time, entry: self }).unwrap_or_default();
        line.push(b'\n');
        line
    }
}
