//! The body of a request on its way to another node, as it comes from the caller.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

/// Why the caller's side of a request ended before its end, if it did.
#[derive(Debug, Clone, Default)]
pub struct Broken(Arc<OnceLock<Status>>);

impl Broken {
    /// The status for the caller.
    pub fn status(&self) -> Option<Status> {
        self.0.get().cloned()
    }
}

/// The body of a request on its way to another node.
#[derive(Debug)]
pub struct Outgoing {
    body: Body,
    broken: Broken,
}

impl Outgoing {
    /// Passes on a caller's body; `broken` says afterwards whether that failed.
    pub fn new(body: Body, broken: Broken) -> Self {
        Self { body, broken }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(status)) = &frame {
            // The first one counts.
            self.broken.0.set(status.clone()).ok();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
