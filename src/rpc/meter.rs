//! Claims memory for the bodies of requests before they are in memory: a message says its
//! length first. What is claimed stays claimed until the request is dealt with; a Query
//! takes it along until the CLI has read its prompt. Where messages come one after the other, as
//! much stays claimed as the largest needs. Knows how gRPC frames messages, and nothing of what
//! is in them.
//!
//! Behind the authentication layer: only callers who are known hold memory.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use prost::bytes::Bytes;
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;

use super::status::of_failure;
use crate::{access::Identity, budget::Reservation, domain::ids::TenantId, pool::SessionPool};

/// A message begins with a flag and its length.
const PREFIX: usize = 5;
/// A body is there twice while it is decoded: as it came, and taken apart.
const COPIES: u64 = 2;

/// Puts a [`Meter`] before services.
#[derive(Debug, Clone)]
pub struct MeterLayer {
    /// Whose memory budget it is.
    pub pool: SessionPool,
    /// Bytes of the largest message that the decoder takes. One that says it is larger is
    /// refused by the decoder, which reads nothing of it: nothing is claimed for it, or its
    /// caller would be told that there is room for it later.
    pub largest: u64,
}

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Meter { layer: self.clone(), inner }
    }
}

/// Has the bodies of requests claimed, with the claim among the request's extensions.
#[derive(Debug, Clone)]
pub struct Meter<S> {
    layer: MeterLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for Meter<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        let Some(identity) = request.extensions().get::<Identity>() else {
            return self.inner.call(request);
        };
        let claim = Claim::default();
        let MeterLayer { pool, largest } = self.layer.clone();
        let tenant = identity.tenant.clone();
        request.extensions_mut().insert(claim.clone());
        let prefix = Prefix::default();
        let metered = |body| Body::new(MeteredBody { pool, largest, tenant, claim, prefix, body });
        self.inner.call(request.map(metered))
    }
}

/// What is claimed for a request's body.
#[derive(Debug, Clone, Default)]
pub struct Claim(Arc<Mutex<Option<Reservation>>>);

impl Claim {
    /// Takes the claim out of the request, now that its body is decoded and there once.
    pub fn take(&self) -> Option<Reservation> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        held.set(held.bytes() / COPIES);
        Some(held)
    }

    /// Claims what the largest message needs: the one before was dealt with.
    fn cover(&self, pool: &SessionPool, tenant: &TenantId, bytes: u64) -> Result<(), Status> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|held| held.bytes() >= bytes) {
            return Ok(());
        }
        pool.claim_memory(tenant, &mut held, bytes).map_err(|failure| of_failure(&failure))
    }
}

/// Where a body stands among its messages, which come in pieces of any length.
#[derive(Debug, Default)]
struct Prefix {
    seen: [u8; PREFIX],
    count: usize,
    /// Bytes of the message that are still to come.
    left: u64,
}

impl Prefix {
    /// Takes a piece of the body; returns the length of the largest message that is known to
    /// begin in it.
    fn take(&mut self, mut piece: &[u8]) -> Option<u64> {
        let mut largest = None;
        while !piece.is_empty() {
            let passed = piece.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= passed as u64;
            piece = &piece[passed..];
            let taken = piece.len().min(PREFIX - self.count);
            self.seen[self.count..self.count + taken].copy_from_slice(&piece[..taken]);
            self.count += taken;
            piece = &piece[taken..];
            if self.count == PREFIX {
                let [_, a, b, c, d] = self.seen;
                self.left = u32::from_be_bytes([a, b, c, d]).into();
                self.count = 0;
                largest = largest.max(Some(self.left));
            }
        }
        largest
    }
}

/// A body for whose messages memory is claimed as soon as its length is known. Whether the
/// message may be that long is for the decoder to say.
struct MeteredBody {
    pool: SessionPool,
    largest: u64,
    tenant: TenantId,
    claim: Claim,
    prefix: Prefix,
    body: Body,
}

impl http_body::Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        if let Some(length) = frame.data_ref().and_then(|piece| this.prefix.take(piece))
            && length <= this.largest
            && let Err(refused) = this.claim.cover(&this.pool, &this.tenant, length * COPIES)
        {
            return Poll::Ready(Some(Err(refused)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(message: &[u8], cut: usize) -> Vec<u64> {
        let mut prefix = Prefix::default();
        [&message[..cut], &message[cut..]].iter().filter_map(|piece| prefix.take(piece)).collect()
    }

    #[test]
    fn c7_the_length_of_a_message_is_known_however_it_is_cut() {
        let message = [0, 0, 0x10, 0, 2, b'x', b'y'];
        for cut in 0..message.len() {
            assert_eq!(lengths(&message, cut), [0x10_0002], "cut at {cut}");
        }
    }

    #[test]
    fn messages_that_follow_each_other_are_told_apart() {
        let messages = [0, 0, 0, 0, 2, b'x', b'y', 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 9];
        for cut in 0..messages.len() {
            let lengths = lengths(&messages, cut);
            assert_eq!(lengths.iter().max(), Some(&3), "cut at {cut}: {lengths:?}");
        }
        assert_eq!(lengths(&messages, 7), [2, 3]);
    }
}
