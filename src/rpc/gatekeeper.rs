//! Asks every caller who they are before a call is served. Health checks are for
//! everybody: probes have no credentials.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use tonic::{
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower_layer::Layer;
use tower_service::Service;
use tracing::info;

use super::status::unauthenticated;
use crate::auth::gate::Gate;

/// What calls to health checks begin with.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Puts a [`Gatekeeper`] before services.
#[derive(Debug, Clone)]
pub struct GatekeeperLayer(pub Gate);

impl<S> Layer<S> for GatekeeperLayer {
    type Service = Gatekeeper<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gatekeeper { gate: self.0.clone(), inner }
    }
}

/// Lets calls through that [`Gate`] lets in, with the caller's identity among the
/// request's extensions.
#[derive(Debug, Clone)]
pub struct Gatekeeper<S> {
    gate: Gate,
    inner: S,
}

impl<S, B> Service<Request<B>> for Gatekeeper<S>
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
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let plain = request.extensions().get::<TcpConnectInfo>();
        let peer =
            connection.map(TlsConnectInfo::get_ref).or(plain).and_then(TcpConnectInfo::remote_addr);
        let certificates = connection.and_then(TlsConnectInfo::peer_certs);
        let certificate = certificates.as_ref().and_then(|all| all.first());
        match self.gate.identify(header, certificate.map(AsRef::as_ref)) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                // What let the caller in is nothing for the services behind.
                request.headers_mut().remove(AUTHORIZATION);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => {
                // Whoever looks after the service has to see who tries.
                let peer = peer.map(tracing::field::display);
                info!(path = request.uri().path(), peer, %refusal, "unauthenticated");
                let response = unauthenticated(refusal).into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}
