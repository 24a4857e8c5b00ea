//! Errors in the API's shape.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{ids, json::Json};

/// An answer that is an error of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status, 400 to 599.
    pub status: StatusCode,
    /// Seconds for the `retry-after` header.
    pub retry_after: Option<u64>,
    /// Text for people.
    pub message: String,
}

impl ApiError {
    /// An error with the wording that the status usually comes with.
    pub fn of_status(status: StatusCode, retry_after: Option<u64>) -> Self {
        Self { status, retry_after, message: usual_message(status).to_owned() }
    }

    /// A request that cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, retry_after: None, message: message.into() }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        body(kind(self.status), &self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&ids::request()) {
            headers.insert(HeaderName::from_static("request-id"), id);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An error object, as it stands in a body and in an SSE `error` event.
pub fn body(kind: &str, message: &str) -> Value {
    json!({
        "type": "error",
        "error": { "type": kind, "message": message },
        "request_id": ids::request(),
    })
}

fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

fn usual_message(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "invalid x-api-key",
        403 => "Your API key does not have permission to use the specified resource.",
        404 => "Not found",
        413 => "Request exceeds the maximum size",
        429 => "This request would exceed your rate limit.",
        529 => "Overloaded",
        500.. => "Internal server error",
        _ => "The stand-in was told to refuse this request.",
    }
}
