//! The status page: what the service does, for people, at `/` of the listener of figures. One HTML
//! page that loads nothing from elsewhere, and two answers in JSON that it asks for: `/status.json`
//! and pages of `/sessions.json`. Everything is read-only, and bounded whatever is asked for.
//!
//! It shows the sessions of all tenants, so it is an operator's: who reaches the listener sees it.
//! There are names and numbers in it, and nothing that was said in a session: errors are the
//! contract's reasons, not their texts.

mod listing;
mod overview;

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use self::listing::Wanted;
use super::{observer::Observer, processes::Processes, shared::Shared};
use crate::{pool::SessionPool, rpc::others::Cluster};

const PAGE: &str = include_str!("status_page/page.html");

/// What the page may do: run its own script, and ask where it came from.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (script, style) = (digest_of("script"), digest_of("style"));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Of letters and digits as it is, this cannot fail; nothing is allowed if it does.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

fn digest_of(tag: &str) -> String {
    let inside = PAGE.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    let inside = inside.split_once(&format!("</{tag}>")).map_or("", |(inside, _)| inside);
    BASE64_STANDARD.encode(Sha256::digest(inside))
}

/// What is asked for the page.
#[derive(Debug)]
pub struct StatusPage {
    pub pool: SessionPool,
    pub observer: Observer,
    pub cluster: Cluster,
    pub processes: Processes,
    /// The overview that was told last.
    pub overview: Shared,
    /// Held while sessions are listed: readers of the page do not multiply what the store is asked.
    pub listing: Mutex<()>,
}

impl StatusPage {
    /// What is answered.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/", get(page))
            .route("/status.json", get(status))
            .route("/sessions.json", get(sessions))
            .with_state(Arc::new(self))
    }
}

/// What holds for all of it: nobody keeps it, and no other site has it.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

async fn page() -> Response {
    let own = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
    ];
    (HEADERS, own, PAGE).into_response()
}

fn json(text: impl Into<Bytes>) -> Response {
    (HEADERS, [(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}

async fn status(State(page): State<Arc<StatusPage>>) -> Response {
    match page.overview.get(async || overview::text(&page).await).await {
        Ok(text) => json(text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn sessions(State(page): State<Arc<StatusPage>>, RawQuery(query): RawQuery) -> Response {
    let Some(wanted) = Wanted::read(query.as_deref().unwrap_or_default()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let _turn = page.listing.lock().await;
    match listing::text(&page.pool, &wanted).await {
        Ok(text) => json(text),
        // The store does not answer, which the overview says.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_of_one_piece_and_its_policy_lets_nothing_else_in() {
        let policy = POLICY.to_str().expect("text");
        assert_eq!(policy.matches("sha256-").count(), 2, "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let empty = BASE64_STANDARD.encode(Sha256::digest(""));
        assert!(!policy.contains(&empty), "{policy}");
        for elsewhere in ["http://", "https://", "src=", "href=", "@import", "url("] {
            assert!(!PAGE.contains(elsewhere), "{elsewhere}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("] {
            assert!(!PAGE.contains(markup), "{markup}");
        }
        for inline in ["style=\"", "onclick", "onload", "onerror"] {
            assert!(!PAGE.contains(inline), "the policy forbids it: {inline}");
        }
    }
}
