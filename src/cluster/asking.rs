//! Calls that this node makes to others by itself, for a caller who asks about all of them. They
//! go by the same connections as those that are passed on, and are told apart from callers' in
//! the same way: who gets one does not pass it on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::{Status, body::Body};
use tracing::warn;

use super::{
    Later, Living, Member, Others, Placement,
    links::{CONNECTIONS_TRIED, Call, Lease, Links, Unreachable, cause, refusal},
    outgoing::{Broken, Outgoing},
};
use crate::{
    access::{Identity, nodes::Nodes},
    telemetry::log_limit::NODE_UNREACHABLE,
};

/// Asks other nodes. Cloning gives another handle to the same connections.
#[derive(Debug, Clone)]
pub struct Asker {
    pub(super) placement: Arc<dyn Placement>,
    pub(super) nodes: Nodes,
    pub(super) links: Arc<Links>,
}

impl Others for Asker {
    fn own(&self) -> Member {
        self.placement.own()
    }

    fn living(&self) -> Later<'_, Living> {
        self.placement.others()
    }

    fn send(
        &self,
        to: &Member,
        caller: &Identity,
        request: Request<Body>,
    ) -> Later<'static, Result<Response<Body>, Status>> {
        let (asker, to, caller) = (self.clone(), to.clone(), caller.clone());
        Box::pin(async move { asker.call(&to, &caller, request).await })
    }
}

impl Asker {
    async fn call(
        &self,
        to: &Member,
        caller: &Identity,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let mut lease = self.lease(to).await?;
        let (mut parts, body) = request.into_parts();
        let own_name = self.placement.own_name();
        let said = self.nodes.speak_for(&mut parts.headers, own_name, caller);
        let uri = lease.uri(parts.uri.path_and_query());
        let (Some(()), Some(uri)) = (said, uri) else {
            return Err(unreachable(to, &Unreachable::because("its address cannot be written")));
        };
        parts.uri = uri;
        let mut request = Request::from_parts(parts, Outgoing::new(body, Broken::default()));
        for _ in 0..CONNECTIONS_TRIED {
            let mut error = match lease.sender.try_send_request(request).await {
                Ok(response) => return answered(to, response, lease.into_call()),
                Err(error) => error,
            };
            let Some(unsent) = error.take_message() else {
                return Err(unreachable(to, &Unreachable::because(cause(error.error()))));
            };
            request = unsent;
            lease = self.lease(to).await?;
        }
        Err(unreachable(to, &Unreachable::because("its connections end at once")))
    }

    async fn lease(&self, to: &Member) -> Result<Lease, Status> {
        let leased = self.links.lease_of(to.address.as_ref()).await;
        leased.map_err(|problem| unreachable(to, &problem))
    }
}

fn unreachable(node: &Member, problem: &Unreachable) -> Status {
    if NODE_UNREACHABLE.admits() {
        warn!(node = %node.name, %problem, "node_unreachable");
    }
    Status::unavailable(problem.to_string())
}

fn answered(
    node: &Member,
    response: Response<Incoming>,
    call: Call,
) -> Result<Response<Body>, Status> {
    match refusal(&node.name, response.headers()) {
        None => Ok(response.map(|body| Body::new(Answer { body, _call: call }))),
        Some(told) => {
            Err(Status::unavailable(format!("it does not take this node for one: {told}")))
        }
    }
}

/// The body of an answer, which keeps its place on the connection.
struct Answer {
    body: Incoming,
    _call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
