//! What the server was asked, for tests to look at.
//!
//! Bounded twice: the last [`MAX_REQUESTS`] requests, and of those only as many of the newest as have
//! [`MAX_BODY_BYTES`] of bodies between them (the CLI's first request of a conversation has 50 to 80 KB).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, Method, Uri};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio::sync::watch;

use super::conversation;
use super::rules::{self, Purpose};

/// Requests kept.
pub const MAX_REQUESTS: usize = 10_000;
/// Bytes of request bodies kept, as they were on the wire.
pub const MAX_BODY_BYTES: usize = 512 * 1024 * 1024;

/// One request, as it came in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedRequest {
    /// 1 for the first request the server ever saw, without gaps.
    pub sequence: u64,
    /// When it had been read. Milliseconds since 1970 in JSON.
    #[serde(serialize_with = "unix_ms", rename = "arrived_unix_ms")]
    pub arrived: SystemTime,
    /// `POST`, `HEAD`, ….
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// What follows the `?`, if anything does.
    pub query: Option<String>,
    /// Headers, names in lower case; of a repeated one the last.
    pub headers: BTreeMap<String, String>,
    /// The CLI session it belongs to, if it says so.
    pub session: Option<String>,
    /// Length of the body on the wire.
    pub body_bytes: usize,
    /// The body: JSON if it is that, `null` if there was none, else a string.
    pub body: Value,
    /// Why the API does not take such a body, by its rules.
    pub refused: Option<String>,
}

impl RecordedRequest {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The record of one server.
#[derive(Debug, Default)]
pub struct Record {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<Arc<RecordedRequest>>,
    body_bytes: usize,
    last: u64,
}

impl Record {
    /// Takes a request down and hands it back with its place in the record.
    pub fn add(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Arc<RecordedRequest> {
        let (body_bytes, (body, wrong)) = (body.len(), body_value(body));
        let refused = purpose(uri.path())
            .and_then(|purpose| wrong.or_else(|| rules::check(&body, purpose).err()));
        let mut request = RecordedRequest {
            sequence: 0,
            arrived: SystemTime::now(),
            method: method.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            headers: readable(headers),
            session: None,
            body_bytes,
            body,
            refused,
        };
        request.session = conversation::session_of(&request.headers, &request.body);
        let mut kept = self.kept();
        kept.last += 1;
        request.sequence = kept.last;
        let request = Arc::new(request);
        kept.push(Arc::clone(&request));
        // Sent under the lock: `last` must never go backwards.
        self.last.send_replace(kept.last);
        request
    }

    /// All requests kept, oldest first.
    pub fn all(&self) -> Vec<Arc<RecordedRequest>> {
        self.after(0)
    }

    /// The requests of one CLI session, oldest first.
    pub fn of_session(&self, session: &str) -> Vec<Arc<RecordedRequest>> {
        let mut requests = self.all();
        requests.retain(|request| request.session.as_deref() == Some(session));
        requests
    }

    /// The first request wanted, among those kept and those to come.
    pub async fn wait_for(
        &self,
        mut wanted: impl FnMut(&RecordedRequest) -> bool,
    ) -> Arc<RecordedRequest> {
        let mut last = self.last.subscribe();
        let mut seen = 0;
        loop {
            last.mark_unchanged();
            for request in self.after(seen) {
                seen = request.sequence;
                if wanted(&request) {
                    return request;
                }
            }
            if last.changed().await.is_err() {
                // The sender is a field of `self`, which is borrowed here: it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Forgets everything but the numbering.
    pub fn clear(&self) {
        let mut kept = self.kept();
        kept.requests.clear();
        kept.body_bytes = 0;
    }

    fn after(&self, sequence: u64) -> Vec<Arc<RecordedRequest>> {
        let kept = self.kept();
        let from = kept.requests.partition_point(|request| request.sequence <= sequence);
        let newer = kept.requests.range(from..);
        newer.cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, request: Arc<RecordedRequest>) {
        self.body_bytes += request.body_bytes;
        self.requests.push_back(request);
        while self.requests.len() > MAX_REQUESTS || self.body_bytes > MAX_BODY_BYTES {
            let Some(oldest) = self.requests.pop_front() else {
                break;
            };
            self.body_bytes -= oldest.body_bytes;
        }
    }
}

fn readable(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// What a request to this path wants with a conversation, if anything.
fn purpose(path: &str) -> Option<Purpose> {
    match path {
        "/v1/messages" => Some(Purpose::Answer),
        "/v1/messages/count_tokens" => Some(Purpose::Count),
        _ => None,
    }
}

/// The body, and what is wrong with it if it is no JSON.
fn body_value(body: &[u8]) -> (Value, Option<String>) {
    if body.is_empty() {
        return (Value::Null, None);
    }
    match serde_json::from_slice(body) {
        Ok(value) => (value, None),
        Err(error) => {
            let text = String::from_utf8_lossy(body).into_owned();
            (Value::String(text), Some(format!("The request body is not valid JSON: {error}")))
        }
    }
}

fn unix_ms<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(record: &Record, path: &'static str) {
        let uri = Uri::from_static(path);
        record.add(&Method::POST, &uri, &HeaderMap::new(), b"{\"a\":1}");
    }

    #[test]
    fn the_oldest_requests_are_forgotten_first() {
        let record = Record::default();
        for _ in 0..MAX_REQUESTS + 2 {
            add(&record, "/x");
        }
        let all = record.all();
        assert_eq!(all.len(), MAX_REQUESTS);
        assert_eq!(all.first().map(|request| request.sequence), Some(3));
    }

    #[tokio::test]
    async fn waiting_sees_requests_from_before_and_from_after() {
        let record = Record::default();
        add(&record, "/before");
        assert_eq!(record.wait_for(|r| r.path == "/before").await.sequence, 1);
        let (found, ()) = tokio::join!(record.wait_for(|r| r.path == "/after"), async {
            tokio::task::yield_now().await;
            add(&record, "/after");
        });
        assert_eq!(found.sequence, 2);
        assert_eq!(found.body["a"], 1);
    }
}
