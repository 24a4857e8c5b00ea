//! The client: kept connections of HTTP/1.1, straight to the upstream or to the gateway.

use std::net::SocketAddr;

use http::{
    Request, Response,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use super::{Outcome, bodies::Repeated, upstream::WANTED};

/// Where requests go, and what they show there.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where a connection goes.
    pub address: SocketAddr,
    /// In the place of an API key.
    pub token: String,
}

/// A connection, for one request after the other.
pub struct Line {
    way: Way,
    sender: SendRequest<Repeated>,
    /// Drives the connection as long as this is there.
    _connection: JoinSet<()>,
}

impl Line {
    /// Connects.
    pub async fn connect(way: &Way) -> Outcome<Self> {
        let stream = TcpStream::connect(way.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driven = JoinSet::new();
        driven.spawn(async { drop(connection.await) });
        Ok(Self { way: way.clone(), sender, _connection: driven })
    }

    /// Sends a request, and returns when the head of its answer is there.
    pub async fn ask(&mut self, wanted: &str, body: Repeated) -> Outcome<Response<Incoming>> {
        let request = Request::post("/v1/messages")
            .header(HOST, self.way.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .header("anthropic-version", "2023-06-01")
            .header("x-api-key", &self.way.token)
            .header(WANTED, wanted)
            .body(body)?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        if !response.status().is_success() {
            let status = response.status();
            let told = response.into_body().collect().await?.to_bytes();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&told)).into());
        }
        Ok(response)
    }

    /// The same to the answer's end; how many bytes it had.
    pub async fn whole(&mut self, wanted: &str, body: Repeated) -> Outcome<usize> {
        let mut answer = self.ask(wanted, body).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = answer.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len());
        }
        Ok(bytes)
    }
}
