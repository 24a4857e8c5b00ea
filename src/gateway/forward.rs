//! One request on its way to the API and back: whose it is, whether it may go, which headers go with
//! it, and what it turns out to have used.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response,
    header::{self, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use memchr::memchr;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    Gateway,
    account::Account,
    body::{Answer, AnyBody, Begun},
    counted::Counted,
    credentials::{API_KEY, Credential},
    pacing::{LONGEST_WAIT_OF_A_CLI, kind_of, kind_of_wait, named_wait},
    passes::hash_of,
    refusal::{Refusal, SHOULD_RETRY},
    seat::Seat,
    usage::{Form, Tap},
};
use crate::{
    audit::Entry,
    domain::notice::LimitKind,
    telemetry::log_limit::{LIMITED, UPSTREAM},
};

/// Headers that speak of one connection, and not of the request.
const OF_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Bytes of a request in which its model is looked for: CLIs name it first.
const MODEL_WITHIN: usize = 4096;

/// Bytes of a model's name.
const LONGEST_MODEL: usize = 128;

/// How long others wait for a request that has gone and is not answered, while the API lets only some
/// ask at once.
const LONGEST_ASKING: Duration = Duration::from_secs(30);

/// A request that uses tokens.
const MESSAGES: &str = "/v1/messages";

impl Gateway {
    /// Passes a request on, or says why not.
    pub(super) async fn pass_on(
        &self,
        request: Request<Incoming>,
        seat: Arc<Seat>,
    ) -> Response<AnyBody> {
        if self.is_for_proxy(&request) {
            return self.serve_proxy(request, seat).await;
        }
        let path = request.uri().path().to_owned();
        match self.forward(request, &seat).await {
            Ok(response) => {
                self.0.counts.request(None);
                response
            }
            Err(refusal) => {
                self.0.counts.request(Some(refusal.name()));
                if matches!(refusal, Refusal::Upstream(_)) && UPSTREAM.admits() {
                    warn!(error = %refusal, "gateway_upstream_failed");
                }
                debug!(%path, reason = refusal.name(), "gateway_refused");
                refusal.answer()
            }
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        seat: &Seat,
    ) -> Result<Response<AnyBody>, Refusal> {
        let account = self.account_of(request.headers())?;
        if !seat.is_of(&account) {
            return Err(Refusal::Connections);
        }
        let path = request.uri().path();
        let uses = path == MESSAGES;
        check_path(request.method(), path)?;
        if uses {
            self.check(&account)?;
        }
        let Credential { key, name, value } = self.0.credentials.of(account.tenant()).await?;
        if account.is_first_use() {
            let (tenant, client_id) = (account.tenant().as_str(), account.process().to_string());
            self.0.audit.record(&Entry::CredentialUsed { tenant, client_id, credential: key });
        }
        let headers = request.headers_mut();
        for name in [API_KEY, AUTHORIZATION, HOST] {
            headers.remove(name);
        }
        drop_of_connection(headers);
        headers.insert(name, value.clone());
        // What the answer says of usage is read along.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let going = self.go(request, &value, uses, &account);
        let (sent, asked) = tokio::select! {
            sent = going => sent?,
            () = account.closed().cancelled() => return Err(Refusal::Token),
        };
        Ok(self.answer(sent, uses.then_some(asked), account))
    }

    /// Sends a request when its turn has come. Returns how many bytes it had, too, as far as it says.
    async fn go(
        &self,
        request: Request<Incoming>,
        credential: &HeaderValue,
        uses: bool,
        account: &Account,
    ) -> Result<(Response<Incoming>, u64), Refusal> {
        let (parts, body) = request.into_parts();
        let wanted = if uses { MODEL_WITHIN } else { 0 };
        let left = |error: hyper::Error| Refusal::Upstream(error.to_string());
        let asked = body.size_hint().exact().unwrap_or(0);
        let body = Begun::read(body, wanted).await.map_err(left)?;
        let model = model_in(&body.beginning(wanted));
        let request = Request::from_parts(parts, body);
        if !uses {
            return Ok((self.0.upstream.send(request).await?, asked));
        }
        let (key, came) = ((hash_of(credential), model.clone()), Instant::now());
        let told = |kind, wait| account.notices().limited(kind, &model, wait);
        let turn = self.0.pacing.turn(key, account.tenant(), told).await;
        self.0.counts.held(came.elapsed());
        let mut asking = turn.map_err(|wait| Refusal::Limited { model: model.clone(), wait })?;
        let mut sending = pin!(self.0.upstream.send(request));
        let sent = tokio::select! {
            sent = &mut sending => Some(sent),
            () = sleep(LONGEST_ASKING) => None,
        };
        let mut sent = match sent {
            Some(sent) => sent?,
            None => {
                // Others need not wait for a request that is sent slowly, or answered late.
                asking.give_way();
                sending.await?
            }
        };
        if let Some(wait) = asking.heard(sent.status(), sent.headers()) {
            self.0.counts.limit();
            if LIMITED.admits() {
                let (tenant, wait_ms) = (account.tenant(), wait.as_millis());
                info!(%tenant, model, status = sent.status().as_u16(), wait_ms, "gateway_rate_limited");
            }
            let named = named_wait(sent.headers()).unwrap_or(wait);
            told(kind_of_wait(kind_of(sent.status()), named), named);
            if wait > LONGEST_WAIT_OF_A_CLI {
                sent.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
        }
        Ok((sent, asked))
    }

    /// Whose a request is.
    fn account_of(&self, headers: &HeaderMap) -> Result<Arc<Account>, Refusal> {
        let bearer =
            headers.get(AUTHORIZATION).and_then(|it| it.as_bytes().strip_prefix(b"Bearer "));
        let token = headers.get(API_KEY).map(HeaderValue::as_bytes).or(bearer);
        let account = token.and_then(|token| self.0.passes.of(token));
        // That of a process that comes for other hosts alone opens nothing here.
        account.filter(|account| account.counts()).ok_or(Refusal::Token)
    }

    /// Whether a process may use more tokens.
    fn check(&self, account: &Account) -> Result<(), Refusal> {
        account.check().map_err(Refusal::Budget)?;
        let tenant = account.tenant();
        let left = self.0.allowances.get().and_then(|all| all.left_today(tenant));
        if left.is_some_and(|left| left <= self.0.passes.not_taken(tenant)) {
            return Err(Refusal::Day);
        }
        match self.0.passes.minutes().wait(tenant) {
            Some((limit, wait)) => {
                account.notices().limited(LimitKind::Tenant, "", wait);
                Err(Refusal::Tokens { limit, wait })
            }
            None => Ok(()),
        }
    }

    fn answer(
        &self,
        mut sent: Response<Incoming>,
        uses: Option<u64>,
        account: Arc<Account>,
    ) -> Response<AnyBody> {
        drop_of_connection(sent.headers_mut());
        let form = match uses.is_some() && sent.status().is_success() {
            true => form_of(sent.headers()),
            false => Form::Other,
        };
        let (minutes, prices) = (self.0.passes.minutes().clone(), self.0.prices.clone());
        let counted = Counted::new(Arc::clone(&account), minutes, prices);
        let tap = Tap::new(form, uses.unwrap_or(0));
        sent.map(|body| Answer::new(body, tap, counted, &account).boxed_unsync())
    }
}

/// What processes have a use for, and what an agent could do no harm with: everything else that the
/// credential opens, such as files and batches of others, stays closed.
fn check_path(method: &Method, path: &str) -> Result<(), Refusal> {
    // One name, in letters that no server on the way takes for anything else.
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@');
        !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
    };
    let is_models = path == "/v1/models" || path.strip_prefix("/v1/models/").is_some_and(is_name);
    let known = match *method {
        Method::POST => path == MESSAGES || path == "/v1/messages/count_tokens",
        Method::GET | Method::HEAD => is_models,
        _ => false,
    };
    known.then_some(()).ok_or_else(|| {
        let shown: String = path.chars().take(200).collect();
        Refusal::Path(format!("{method} {shown}"))
    })
}

/// The model that a request names first of all, as CLIs do. Empty where it does not, or where that
/// is no name of a model: what an agent makes up is to be paced together.
fn model_in(beginning: &[u8]) -> String {
    let named = || {
        let rest = beginning.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
        let rest = rest.strip_prefix(b"\"model\"")?.trim_ascii_start().strip_prefix(b":")?;
        let value = rest.trim_ascii_start().strip_prefix(b"\"")?;
        std::str::from_utf8(&value[..memchr(b'"', value)?]).ok()
    };
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '/');
    let is_name = |name: &&str| name.len() <= LONGEST_MODEL && name.chars().all(plain);
    named().filter(is_name).unwrap_or_default().to_owned()
}

fn form_of(headers: &HeaderMap) -> Form {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().map(str::trim) {
        Some("text/event-stream") => Form::Events,
        Some("application/json") => Form::Whole,
        _ => Form::Other,
    }
}

/// Removes the headers that speak of one connection, those that it names itself among them.
pub(super) fn drop_of_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // `keep-alive` has no constant of its own.
    let keep_alive = HeaderName::from_static("keep-alive");
    for name in OF_CONNECTION.into_iter().chain(named).chain([keep_alive]) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_where_clis_name_it() {
        for (text, model) in [
            (r#"{"model":"claude-a","messages":[]}"#, "claude-a"),
            (r#" { "model" : "claude-b" }"#, "claude-b"),
            (r#"{"metadata":{"model":"made-up"},"model":"claude-a"}"#, ""),
            (r#"{"model":"made up","x":1}"#, ""),
            (r#"{"model":"claude-"#, ""),
            (r#"{"model":5}"#, ""),
            ("", ""),
        ] {
            assert_eq!(model_in(text.as_bytes()), model, "{text}");
        }
    }

    #[test]
    fn a_model_is_asked_for_by_its_name_alone() {
        for (path, known) in [
            ("/v1/models", true),
            ("/v1/models/claude-a", true),
            ("/v1/models/", false),
            ("/v1/models/..", false),
            ("/v1/models/%2e%2e/files", false),
            ("/v1/models/a/../../files", false),
            ("/v1/models/a\\..", false),
        ] {
            assert_eq!(check_path(&Method::GET, path).is_ok(), known, "{path}");
            assert!(check_path(&Method::DELETE, path).is_err());
        }
    }
}
