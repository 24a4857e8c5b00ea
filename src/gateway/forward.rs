//! One request on its way to the API and back: whose it is, whether it may go, which headers go with
//! it, and what it turns out to have used.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response,
    header::{self, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tracing::{debug, warn};

use super::{
    Gateway,
    account::Account,
    body::{Answer, AnyBody},
    credentials::API_KEY,
    passes::Minutes,
    prices::Prices,
    refusal::Refusal,
    usage::{Form, Tap, Used},
};
use crate::telemetry::log_limit::UPSTREAM;

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

/// A request that uses tokens.
const MESSAGES: &str = "/v1/messages";

/// The account that a request's use goes to, and what of it is there already.
pub(super) struct Counted {
    account: Arc<Account>,
    minutes: Minutes,
    prices: Prices,
    noted: Used,
}

impl Counted {
    /// Takes note of what has come to be known.
    pub(super) fn note(&mut self, tap: &Tap) {
        if *tap.used() == self.noted {
            return;
        }
        let more = tap.used().since(&self.noted);
        self.noted = tap.used().clone();
        self.minutes.add(self.account.tenant(), more.limited());
        self.account.add(&more, self.prices.cost(&more));
    }
}

impl Gateway {
    /// Passes a request on, or says why not.
    pub(super) async fn pass_on(&self, request: Request<Incoming>) -> Response<AnyBody> {
        let path = request.uri().path().to_owned();
        match self.forward(request).await {
            Ok(response) => response,
            Err(refusal) => {
                if matches!(refusal, Refusal::Upstream(_)) && UPSTREAM.admits() {
                    warn!(error = %refusal, "gateway_upstream_failed");
                }
                debug!(%path, reason = refusal.name(), "gateway_refused");
                refusal.answer()
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<AnyBody>, Refusal> {
        let account = self.account_of(request.headers())?;
        let path = request.uri().path();
        let uses = path == MESSAGES;
        check_path(request.method(), path)?;
        if uses {
            self.check(&account)?;
        }
        let (name, value) = self.0.credentials.of(account.tenant()).await?;
        let headers = request.headers_mut();
        for name in [API_KEY, AUTHORIZATION, HOST] {
            headers.remove(name);
        }
        drop_of_connection(headers);
        headers.insert(name, value);
        // What the answer says of usage is read along.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let sent = tokio::select! {
            sent = self.0.upstream.send(request) => sent?,
            () = account.closed().cancelled() => return Err(Refusal::Token),
        };
        Ok(self.answer(sent, uses, account))
    }

    /// Whose a request is.
    fn account_of(&self, headers: &HeaderMap) -> Result<Arc<Account>, Refusal> {
        let bearer =
            headers.get(AUTHORIZATION).and_then(|it| it.as_bytes().strip_prefix(b"Bearer "));
        let token = headers.get(API_KEY).map(HeaderValue::as_bytes).or(bearer);
        token.and_then(|token| self.0.passes.of(token)).ok_or(Refusal::Token)
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
            Some((limit, wait)) => Err(Refusal::Tokens { limit, wait }),
            None => Ok(()),
        }
    }

    fn answer(
        &self,
        mut sent: Response<Incoming>,
        uses: bool,
        account: Arc<Account>,
    ) -> Response<AnyBody> {
        drop_of_connection(sent.headers_mut());
        let form = match uses && sent.status().is_success() {
            true => form_of(sent.headers()),
            false => Form::Other,
        };
        let (minutes, prices) = (self.0.passes.minutes().clone(), self.0.prices.clone());
        let counted =
            Counted { account: Arc::clone(&account), minutes, prices, noted: Used::default() };
        sent.map(|body| Answer::new(body, Tap::new(form), counted, &account).boxed_unsync())
    }
}

/// What processes have a use for, and what an agent could do no harm with: everything else that the
/// credential opens, such as files and batches of others, stays closed.
fn check_path(method: &Method, path: &str) -> Result<(), Refusal> {
    let is_models = path == "/v1/models" || path.starts_with("/v1/models/");
    let known = match *method {
        Method::POST => path == MESSAGES || path == "/v1/messages/count_tokens",
        Method::GET | Method::HEAD => is_models && !path.contains(".."),
        _ => false,
    };
    known.then_some(()).ok_or_else(|| {
        let shown: String = path.chars().take(200).collect();
        Refusal::Path(format!("{method} {shown}"))
    })
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
fn drop_of_connection(headers: &mut HeaderMap) {
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
