//! What holds for every request before anything else looks at it: it is a gRPC call,
//! metadata that decides something comes once and has a meaning, its message arrives in
//! time, health checks have a bounded number of places, and trailers are small enough for
//! clients. Knows paths and headers; nothing of callers or of what is called.

mod body;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;
use tracing::info;

use self::body::{Received, Sent};
use super::{
    auth_layer::HEALTH,
    deadline::{Deadline, TIMEOUT_KEY},
    service::ROUTING_KEY,
    status::{
        Rejection, Violation, bound_trailers, complete, deadline_passed, of_rejection,
        unauthenticated,
    },
    tool_stream::FirstMessage,
};
use crate::{
    access::AuthError,
    tasks::at,
    telemetry::log_limit::{HEALTH_CALL_REVOKED, NOT_GRPC},
    transport::{
        Peer, UnauthenticatedCall,
        slots::{Slot, Slots},
    },
};

/// What calls to reflection begin with: their messages come one after the other, for as
/// long as the caller likes.
const REFLECTION: &str = "/grpc.reflection.";
/// Likewise; only the first message has to come in time.
const SERVE_TOOLS: &str = "/sessionpool.v1.SessionPoolService/ServeTools";
/// How long the few bytes of a health check may take.
const HEALTH_BODY_LIMIT: Duration = Duration::from_secs(5);

/// The limits of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeLimits {
    /// From the headers of a request to the end of its message.
    pub body_timeout: Duration,
    /// Health checks at once, `Watch` included.
    pub max_health_calls: usize,
}

/// Puts an [`Edge`] before services.
#[derive(Debug, Clone)]
pub struct EdgeLayer {
    limits: EdgeLimits,
    health_calls: Arc<Slots<Option<Peer>>>,
}

impl EdgeLayer {
    /// With these limits, which all services behind it have in common.
    pub fn new(limits: EdgeLimits) -> Self {
        // The oldest gives way at once: a check takes no time, and there is always room
        // for the next one.
        let health_calls = Slots::new(limits.max_health_calls, Duration::ZERO);
        Self { limits, health_calls }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Edge { layer: self.clone(), inner }
    }
}

/// Holds requests to what every one of them is held to.
#[derive(Debug, Clone)]
pub struct Edge<S> {
    layer: EdgeLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for Edge<S>
where
    S: Service<Request<Received<B>>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Sent>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if peer(&request).is_some_and(Peer::has_to_go) {
            // What had arrived before it was told so costs as little as can be.
            let answer = Status::unavailable("the connection is being closed").into_http();
            return Box::pin(std::future::ready(Ok(answer.map(|body| Sent::new(body, None)))));
        }
        let deadline = match admitted(&request) {
            Ok(deadline) => deadline,
            Err(refused) => {
                peer(&request).inspect(|peer| peer.has_been_refused());
                let refused = refused.map(|body| Sent::new(body, None));
                return Box::pin(std::future::ready(Ok(refused)));
            }
        };
        request.extensions_mut().insert(deadline);
        request.extensions_mut().insert(FirstMessage(self.layer.limits.body_timeout));
        let path = request.uri().path();
        let health_call =
            path.starts_with(HEALTH).then(|| self.health_call(peer(&request).cloned()));
        let limit = self.layer.limits.body_timeout;
        let limit = match &health_call {
            Some(_) => Some(limit.min(HEALTH_BODY_LIMIT)),
            None => Some(limit).filter(|_| !path.starts_with(REFLECTION) && path != SERVE_TOOLS),
        };
        let answer = self.inner.call(request.map(|body| Received::new(body, limit)));
        Box::pin(async move {
            let mut response = tokio::select! {
                response = answer => response?,
                () = at(deadline.0) => deadline_passed().into_http(),
                () = revocation(health_call.as_ref()) => body::revoked().into_http(),
            };
            complete(response.headers_mut());
            bound_trailers(response.headers_mut());
            Ok(response.map(|body| Sent::new(body, health_call)))
        })
    }
}

impl<S> Edge<S> {
    fn health_call(&self, peer: Option<Peer>) -> HealthCall {
        let counted = peer.as_ref().map(Peer::unauthenticated_call);
        let (slot, revoked) = self.layer.health_calls.take_now(peer);
        if let Some(peer) = revoked {
            // A response that its caller does not read would stay for ever.
            peer.as_ref().inspect(|peer| peer.give_way());
            if HEALTH_CALL_REVOKED.admits() {
                let peer = peer.map(|peer| tracing::field::display(peer.address));
                info!(limit = self.layer.limits.max_health_calls, peer, "health_call_revoked");
            }
        }
        HealthCall { slot, _counted: counted }
    }
}

/// The place of a health check among all of them and on its connection.
#[derive(Debug)]
struct HealthCall {
    slot: Slot<Option<Peer>>,
    _counted: Option<UnauthenticatedCall>,
}

impl HealthCall {
    fn revoked(&self) -> &CancellationToken {
        self.slot.revoked()
    }
}

fn peer<B>(request: &Request<B>) -> Option<&Peer> {
    request.extensions().get()
}

async fn revocation(call: Option<&HealthCall>) {
    match call {
        Some(call) => call.revoked().cancelled().await,
        None => std::future::pending().await,
    }
}

/// The deadline of a call, or the answer to a request that is none, or whose metadata has
/// two meanings or no meaning.
fn admitted<B>(request: &Request<B>) -> Result<Deadline, Box<Response<Body>>> {
    let headers = request.headers();
    // As the gRPC specification has it: whoever speaks HTTP and not gRPC is answered in HTTP.
    if request.method() != Method::POST {
        return Err(not_grpc(request, StatusCode::METHOD_NOT_ALLOWED).into());
    }
    if !is_grpc(headers) {
        return Err(not_grpc(request, StatusCode::UNSUPPORTED_MEDIA_TYPE).into());
    }
    let twice = |key: &str| headers.get_all(key).iter().nth(1).is_some();
    if twice(AUTHORIZATION.as_str()) {
        return Err(unauthenticated(AuthError::Repeated).into_http().into());
    }
    if let Some(key) = [ROUTING_KEY, TIMEOUT_KEY].into_iter().find(|key| twice(key)) {
        return Err(invalid(key, "must not be sent more than once".to_owned()).into());
    }
    Deadline::of(headers).map_err(|malformed| invalid(TIMEOUT_KEY, malformed.to_string()).into())
}

fn invalid(key: &str, description: String) -> Response<Body> {
    let violation = Violation { field: format!("metadata {key}"), description };
    of_rejection(&Rejection::Invalid(vec![violation])).into_http()
}

/// Whether the content is gRPC with protobuf, the only form that is served.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return false };
    let Ok(content_type) = content_type.to_str() else { return false };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|served| essence.eq_ignore_ascii_case(served))
}

fn not_grpc<B>(request: &Request<B>, code: StatusCode) -> Response<Body> {
    if NOT_GRPC.admits() {
        let peer = peer(request).map(|peer| tracing::field::display(peer.address));
        info!(method = %request.method(), code = code.as_u16(), peer, "not_grpc");
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    if code == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// The status of a call whose message did not arrive in time.
fn message_late(limit: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the request did not arrive within {limit:?} (server.limits.body_timeout)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c9_only_grpc_with_protobuf_is_served() {
        let served = |types: &[&str]| {
            let mut request = Request::post("/a.B/C");
            for content_type in types {
                request = request.header(CONTENT_TYPE, *content_type);
            }
            let request = request.body(()).expect("a request");
            admitted(&request).err().map(|answer| answer.status())
        };
        for good in
            ["application/grpc", "application/grpc+proto", "Application/GRPC; charset=utf-8"]
        {
            assert_eq!(served(&[good]), None, "{good}");
        }
        let unsupported = Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        for bad in ["text/plain", "application/grpc-web", "application/grpc+json", "", "grpc"] {
            assert_eq!(served(&[bad]), unsupported, "{bad}");
        }
        assert_eq!(served(&[]), unsupported);
        assert_eq!(served(&["application/grpc", "application/grpc"]), unsupported);
        for method in ["GET", "PUT", "OPTIONS", "CONNECT"] {
            let request = Request::builder().method(method).uri("/a.B/C").body(());
            let answer = admitted(&request.expect("a request")).expect_err("refused");
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answer.headers()[ALLOW], "POST");
        }
    }

    #[test]
    fn c9_metadata_that_decides_something_comes_once() {
        for (key, code) in [
            ("authorization", tonic::Code::Unauthenticated),
            ("session-id", tonic::Code::InvalidArgument),
            ("grpc-timeout", tonic::Code::InvalidArgument),
        ] {
            let once = Request::post("/a.B/C").header(CONTENT_TYPE, "application/grpc");
            let once = once.header(key, "1S");
            let twice = once.header(key, "1S").body(()).expect("a request");
            let answer = admitted(&twice).expect_err("refused");
            let status = Status::from_header_map(answer.headers()).expect("a status");
            assert_eq!(status.code(), code, "{key}");
        }
    }
}
