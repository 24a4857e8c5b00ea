//! A copy of a request, for as long as it is not known whether it is served here: where the session
//! turns out to be another node's the moment it is asked for, nothing has been done yet, and the call
//! goes there. Pieces are shared with the original, and none is kept of a request that is long.

use std::{
    collections::VecDeque,
    convert::Infallible,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

/// Bytes of a request of which a copy is kept.
const MOST: usize = 64 * 1024;

/// What has come of a body.
#[derive(Debug)]
enum Seen {
    /// So much, and more may come.
    Some(Vec<Bytes>, usize),
    All(Vec<Bytes>),
    /// It was too long, or did not come to its end.
    Lost,
}

/// The copy of a request.
#[derive(Debug)]
pub struct Copied {
    parts: Parts,
    seen: Arc<Mutex<Seen>>,
}

/// Returns a request as it is, and its copy.
pub fn copied(request: Request<Body>) -> (Request<Body>, Copied) {
    let (parts, body) = request.into_parts();
    let seen = Arc::new(Mutex::new(Seen::Some(Vec::new(), 0)));
    let body = Body::new(Copying { body, seen: Arc::clone(&seen) });
    let copied = Copied { parts: parts.clone(), seen };
    (Request::from_parts(parts, body), copied)
}

impl Copied {
    /// The request once more; `None` if not all of it was seen, or kept.
    pub fn again(self) -> Option<Request<Body>> {
        let seen = mem::replace(&mut *lock(&self.seen), Seen::Lost);
        let Seen::All(pieces) = seen else { return None };
        Some(Request::from_parts(self.parts, Body::new(Pieces(pieces.into()))))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that is there as a whole.
struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A body of which what passes is kept.
struct Copying {
    body: Body,
    seen: Arc<Mutex<Seen>>,
}

impl Copying {
    fn note(&self, frame: Option<&Result<Frame<Bytes>, Status>>) {
        let mut seen = lock(&self.seen);
        let Seen::Some(pieces, bytes) = &mut *seen else { return };
        let (mut pieces, bytes) = (mem::take(pieces), *bytes);
        *seen = match frame {
            None => Seen::All(pieces),
            Some(Err(_)) => Seen::Lost,
            Some(Ok(frame)) => match frame.data_ref() {
                Some(piece) if bytes + piece.len() <= MOST => {
                    pieces.push(piece.clone());
                    Seen::Some(pieces, bytes + piece.len())
                }
                Some(_) => Seen::Lost,
                // Requests have no trailers; the edge lets none through.
                None => Seen::Some(pieces, bytes),
            },
        };
    }
}

impl http_body::Body for Copying {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.note(frame.as_ref());
        if frame.is_some() && self.body.is_end_stream() {
            // Nobody may ask for more.
            self.note(None);
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn request(pieces: &[&'static [u8]]) -> Request<Body> {
        let pieces = pieces.iter().map(|it| Bytes::from_static(it)).collect();
        let body = Body::new(Pieces(pieces));
        let request = Request::builder().uri("/path").header("x-own", "1").body(body);
        request.expect("a request")
    }

    async fn bytes(request: Request<Body>) -> Bytes {
        request.into_body().collect().await.expect("a body").to_bytes()
    }

    #[tokio::test]
    async fn what_was_read_to_its_end_can_be_sent_once_more() {
        let (original, copy) = copied(request(&[b"one", b"two"]));
        assert_eq!(bytes(original).await, "onetwo");
        let again = copy.again().expect("all of it");
        assert_eq!(
            (again.uri().path(), &again.headers()["x-own"]),
            ("/path", &"1".parse().expect("a value"))
        );
        assert_eq!(bytes(again).await, "onetwo");
    }

    #[tokio::test]
    async fn what_is_long_or_was_not_read_is_not_kept() {
        const LONG: &[u8] = &[0; MOST];
        let (original, copy) = copied(request(&[LONG]));
        bytes(original).await;
        assert!(copy.again().is_some());
        let (original, copy) = copied(request(&[LONG, b"x"]));
        bytes(original).await;
        assert!(copy.again().is_none());
        let (original, copy) = copied(request(&[b"one", b"two"]));
        drop(original);
        assert!(copy.again().is_none());
    }
}
