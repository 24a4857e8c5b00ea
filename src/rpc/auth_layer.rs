//! Asks every caller who they are before a call is served. Health checks are for
//! everybody: probes have no credentials.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::info;

use super::status::unauthenticated;
use crate::{
    access::authenticator::Authenticator, telemetry::log_limit::UNAUTHENTICATED, transport::Peer,
};

/// What calls to health checks begin with.
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/";

/// Puts an [`AuthService`] before services.
#[derive(Debug, Clone)]
pub struct AuthLayer(pub Authenticator);

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService { authenticator: self.0.clone(), inner }
    }
}

/// Lets calls through that [`Authenticator`] lets in, with the caller's identity among the
/// request's extensions.
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    authenticator: Authenticator,
    inner: S,
}

impl<S, B> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if request.uri().path().starts_with(HEALTH) {
            return Box::pin(self.inner.call(request));
        }
        let header = request.headers().get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let peer = request.extensions().get::<Peer>();
        let certificate = peer.and_then(|peer| peer.certificate.as_deref());
        match self.authenticator.identify(header, certificate.map(AsRef::as_ref)) {
            Ok(identity) => {
                peer.inspect(|peer| peer.has_proven_itself());
                request.extensions_mut().insert(identity);
                // What let the caller in is nothing for the services behind.
                request.headers_mut().remove(AUTHORIZATION);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => {
                peer.inspect(|peer| peer.has_been_refused());
                // Whoever looks after the service has to see who tries.
                if UNAUTHENTICATED.admits() {
                    let peer = peer.map(|peer| tracing::field::display(peer.address));
                    info!(path = request.uri().path(), peer, %refusal, "unauthenticated");
                }
                let response = unauthenticated(refusal).into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}
