//! Bodies on their way: passed on piece by piece, and read along where the API says what it has
//! counted.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{account::Account, forward::Counted, usage::Tap};

/// Any error of a body.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body of an answer.
pub(super) type AnyBody = UnsyncBoxBody<Bytes, BodyError>;

/// A text as a body.
pub(super) fn full(text: String) -> AnyBody {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// The body of an answer of the API. What it says was used is counted when it ends, however it
/// ends; it is cut when the process that it is for has ended.
pub(super) struct Answer {
    body: Incoming,
    tap: Tap,
    counted: Counted,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Answer {
    pub(super) fn new(body: Incoming, tap: Tap, counted: Counted, account: &Arc<Account>) -> Self {
        let closed = Box::pin(account.closed().clone().cancelled_owned());
        Self { body, tap, counted, closed }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the process has ended".into())));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.tap.read(data);
            // Before the CLI has it: what it does next is held to what this has cost.
            this.counted.note(&this.tap);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.tap.end();
        self.counted.note(&self.tap);
    }
}
