//! Asks every caller who they are before a call is served, and takes another node's word for
//! it. Health checks are for everybody: probes have no credentials.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use tokio_util::either::Either;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::info;

use super::status::unauthenticated;
use crate::{
    access::{
        AuthError, Identity,
        authenticator::Authenticator,
        nodes::{Nodes, Origin},
    },
    audit::Note,
    telemetry::log_limit::UNAUTHENTICATED,
    transport::Peer,
};

/// What calls to health checks begin with.
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/";

/// Who may come in by a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Callers; what nodes write means nothing.
    Callers,
    /// Other nodes alone.
    Nodes,
    /// Both.
    CallersAndNodes,
}

/// Puts an [`AuthService`] before services.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    /// Tells callers apart.
    pub authenticator: Authenticator,
    /// Tells nodes from callers.
    pub nodes: Nodes,
    /// Who is let in.
    pub admitted: Admitted,
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService { layer: self.clone(), inner }
    }
}

impl AuthLayer {
    /// Lets a call in, and has what it was let in by taken out of it, or says why not.
    fn admit<B>(&self, request: &mut Request<B>) -> Result<(), AuthError> {
        let header = request.headers().get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let peer = request.extensions().get::<Peer>();
        let certificate = peer.and_then(|peer| peer.certificate.as_deref()).map(AsRef::as_ref);
        let from = Origin { address: peer.map(|peer| peer.address), certificate };
        let node = match self.admitted {
            Admitted::Callers => None,
            Admitted::Nodes => {
                Some(self.nodes.recognise(request.headers(), from)?.ok_or(AuthError::NotANode)?)
            }
            Admitted::CallersAndNodes => self.nodes.recognise(request.headers(), from)?,
        };
        let (name, spoken_for) = node.map(|node| (node.name, node.caller)).unzip();
        let identity: Identity = match spoken_for.flatten() {
            Some(caller) => caller,
            None => self.authenticator.identify(header, certificate)?,
        };
        peer.inspect(|peer| peer.has_proven_itself());
        if let Some(note) = request.extensions().get::<Note>() {
            note.caller(&identity, name.as_ref().map(|name| Arc::clone(&name.0)));
        }
        request.extensions_mut().insert(identity);
        if let Some(name) = name {
            request.extensions_mut().insert(name);
        }
        // What let the caller in is nothing for the services behind.
        request.headers_mut().remove(AUTHORIZATION);
        Nodes::strip(request.headers_mut());
        Ok(())
    }
}

/// Lets calls through that [`Authenticator`] lets in, with the caller's identity among the
/// request's extensions.
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    layer: AuthLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.layer.admitted != Admitted::Nodes && request.uri().path().starts_with(HEALTH) {
            return Either::Left(self.inner.call(request));
        }
        match self.layer.admit(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => {
                let peer = request.extensions().get::<Peer>();
                peer.inspect(|peer| peer.has_been_refused());
                // Whoever looks after the service has to see who tries.
                if UNAUTHENTICATED.admits() {
                    let peer = peer.map(|peer| tracing::field::display(peer.address));
                    info!(path = request.uri().path(), peer, %refusal, "unauthenticated");
                }
                let response = unauthenticated(refusal).into_http();
                Either::Right(ready(Ok(response)))
            }
        }
    }
}
