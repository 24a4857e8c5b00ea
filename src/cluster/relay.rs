//! The answer to a call that was forwarded, on its way to the caller. Nothing is kept of it: the
//! next piece is taken from the other node when the caller has room for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};
use tokio_util::{sync::WaitForCancellationFutureOwned, task::task_tracker::TaskTrackerToken};
use tonic::Status;
use tracing::warn;

use super::links::{Call, cause};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::SessionId,
    },
    rpc::{
        deadline::Deadline,
        status::{deadline_passed, of_failure},
    },
    telemetry::log_limit::FORWARDED_CALL_LOST,
    tenant::Share,
};

/// What a call holds until its answer has been passed on.
#[derive(Debug)]
#[expect(dead_code, reason = "held, and given back when it is dropped")]
pub struct Held {
    /// Its place among the tenant's streams.
    pub share: Share,
    /// Its place on the connection.
    pub call: Call,
    /// There if the service waits for its end when it stops.
    pub waited_for: Option<TaskTrackerToken>,
}

/// Whom a call was forwarded to, to say so if it is lost.
#[derive(Debug, Clone)]
pub struct Way {
    /// The session that it names.
    pub session: SessionId,
    /// The node.
    pub node: Arc<str>,
}

impl Way {
    /// The status of a call that has to be sent again.
    pub fn moved(&self) -> Status {
        self.failure(Cause::moved(&*self.node))
    }

    /// The status of a call that may have begun at the node, and of which nothing more is known.
    pub fn lost(&self, error: &str) -> Status {
        let Self { session, node } = self;
        if FORWARDED_CALL_LOST.admits() {
            warn!(session_id = %session, %node, error, "forwarded_call_lost");
        }
        self.moved()
    }

    /// The status of a call that fails here.
    pub fn failure(&self, cause: Cause) -> Status {
        let session_id = Some(self.session.clone());
        of_failure(&Failure { session_id, ..cause.into() })
    }
}

/// The body of another node's answer on its way to the caller.
#[derive(Debug)]
pub struct Relayed {
    /// `None` once it has ended, or was ended here; dropping it tells the other node.
    body: Option<(Incoming, Held)>,
    way: Way,
    deadline: Option<Pin<Box<Sleep>>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Relayed {
    /// Passes on a body until its end, the caller's deadline, or until the service stops.
    pub fn new(
        body: Incoming,
        held: Held,
        way: Way,
        deadline: Option<Deadline>,
        closing: WaitForCancellationFutureOwned,
    ) -> Self {
        let deadline = deadline.and_then(|deadline| deadline.0);
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Self { body: Some((body, held)), way, deadline, closing: Box::pin(closing) }
    }

    /// Why the call ends here, if it does.
    fn ended_here(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        if self.deadline.as_mut().is_some_and(|it| it.as_mut().poll(cx).is_ready()) {
            return Some(deadline_passed());
        }
        let closing = self.closing.as_mut().poll(cx).is_ready();
        closing.then(|| self.way.failure(Cause::ShuttingDown))
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.body = None;
        let mut trailers = HeaderMap::new();
        let made = status.add_header(&mut trailers);
        Poll::Ready(Some(made.map(|()| Frame::trailers(trailers))))
    }
}

impl http_body::Body for Relayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        if let Some(status) = self.ended_here(cx) {
            return self.end(&status);
        }
        let Some((body, _)) = &mut self.body else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if frame.is_trailers() {
                    self.body = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let status = self.way.lost(&cause(&error));
                self.end(&status)
            }
            None => {
                self.body = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, |(body, _)| body.size_hint())
    }
}
