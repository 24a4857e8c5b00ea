//! HTTP/2 frame by frame, for clients that no library would make.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;
pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header list, each entry written out.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a length of one byte");
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The headers of a call.
pub fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    block(&[&own, more].concat())
}

/// A message as gRPC frames it.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&[0], &length[..], bytes].concat()
}

/// A connection on which nothing is sent unasked.
pub struct Raw<T = TcpStream> {
    pub stream: T,
}

impl Raw {
    /// Connects and greets.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut raw = Self { stream: TcpStream::connect(address).await.expect("connected") };
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        raw
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Raw<T> {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("written");
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = timeout(crate::support::PATIENCE, self.stream.read_exact(&mut head)).await;
        read.expect("in time").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; usize::try_from(length).expect("short")];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// All frames up to the end of a stream. Answers pings and settings, and lets the
    /// service send on.
    pub async fn until_end_of(&mut self, stream: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let next = self.next().await.unwrap_or_else(|| panic!("closed after {frames:?}"));
            match (next.kind, next.flags & ACK) {
                (SETTINGS, 0) => self.send(&frame(SETTINGS, ACK, 0, &[])).await,
                (PING, 0) => self.send(&frame(PING, ACK, 0, &next.payload)).await,
                _ => {}
            }
            let ended = matches!(next.kind, DATA | HEADERS) && next.flags & END_STREAM != 0
                || next.kind == RST_STREAM;
            let is_last = next.stream == stream && ended;
            frames.push(next);
            if is_last {
                return frames;
            }
        }
    }

    /// Reads until the service closes the connection; fails if it does not.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = timeout(crate::support::PATIENCE, self.stream.read_to_end(&mut rest)).await;
        // A reset is an end, too.
        read.expect("the connection is closed").ok();
        rest
    }
}
