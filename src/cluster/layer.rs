//! The layer that forwards: learns which session a call names, asks where it lives, and passes
//! the call on, refuses it, or lets it go on to the service here.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{debug, warn};

use super::{
    Node, Place, Placement,
    asking::Asker,
    copied::{Copied, copied},
    first::look,
    links::{CONNECTIONS_TRIED, Lease, Links, Unreachable, cause, refusal},
    metadata::pass_on,
    outgoing::{Broken, Outgoing},
    relay::{Held, Relayed, Way},
    rpcs::{self, Served},
};
use crate::{
    access::{
        Identity,
        nodes::{ForwardedBy, Nodes},
    },
    audit::Note,
    domain::{
        failure::Cause,
        ids::{SessionId, SessionKey},
    },
    pool::SessionPool,
    rpc::{deadline::Deadline, service::ROUTING_KEY, status::of_failure},
    tasks::Tasks,
    telemetry::log_limit::NODE_UNREACHABLE,
    traces::Trace,
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Forwards calls. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    placement: Arc<dyn Placement>,
    nodes: Nodes,
    pool: SessionPool,
    links: Arc<Links>,
    /// Bytes of the largest message that the service decodes.
    largest: u64,
    /// Calls that show a turn.
    turns: TaskTracker,
    closing: CancellationToken,
}

/// Times that a call is served here at most, where its session moves each time.
const TIMES_SERVED: usize = 3;

/// A call on its way.
struct Call {
    request: Request<Body>,
    key: SessionKey,
    caller: Identity,
    shows_turn: bool,
}

/// A call that is served here, unless another node has its session by then.
struct Waiting {
    copy: Copied,
    key: SessionKey,
    caller: Identity,
    shows_turn: bool,
}

/// What becomes of a call.
enum Outcome {
    /// The service here takes it; if it finds that the session has been taken by another node just
    /// then, this is sent there.
    Here(Request<Body>, Option<Box<Waiting>>),
    /// It is answered.
    Answered(Response<Body>),
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self::Answered(status.into_http())
    }
}

impl Forwarder {
    /// Forwards as `placement` says; counts calls as streams of the pool's tenants.
    pub fn new(
        placement: Arc<dyn Placement>,
        nodes: Nodes,
        pool: SessionPool,
        largest: u64,
        tasks: Tasks,
    ) -> Self {
        let links = Arc::new(Links::new(nodes.clone(), tasks));
        let (turns, closing) = (TaskTracker::new(), CancellationToken::new());
        Self(Arc::new(Shared { placement, nodes, pool, links, largest, turns, closing }))
    }

    /// Asks other nodes by the same connections.
    pub fn asker(&self) -> Asker {
        let Shared { placement, nodes, links, .. } = &*self.0;
        let (placement, links) = (Arc::clone(placement), Arc::clone(links));
        Asker { placement, nodes: nodes.clone(), links }
    }

    /// Waits until no call shows a turn any more. Returns whether that was so within the limit.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.0.turns.close();
        timeout(limit, self.0.turns.wait()).await.is_ok()
    }

    /// Ends all calls that are forwarded.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    async fn decide(&self, request: Request<Body>, shows_turn: bool) -> Outcome {
        let Some(caller) = request.extensions().get::<Identity>().cloned() else {
            return Outcome::Here(request, None);
        };
        let (session, request) = self.session_of(request).await;
        let Some(session) = session else { return Outcome::Here(request, None) };
        request.extensions().get::<Note>().inspect(|note| note.session(&session));
        let key = SessionKey::new(caller.tenant.clone(), session);
        let call = Call { request, key, caller, shows_turn };
        match self.0.placement.place(&call.key).await {
            Err(cause) => of_failure(&cause.into()).into(),
            Ok(Place::Here) => call.here(),
            Ok(Place::At(node)) => match call.request.extensions().get::<ForwardedBy>() {
                // Two nodes that each take the other one for the owner would go on for ever.
                Some(_) => call.way(&node).moved().into(),
                None => self.forward(call, node).await,
            },
        }
    }

    /// The session that a request names: by its metadata, or by its message.
    async fn session_of(&self, request: Request<Body>) -> (Option<SessionId>, Request<Body>) {
        if let Some(named) = request.headers().get(ROUTING_KEY) {
            let named = named.to_str().ok().and_then(|text| SessionId::parse(text).ok());
            return (named, request);
        }
        let (parts, body) = request.into_parts();
        let (session, body) = look(body, self.0.largest).await;
        (session, Request::from_parts(parts, body))
    }

    async fn forward(&self, call: Call, node: Node) -> Outcome {
        // It counts here as it would if the session were here.
        let share = match self.0.pool.open_stream(&call.key.tenant) {
            Ok(share) => share,
            Err(failure) => return of_failure(&failure).into(),
        };
        let (lease, node) = match self.lease(&node).await {
            Ok(lease) => (lease, node),
            Err(first) => match self.0.placement.place(&call.key).await {
                Err(cause) => return of_failure(&cause.into()).into(),
                Ok(Place::Here) => return Outcome::Here(call.request, None),
                Ok(Place::At(again)) if again == node => return unreachable(&call, &node, &first),
                Ok(Place::At(other)) => match self.lease(&other).await {
                    Ok(lease) => (lease, other),
                    Err(problem) => return unreachable(&call, &other, &problem),
                },
            },
        };
        let way = call.way(&node);
        debug!(session_id = %way.session, node = %way.node, "call_forwarded");
        let (deadline, shows_turn) =
            (call.request.extensions().get::<Deadline>().copied(), call.shows_turn);
        match self.send(call, lease, &node).await {
            Err(status) => status.into(),
            Ok((response, lease)) => {
                let waited_for = shows_turn.then(|| self.0.turns.token());
                let held = Held { share, call: lease.into_call(), waited_for };
                let closing = self.0.closing.clone().cancelled_owned();
                Outcome::Answered(
                    response
                        .map(|body| Body::new(Relayed::new(body, held, way, deadline, closing))),
                )
            }
        }
    }

    /// What becomes of a call that was answered here: two nodes that are asked for a session at
    /// once both find it free, and the one that does not get it has done nothing yet.
    async fn settle(&self, response: Response<Body>, waiting: Waiting) -> Outcome {
        if !says_moved(&response) {
            return Outcome::Answered(response);
        }
        let Waiting { copy, key, caller, shows_turn } = waiting;
        let Some(request) = copy.again() else { return Outcome::Answered(response) };
        let call = Call { request, key, caller, shows_turn };
        match self.0.placement.place(&call.key).await {
            // The other one has given it back since.
            Ok(Place::Here) => call.here(),
            Ok(Place::At(node)) => self.forward(call, node).await,
            Err(_) => Outcome::Answered(response),
        }
    }

    async fn lease(&self, node: &Node) -> Result<Lease, Unreachable> {
        self.0.links.lease_of(node.address.as_ref()).await
    }

    /// Sends a call and waits for the beginning of the answer.
    async fn send(
        &self,
        call: Call,
        mut lease: Lease,
        node: &Node,
    ) -> Result<(Response<Incoming>, Lease), Status> {
        let way = call.way(node);
        let broken = Broken::default();
        let mut request = self.outgoing(call, &lease, &broken).ok_or_else(|| way.moved())?;
        for _ in 0..CONNECTIONS_TRIED {
            let sent = tokio::select! {
                sent = lease.sender.try_send_request(request) => sent,
                () = self.0.closing.cancelled() => return Err(way.failure(Cause::ShuttingDown)),
            };
            let mut error = match sent {
                Ok(response) => return answer(response, &way).map(|response| (response, lease)),
                Err(error) => error,
            };
            let Some(unsent) = error.take_message() else {
                // It may have begun there; or it was the caller's side that failed.
                let lost = || way.lost(&cause(error.error()));
                return Err(broken.status().unwrap_or_else(lost));
            };
            // The connection ended between the look at it and the call: another one is as good.
            request = unsent;
            lease = self.lease(node).await.map_err(|problem| refused(&way, &problem))?;
        }
        Err(refused(&way, &Unreachable::because("its connections end at once")))
    }

    /// The request as the other node gets it. `None` if its name cannot be written.
    fn outgoing(&self, call: Call, lease: &Lease, broken: &Broken) -> Option<Request<Outgoing>> {
        let (mut parts, body) = call.request.into_parts();
        let deadline = parts.extensions.get::<Deadline>().copied();
        pass_on(&mut parts.headers, deadline);
        // What is done there is done for the call as it is here.
        parts.extensions.get::<Trace>().inspect(|trace| trace.pass_on(&mut parts.headers));
        let own_name = self.0.placement.own_name();
        self.0.nodes.speak_for(&mut parts.headers, own_name, &call.caller)?;
        let mut request = Request::new(Outgoing::new(body, broken.clone()));
        *request.method_mut() = parts.method;
        *request.uri_mut() = lease.uri(parts.uri.path_and_query())?;
        *request.headers_mut() = parts.headers;
        Some(request)
    }
}

impl Call {
    /// It is served here. What another node has sent here goes no further.
    fn here(self) -> Outcome {
        let Self { request, key, caller, shows_turn } = self;
        if request.extensions().get::<ForwardedBy>().is_some() {
            return Outcome::Here(request, None);
        }
        let (request, copy) = copied(request);
        Outcome::Here(request, Some(Box::new(Waiting { copy, key, caller, shows_turn })))
    }

    fn way(&self, node: &Node) -> Way {
        Way { session: self.key.session.clone(), node: Arc::clone(&node.name) }
    }
}

/// Whether a call was refused because another node has its session, before anything of an answer.
fn says_moved(response: &Response<Body>) -> bool {
    let status = Status::from_header_map(response.headers());
    status.filter(|status| status.code() == Code::Unavailable).is_some_and(|status| {
        let details = status.get_details_error_info();
        details.is_some_and(|details| details.reason == Cause::moved("").reason())
    })
}

/// The beginning of an answer, unless it says that the node does not know this one. That is
/// nothing that the caller could mend.
fn answer(response: Response<Incoming>, way: &Way) -> Result<Response<Incoming>, Status> {
    match refusal(&way.node, response.headers()) {
        None => Ok(response),
        Some(_) => Err(way.moved()),
    }
}

fn unreachable(call: &Call, node: &Node, problem: &Unreachable) -> Outcome {
    refused(&call.way(node), problem).into()
}

/// The status of a call that was not sent.
fn refused(way: &Way, problem: &Unreachable) -> Status {
    if NODE_UNREACHABLE.admits() {
        warn!(session_id = %way.session, node = %way.node, %problem, "node_unreachable");
    }
    way.moved()
}

/// Puts a [`Forward`] before services; without a forwarder it does nothing.
#[derive(Debug, Clone)]
pub struct ForwardLayer(pub Option<Forwarder>);

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Forward { forwarder: self.0.clone(), inner }
    }
}

/// Forwards calls for sessions that are elsewhere.
#[derive(Debug, Clone)]
pub struct Forward<S> {
    forwarder: Option<Forwarder>,
    inner: S,
}

impl<S, B> Service<Request<B>> for Forward<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    // A call that is not looked at costs nothing here.
    type Future = Either<S::Future, BoxFuture<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        let Some(forwarder) = &self.forwarder else {
            return Either::Left(self.inner.call(request));
        };
        let served = rpcs::of(request.uri().path()).map(|rpc| rpc.served);
        let Some(Served::WithSession { shows_turn }) = served else {
            return Either::Left(self.inner.call(request));
        };
        let (forwarder, mut inner) = (forwarder.clone(), self.inner.clone());
        Either::Right(Box::pin(async move {
            let (mut outcome, mut left) =
                (forwarder.decide(request, shows_turn).await, TIMES_SERVED);
            loop {
                let (request, waiting) = match outcome {
                    Outcome::Answered(response) => return Ok(response),
                    Outcome::Here(request, waiting) => (request, waiting),
                };
                poll_fn(|cx| inner.poll_ready(cx)).await?;
                let response = inner.call(request).await?;
                left -= 1;
                let Some(waiting) = waiting.filter(|_| left > 0) else { return Ok(response) };
                outcome = forwarder.settle(response, *waiting).await;
            }
        }))
    }
}
