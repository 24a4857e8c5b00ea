//! What stands in the API's place: this program once more, which answers each request as one of its headers says.

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Outcome,
    bodies::{Paced, Repeated, delta},
};

/// The argument by which this program is the upstream.
pub const ARGUMENT: &str = "upstream";
/// The header that says what is answered.
pub const WANTED: &str = "x-bench";
/// A short stream.
pub const SHORT: &str = "short";
/// A stream at the pace of a model. Behind it, after a space, stands in how many microseconds its first event comes.
pub const PACED: &str = "paced";
/// A stream of [`LARGE_BYTES`], as fast as it goes.
pub const LARGE: &str = "large";

/// Bytes of a large answer, and of a large request.
pub const LARGE_BYTES: usize = 100_000_000;
/// Bytes of it that are handed on at once, about.
pub const PIECE: usize = 64 << 10;
/// Events of a stream at a model's pace: four seconds.
pub const EVENTS: usize = 400;

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// The upstream, as a process of its own.
pub struct Upstream {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Upstream {
    /// Starts it, and waits until it listens.
    pub fn start() -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().ok_or("piped")?).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().parse()? })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Serves until its standard input ends: with the program that started it, however that ends.
pub async fn serve() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        std::process::exit(0);
    });
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        connections.spawn(async { drop(connection.await) });
    }
}

/// Reads a request to its end and answers it.
async fn answer(request: Request<Incoming>) -> Outcome<Response<AnyBody>> {
    let (head, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        drop(frame?);
    }
    let wanted = head.headers.get(WANTED).ok_or("a request that says nothing")?.to_str()?;
    let body = match wanted.split_once(' ').unwrap_or((wanted, "")) {
        (SHORT, _) => short(),
        (PACED, first) => Paced::new(EVENTS, Duration::from_micros(first.parse()?)).boxed_unsync(),
        (LARGE, _) => Repeated::new(piece(), LARGE_BYTES).boxed_unsync(),
        (other, _) => return Err(format!("no such answer: {other}").into()),
    };
    Ok(Response::builder().header(CONTENT_TYPE, "text/event-stream").body(body)?)
}

/// A message of some words: about 1 kB.
fn short() -> AnyBody {
    let event =
        |name: &str, rest: &str| format!("event: {name}\ndata: {{\"type\":\"{name}\"{rest}}}\n\n");
    let start = "\"message\":{\"id\":\"msg_bench\",\"type\":\"message\",\"role\":\"assistant\",\
         \"model\":\"claude-bench\",\"content\":[],\"usage\":{\"input_tokens\":500,\"output_tokens\":1}}";
    let block = ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}";
    let end = ",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":20}";
    let events = [
        event("message_start", &format!(",{start}")),
        event("content_block_start", block),
        delta("one "),
        event("content_block_stop", ",\"index\":0"),
        event("message_delta", end),
        event("message_stop", ""),
    ];
    let frames = events.map(|event| Ok(Frame::data(Bytes::from(event))));
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}

/// Whole events.
fn piece() -> Bytes {
    let event = delta("");
    event.repeat(PIECE / event.len()).into()
}
