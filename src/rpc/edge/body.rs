//! Bodies on their way in, which have to arrive in time, and on their way out, which may
//! have to give way and whose trailers are bounded.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body};

use super::{HealthCall, bound_trailers, message_late};

/// The body of a request.
#[derive(Debug)]
pub struct Received<B> {
    body: B,
    /// Until when it has to be there, and how long that was.
    limit: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl<B> Received<B> {
    pub(super) fn new(body: B, limit: Option<Duration>) -> Self {
        Self { body, limit: limit.map(|limit| (Box::pin(sleep(limit)), limit)) }
    }
}

impl<B> http_body::Body for Received<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // Before the body: one that always has some more to say has to end, too.
        if let Some((late, limit)) = &mut self.limit
            && late.as_mut().poll(cx).is_ready()
        {
            let status = message_late(*limit);
            self.limit = None;
            return Poll::Ready(Some(Err(Box::new(status))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // A call has no trailers of its caller's: they would be taken for metadata that
        // nothing above has looked at.
        Poll::Ready(
            frame
                .filter(|frame| frame.as_ref().is_ok_and(Frame::is_data) || frame.is_err())
                .map(|frame| frame.map_err(Into::into)),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response.
#[derive(Debug)]
pub struct Sent {
    body: Body,
    given: Option<Given>,
    ended: bool,
}

/// What the call has been given, and may have to give back.
#[derive(Debug)]
struct Given {
    _call: HealthCall,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Sent {
    pub(super) fn new(body: Body, call: Option<HealthCall>) -> Self {
        let given = call.map(|call| {
            let revoked = Box::pin(call.revoked().clone().cancelled_owned());
            Given { _call: call, revoked }
        });
        Self { body, given, ended: false }
    }
}

/// The status of a health check that gives way to a newer one.
pub(super) fn revoked() -> Status {
    Status::resource_exhausted("too many health checks at once (server.limits.max_health_calls)")
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(given) = &mut self.given
            && given.revoked.as_mut().poll(cx).is_ready()
        {
            (self.ended, self.given, self.body) = (true, None, Body::empty());
            let mut trailers = HeaderMap::new();
            return Poll::Ready(
                revoked().add_header(&mut trailers).is_ok().then(|| Ok(Frame::trailers(trailers))),
            );
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    bound_trailers(trailers);
                }
                frame
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;
    use crate::transport::slots::Slots;

    #[tokio::test(start_paused = true)]
    async fn c3_a_request_that_drips_is_ended_and_so_is_one_that_says_nothing() {
        for pause in [Duration::from_secs(1), Duration::from_secs(3600)] {
            let drip = tokio_stream::StreamExt::throttle(
                tokio_stream::iter(
                    (0..10_000)
                        .map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x")))),
                ),
                pause,
            );
            let body = StreamBody::new(Box::pin(drip));
            let before = Instant::now();
            let received = Received::new(body, Some(Duration::from_secs(60)));
            let error = received.collect().await.expect_err("too late");
            assert_eq!(before.elapsed().as_secs(), 60);
            let status = error.downcast::<Status>().expect("a status");
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert!(status.message().contains("server.limits.body_timeout"));
        }
    }

    #[tokio::test]
    async fn c3_a_watcher_that_gives_way_is_told_so_in_its_trailers() {
        let slots = Slots::new(1, Duration::ZERO);
        let endless = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>());
        let sent = Sent::new(
            Body::new(endless),
            Some(HealthCall { slot: slots.take_now(None).0, _counted: None }),
        );
        let (next, revoked) = slots.take_now(None);
        assert!(revoked.is_some() && slots.taken() == 2);
        let collected = sent.collect().await.expect("ended");
        let status = Status::from_header_map(collected.trailers().expect("some")).expect("one");
        assert_eq!(status.code(), Code::ResourceExhausted);
        drop(next);
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test]
    async fn c1_trailers_of_an_ended_stream_are_bounded() {
        let mut trailers = HeaderMap::new();
        Status::internal("é".repeat(10_000)).add_header(&mut trailers).expect("sendable");
        let frame = Ok::<_, Status>(Frame::trailers(trailers));
        let body = Body::new(StreamBody::new(tokio_stream::once(frame)));
        let collected = Sent::new(body, None).collect().await.expect("ended");
        let size: usize = collected
            .trailers()
            .expect("some")
            .iter()
            .map(|(k, v)| k.as_str().len() + v.len())
            .sum();
        assert!(size < 8192, "{size}");
    }
}
