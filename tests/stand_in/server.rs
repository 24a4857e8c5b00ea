//! The HTTP side: routes, headers, and the recording of whatever comes in.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Access;
use super::answer::{self, Outcome};
use super::attempts::Attempts;
use super::delivery::{self, Ended};
use super::error::ApiError;
use super::ids;
use super::json::Json;
use super::message::Message;
use super::record::{Record, RecordedRequest};
use super::sse;

/// The API's own limit is 32 MB.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Paths that want a key.
const API: &str = "/v1/";

/// Paths that are about the stand-in itself, and are not recorded.
const ADMIN: &str = "/_stand_in/";

#[derive(Clone)]
struct App {
    record: Arc<Record>,
    attempts: Arc<Attempts>,
    access: Arc<Access>,
    stop: CancellationToken,
    /// The tasks that write streams.
    streams: TaskTracker,
}

/// Serves until `stop`; the task ends when every connection and every stream has ended.
pub fn spawn(
    listener: TcpListener,
    record: Arc<Record>,
    access: Arc<Access>,
    stop: CancellationToken,
) -> JoinHandle<io::Result<()>> {
    let streams = TaskTracker::new();
    let app = App {
        record,
        attempts: Arc::default(),
        access,
        stop: stop.clone(),
        streams: streams.clone(),
    };
    let router = router(app);
    TaskTracker::new().spawn(async move {
        let stopped = stop.cancelled_owned();
        let served = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
        streams.close();
        streams.wait().await;
        served
    })
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(alive))
        .route("/api/hello", get(alive))
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/_stand_in/requests", get(requests).delete(clear))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(from_fn_with_state(app.clone(), record))
        .with_state(app)
}

/// Takes every request down before it is answered, and hands on what it has read.
async fn record(State(app): State<App>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(ADMIN) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_BODY).await else {
        return ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE, None).into_response();
    };
    let recorded = app.record.add(&parts.method, &parts.uri, &parts.headers, &bytes);
    if parts.uri.path().starts_with(API)
        && let Err(error) = app.access.check(&recorded)
    {
        return error.into_response();
    }
    let mut request = Request::from_parts(parts, Body::empty());
    request.extensions_mut().insert(recorded);
    next.run(request).await
}

async fn alive() -> &'static str {
    "A stand-in for the Messages API.\n"
}

async fn messages(
    State(app): State<App>,
    Extension(request): Extension<Arc<RecordedRequest>>,
) -> Response {
    let answer = answer::to(&request, &app.attempts);
    if let Err(Ended) = delivery::pause(answer.after, &app.stop).await {
        return stopping();
    }
    match answer.outcome {
        Outcome::Refused(error) => error.into_response(),
        // A client that leaves drops this future with its connection.
        Outcome::Silence => {
            app.stop.cancelled().await;
            stopping()
        }
        Outcome::Message(message) if request.body["stream"] == true => stream(&app, message),
        Outcome::Message(message) => match delivery::whole(&message, &app.stop).await {
            Ok(body) => with_request_id(Json(body).into_response()),
            Err(Ended) => stopping(),
        },
    }
}

fn stream(app: &App, message: Message) -> Response {
    let (outlet, events) = delivery::body(app.stop.clone());
    app.streams.spawn(outlet.deliver(message));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    with_request_id((headers, Body::from_stream(events)).into_response())
}

async fn count_tokens(Extension(request): Extension<Arc<RecordedRequest>>) -> Response {
    if let Some(wrong) = &request.refused {
        return ApiError::bad_request(wrong).into_response();
    }
    let count = sse::tokens(request.body_bytes);
    with_request_id(Json(json!({ "input_tokens": count })).into_response())
}

async fn requests(State(app): State<App>, uri: Uri) -> Response {
    let session = uri.query().and_then(|query| query.strip_prefix("session="));
    let kept = match session {
        Some(session) => app.record.of_session(session),
        None => app.record.all(),
    };
    let list: Vec<&RecordedRequest> = kept.iter().map(Arc::as_ref).collect();
    Json(list).into_response()
}

async fn clear(State(app): State<App>) -> StatusCode {
    app.record.clear();
    StatusCode::NO_CONTENT
}

async fn not_found() -> ApiError {
    ApiError::of_status(StatusCode::NOT_FOUND, None)
}

fn stopping() -> Response {
    ApiError::of_status(StatusCode::SERVICE_UNAVAILABLE, None).into_response()
}

fn with_request_id(mut response: Response) -> Response {
    if let Ok(id) = HeaderValue::from_str(&ids::request()) {
        let name = HeaderName::from_static("request-id");
        response.headers_mut().insert(name, id);
    }
    response
}
