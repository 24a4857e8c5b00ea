//! Bodies on their way: passed on piece by piece, and read along where the API says what it has
//! counted.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{account::Account, counted::Counted, usage::Tap};

/// Any error of a body.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body of an answer.
pub(super) type AnyBody = UnsyncBoxBody<Bytes, BodyError>;

/// A text as a body.
pub(super) fn full(text: String) -> AnyBody {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// The body of a request, the beginning of which was read.
#[derive(Debug)]
pub(super) struct Begun {
    read: VecDeque<Bytes>,
    rest: Incoming,
}

impl Begun {
    /// Reads the beginning of a body: at least so many bytes, if it has them.
    pub(super) async fn read(mut rest: Incoming, wanted: usize) -> Result<Self, hyper::Error> {
        let (mut read, mut bytes) = (VecDeque::new(), 0);
        while bytes < wanted
            && let Some(frame) = rest.frame().await
        {
            if let Ok(data) = frame?.into_data() {
                bytes += data.len();
                read.push_back(data);
            }
        }
        Ok(Self { read, rest })
    }

    /// So many bytes of what was read.
    pub(super) fn beginning(&self, most: usize) -> Vec<u8> {
        self.read.iter().flatten().take(most).copied().collect()
    }
}

impl Body for Begun {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match this.read.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.iter().map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read);
        }
        hint
    }
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
