//! An owner that is none: it answers as a test says, and shows what came to it.

use std::{convert::Infallible, future::Future, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use session_pool::internals::tasks::spawn_owned;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// The owner. It is gone when it is dropped.
pub struct StandIn {
    pub address: String,
    /// Cut: every connection ends without a word.
    cut: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut.cancel();
    }
}

impl StandIn {
    /// Answers each call with what `answer` makes of it.
    pub async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let (answer, cut) = (Arc::new(answer), CancellationToken::new());
        let cutting = cut.clone();
        let accepting = spawn_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (answer, cut) = (Arc::clone(&answer), cutting.clone());
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                drop(spawn_owned(async move {
                    let connection = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = cut.cancelled() => {}
                    }
                }));
            }
        });
        Self { address, cut, accepting }
    }

    /// Ends all connections, as when the node is killed.
    pub fn die(&self) {
        self.accepting.abort();
        self.cut.cancel();
    }
}

/// An answer of these pieces and these trailers.
pub fn answer(
    pieces: impl Stream<Item = Bytes> + Send + Sync + 'static,
    trailers: &[(&str, &str)],
) -> Answer {
    let mut map = HeaderMap::new();
    for (key, value) in trailers {
        let key: http::HeaderName = key.parse().expect("a name");
        map.append(key, value.parse().expect("a value"));
    }
    let data = tokio_stream::StreamExt::map(pieces, |piece| Ok(Frame::data(piece)));
    let all = tokio_stream::StreamExt::chain(data, tokio_stream::once(Ok(Frame::trailers(map))));
    let mut response = Response::new(StreamBody::new(all).boxed());
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    response
}

/// A message as gRPC frames it.
pub fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}
