//! What is read from a connection, before the HTTP library sees it. Notices when a client
//! has said what every HTTP/2 connection begins with: the preface and a whole SETTINGS
//! frame, for which the library waits without a bound. Gives the library a peer's bytes in
//! portions: it reads on as long as there are any, and looks at one call in between.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
const PREFACE: usize = 24;
/// The head of a frame, which begins with the length of its payload in three bytes.
const FRAME_HEAD: usize = 9;

/// Bytes that are read before all calls in them are looked at.
pub(super) const PORTION: usize = 64 * 1024;

/// What may still be read of the portion.
#[derive(Debug, Clone)]
pub(super) struct Portion(Arc<AtomicUsize>);

impl Portion {
    /// Begins the next one: all calls in the one before have been looked at.
    pub fn begin(&self) {
        self.0.store(PORTION, Ordering::Relaxed);
    }
}

/// A stream that tells when the greeting has been read from it.
#[derive(Debug)]
pub(super) struct Greeted<T> {
    stream: T,
    /// What has been read so far, up to the head of the first frame.
    head: Vec<u8>,
    read: usize,
    told: Option<oneshot::Sender<()>>,
    /// Nothing is read any more once this is cancelled, however much there is.
    cut: CancellationToken,
    portion: Portion,
}

impl<T> Greeted<T> {
    /// The stream, and what resolves once the greeting is complete.
    pub fn new(stream: T, cut: CancellationToken) -> (Self, oneshot::Receiver<()>) {
        let (told, greeted) = oneshot::channel();
        let (told, portion) = (Some(told), Portion(Arc::new(AtomicUsize::new(PORTION))));
        (Self { stream, head: Vec::new(), read: 0, told, cut, portion }, greeted)
    }

    /// What bounds how much is read at once.
    pub fn portion(&self) -> Portion {
        self.portion.clone()
    }

    fn note(&mut self, bytes: &[u8]) {
        if self.told.is_none() {
            return;
        }
        let missing = (PREFACE + FRAME_HEAD).saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        self.read = self.read.saturating_add(bytes.len());
        if let Some([high, middle, low]) = self.head.get(PREFACE..PREFACE + 3)
            && self.head.len() == PREFACE + FRAME_HEAD
        {
            let payload = u32::from_be_bytes([0, *high, *middle, *low]);
            let whole = usize::try_from(payload).unwrap_or(usize::MAX);
            if self.read - self.head.len() >= whole {
                // Nobody waits for it on a connection that ends.
                self.told.take().map(|told| told.send(()).ok());
                self.head = Vec::new();
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let left = self.portion.0.load(Ordering::Relaxed);
        if left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.portion.0.store(left.saturating_sub(read), Ordering::Relaxed);
        self.note(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_greeting_is_complete_with_the_last_byte_of_its_settings_however_it_is_cut() {
        let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        greeting.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]);
        for cut in [1, 2, 7, 23, 24, 25, 33, 38, 39] {
            let (mut stream, mut greeted) = Greeted::new(&greeting[..], CancellationToken::new());
            let mut read = 0;
            while read < greeting.len() {
                assert!(greeted.try_recv().is_err(), "not yet: {read} of {cut}");
                let mut piece = vec![0; cut.min(greeting.len() - read)];
                read += stream.read_exact(&mut piece).await.expect("there");
            }
            assert!(greeted.try_recv().is_ok(), "pieces of {cut}");
        }
    }

    #[tokio::test]
    async fn c4_a_flood_comes_in_portions_and_ends_when_the_connection_is_cut() {
        let flood = vec![0; 4 * PORTION];
        let cut = CancellationToken::new();
        let (mut stream, _greeted) = Greeted::new(&flood[..], cut.clone());
        let portion = stream.portion();
        let mut pauses = 0;
        let mut read = 0;
        while read < flood.len() {
            let mut space = [0; 8192];
            let mut buffer = ReadBuf::new(&mut space);
            let polled = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut stream).poll_read(cx, &mut buffer))
            });
            match polled.await {
                Poll::Ready(outcome) => outcome.expect("read"),
                Poll::Pending => {
                    pauses += 1;
                    portion.begin();
                }
            }
            read += buffer.filled().len();
        }
        assert_eq!(pauses, 3);
        portion.begin();
        cut.cancel();
        let mut one = [0];
        let error = stream.read(&mut one).await.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
