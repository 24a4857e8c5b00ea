//! An API for the tests of the gateway.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::mpsc};

use crate::tasks::spawn_owned;

/// What the API of these tests has seen of a request.
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: usize,
}

/// An API that answers with what it is sent, in pieces.
#[derive(Clone)]
pub struct Api {
    pub pieces: Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>,
    pub seen: mpsc::Sender<Seen>,
    pub status: StatusCode,
}

impl Api {
    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (parts, mut body) = request.into_parts();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        let path = parts.uri.path_and_query().expect("a path").to_string();
        let seen = Seen { method: parts.method, path, headers: parts.headers, body: bytes };
        self.seen.send(seen).await.expect("somebody looks");
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).take();
        let body = match pieces {
            Some(pieces) => Pieces(pieces).boxed_unsync(),
            None => Full::new(Bytes::from_static(EVENTS.as_bytes())).boxed_unsync(),
        };
        Response::builder()
            .status(self.status)
            .header("content-type", "text/event-stream; charset=utf-8")
            .header("request-id", "req_1")
            .header("connection", "x-of-connection")
            .header("x-of-connection", "1")
            .body(body)
            .expect("a response")
    }
}

pub const EVENTS: &str = concat!(
    "event: message_start\n",
    "data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-haiku-4-5\",\"usage\":{\"input_tokens\":1000000,\"output_tokens\":1}}}\n\n",
    "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1000000}}\n\n",
);

/// What EVENTS cost: a million tokens read for one dollar, and a million written for five.
pub const COST: f64 = 6.0;

struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(hyper::body::Frame::data(piece))))
    }
}

/// Serves the API; returns where, and the file of its authority if it has one.
pub async fn serve_api(api: Api, speaks: Speaks, folder: &Path) -> (SocketAddr, Option<PathBuf>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = socket.local_addr().expect("an address");
    let (tls, ca) = match speaks {
        Speaks::Tls => {
            let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("made");
            let file = folder.join("ca.pem");
            std::fs::write(&file, made.cert.pem()).expect("written");
            let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.expect("a key"))
                .expect("a certificate");
            config.alpn_protocols = vec![b"h2".to_vec()];
            (Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))), Some(file))
        }
        Speaks::Http1 | Speaks::Http2 => (None, None),
    };
    drop(spawn_owned(async move {
        loop {
            let (stream, _) = socket.accept().await.expect("accepted");
            let (api, tls) = (api.clone(), tls.clone());
            drop(spawn_owned(async move {
                let service = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                let two = || http2::Builder::new(TokioExecutor::new());
                match (tls, speaks) {
                    (Some(tls), _) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        two().serve_connection(TokioIo::new(stream), service).await.ok();
                    }
                    (None, Speaks::Http2) => {
                        two().serve_connection(TokioIo::new(stream), service).await.ok();
                    }
                    (None, _) => {
                        let mut one = http1::Builder::new();
                        one.timer(TokioTimer::new());
                        one.serve_connection(TokioIo::new(stream), service).await.ok();
                    }
                }
            }));
        }
    }));
    (address, ca)
}

/// What the API speaks.
#[derive(Clone, Copy, PartialEq)]
pub enum Speaks {
    Http1,
    Http2,
    Tls,
}
