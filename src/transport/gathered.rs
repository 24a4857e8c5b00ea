//! What is written to a connection, gathered. The HTTP library writes every frame by itself and
//! flushes behind it, and a frame has 16 kB at most unless the peer allows more: a stream that is
//! busy would cost a system call and a wake-up of the peer for each. Frames are kept here as
//! long as the library has more of them, within a bound, and sent by whoever polls it when it
//! returns ([`Outgoing::poll_send`]). So nothing waits for what comes later.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are sent at once.
const MOST: usize = 64 * 1024;
/// Room that a connection keeps which has little to send.
const KEPT: usize = 1024;

/// A stream whose frames are gathered. It is flushed and shut down as any other, but that a flush
/// is for [`Outgoing`] to do.
#[derive(Debug)]
pub(super) struct Gathered<T>(Arc<Mutex<Inner<T>>>);

/// What a connection has to send.
#[derive(Debug)]
pub(super) struct Outgoing<T>(Arc<Mutex<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    stream: T,
    frames: Vec<u8>,
    /// How much of them has been sent.
    sent: usize,
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// The stream, and what sends what is written to it.
    pub fn new(stream: T) -> (Self, Outgoing<T>) {
        let inner = Arc::new(Mutex::new(Inner { stream, frames: Vec::new(), sent: 0 }));
        (Self(Arc::clone(&inner)), Outgoing(inner))
    }
}

impl<T: AsyncWrite + Unpin> Outgoing<T> {
    /// Sends what has been written.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_send(cx)
    }
}

/// Both ends belong to one task: nobody ever waits here.
fn lock<T>(inner: &Mutex<Inner<T>>) -> MutexGuard<'_, Inner<T>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frames.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.frames.len() {
            let rest = &self.frames[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let few = self.sent <= KEPT;
        self.sent = 0;
        self.frames.clear();
        if few {
            self.frames.shrink_to(KEPT);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much as there is room for.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.frames.len() >= MOST {
            ready!(self.poll_send(cx))?;
        }
        let before = self.frames.len();
        for slice in slices {
            let room = MOST.saturating_sub(self.frames.len());
            self.frames.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        Poll::Ready(Ok(self.frames.len() - before))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_in_order_when_it_is_sent_and_not_before() {
        let (here, mut peer) = tokio::io::duplex(1 << 20);
        let (mut gathered, outgoing) = Gathered::new(here);
        for part in [&b"one "[..], b"two ", b"three"] {
            gathered.write_all(part).await.expect("room");
            gathered.flush().await.expect("nothing to wait for");
        }
        let mut told = [0; 13];
        assert!(read_now(&mut peer, &mut told).is_pending(), "nothing was sent yet");
        poll_fn(|cx| outgoing.poll_send(cx)).await.expect("sent");
        peer.read_exact(&mut told).await.expect("there");
        assert_eq!(&told, b"one two three");
    }

    fn read_now(peer: &mut tokio::io::DuplexStream, into: &mut [u8]) -> Poll<()> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(peer).poll_read(&mut cx, &mut ReadBuf::new(into)).map(drop)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_up_the_writer_within_the_bound() {
        let (here, mut peer) = tokio::io::duplex(1000);
        let (mut gathered, outgoing) = Gathered::new(here);
        let all: Vec<u8> = (0..3 * MOST).map(|n| (n % 251) as u8).collect();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut taken = 0;
        while let Poll::Ready(count) = Pin::new(&mut gathered).poll_write(&mut cx, &all[taken..]) {
            taken += count.expect("room");
        }
        assert_eq!(taken, MOST, "no more than is sent at once");
        let reader = async {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).await.expect("all of it");
            got
        };
        let writer = async {
            gathered.write_all(&all[taken..]).await.expect("taken");
            gathered.shutdown().await.expect("shut down");
            drop((gathered, outgoing));
        };
        let (got, ()) = tokio::join!(reader, writer);
        assert!(got == all, "shutting down sends what is left, in order");
    }

    #[tokio::test]
    async fn a_connection_that_has_little_to_send_keeps_little_room() {
        let (here, mut peer) = tokio::io::duplex(1 << 20);
        let (mut gathered, outgoing) = Gathered::new(here);
        for size in [MOST, 100] {
            gathered.write_all(&vec![b'x'; size]).await.expect("room");
            poll_fn(|cx| outgoing.poll_send(cx)).await.expect("sent");
        }
        assert!(lock(&outgoing.0).frames.capacity() <= KEPT);
        let mut all = vec![0; MOST + 100];
        peer.read_exact(&mut all).await.expect("there");
    }
}
