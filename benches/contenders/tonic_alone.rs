//! gRPC alone: a server that streams the messages that the service would send, made beforehand, and does nothing
//! else. What a turn of the service takes beyond this and the floor is the service's own.

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader},
    pin::Pin,
    process::{Child, Stdio},
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use session_pool::{
    internals::{
        rpc::{decode::Payload, encode},
        turn::event::{Class, Event},
    },
    proto::{self, QueryRequest, QueryResponse, query_response::Item},
};
use tokio::{net::TcpListener, time::Instant};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, ServerStreamingService},
    transport::{Channel, Server},
};

use super::{
    caller::open,
    protocol::{self, Answer, Command, Driver, Hello, Outcome, Turn, at_once},
};

/// Messages of a turn that says a word.
const ORDINARY: usize = 8;
const DIGITS: &str = "@@@@@@@@@@@@";

pub async fn drive() -> Outcome<()> {
    let mut server = std::process::Command::new(std::env::current_exe()?)
        .arg("tonic-server")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    let output = server.stdout.take().ok_or("piped")?;
    BufReader::new(output).read_line(&mut address)?;
    let channel = Channel::from_shared(address.trim().to_owned())?.connect().await?;
    let hello = Hello {
        version: "0.14".to_owned(),
        pid: server.id(),
        ready: 0.0,
        can: &["open", "turns", "close"],
    };
    protocol::serve(hello, Alone { server, channel }).await
}

struct Alone {
    server: Child,
    channel: Channel,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

impl Driver for Alone {
    async fn carry_out(&mut self, command: Command) -> Outcome<Answer> {
        let began = Instant::now();
        let count = match command.what.as_str() {
            "open" => 1,
            "turns" => command.count,
            "close" => return Ok(Answer::after(began.elapsed())),
            other => return Err(format!("cannot {other}").into()),
        };
        let payload =
            if command.payload == "json" { proto::Payload::Json } else { proto::Payload::Typed };
        let request = QueryRequest {
            prompt: command.prompt.clone(),
            payload: payload.into(),
            ..QueryRequest::default()
        };
        let requests = vec![request; command.sessions.len()];
        let channel = self.channel.clone();
        let turns = at_once(requests, count, move |request| turn(channel.clone(), request)).await?;
        Ok(Answer::of_turns(turns, began.elapsed()))
    }
}

async fn turn(channel: Channel, request: QueryRequest) -> Outcome<Turn> {
    let began = Instant::now();
    let mut stream = open(&channel, request).await?;
    let (mut first, mut messages) = (None, 0);
    while stream.message().await?.is_some() {
        first.get_or_insert_with(|| began.elapsed());
        messages += 1;
    }
    Ok(Turn { first: first.unwrap_or_default(), whole: began.elapsed(), messages })
}

/// The server, until it is killed.
pub async fn serve() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        let stream = stream?;
        stream.set_nodelay(true)?;
        std::io::Result::Ok(stream)
    });
    Ok(Server::builder().add_service(Bare).serve_with_incoming(incoming).await?)
}

/// The messages of one turn: one, and how often it is sent.
fn messages(request: &QueryRequest) -> (Bytes, usize) {
    let script = request.prompt.strip_prefix("#!fake\n").unwrap_or_default();
    let mut words = script.splitn(3, ' ');
    let (name, count) = (words.next().unwrap_or_default(), words.next());
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(ORDINARY);
    let rest = words.next().unwrap_or("1");
    let (class, line) = match name {
        "repeat" => (Class::Assistant, rest.replace(DIGITS, "000000000001")),
        "partial" => (Class::StreamEvent, delta(rest.parse().unwrap_or(1))),
        _ => (Class::Assistant, said(rest.parse().unwrap_or(1))),
    };
    let is_json = request.payload() == proto::Payload::Json;
    let payload = if is_json { Payload::Json } else { Payload::Typed };
    let event = encode::event(2, &Event::Frame(class, line.into()), payload);
    let response = QueryResponse { item: Some(Item::Event(Box::new(event))) };
    (response.encode_to_vec().into(), count)
}

fn said(size: usize) -> String {
    let text = "x".repeat(size);
    serde_json::json!({"type": "assistant", "message": {"role": "assistant", "model": "fake",
        "content": [{"type": "text", "text": text}]}, "session_id": uuid::Uuid::nil().to_string(),
        "uuid": uuid::Uuid::nil().to_string()})
    .to_string()
}

fn delta(size: usize) -> String {
    let delta = serde_json::json!({"type": "text_delta", "text": "x".repeat(size)});
    serde_json::json!({"type": "stream_event",
        "event": {"index": 0, "delta": delta, "type": "content_block_delta"},
        "session_id": uuid::Uuid::nil().to_string(), "parent_tool_use_id": null, "uuid": uuid::Uuid::nil().to_string(),
        "api_message_id": "msg_fake"})
    .to_string()
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
type Answered<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The service's one method that matters here.
#[derive(Clone)]
struct Bare;

impl NamedService for Bare {
    const NAME: &'static str = proto::session_pool_service_server::SERVICE_NAME;
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Bare {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answered<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(Ready).server_streaming(Bare, request).await) })
    }
}

impl ServerStreamingService<QueryRequest> for Bare {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answered<Result<tonic::Response<Messages>, Status>>;

    fn call(&mut self, request: tonic::Request<QueryRequest>) -> Self::Future {
        let (message, count) = messages(request.get_ref());
        let messages = tokio_stream::iter((0..count).map(move |_| Ok(message.clone())));
        Box::pin(async move { Ok(tonic::Response::new(Box::pin(messages) as Messages)) })
    }
}

/// A codec of messages that are encoded already.
#[derive(Debug, Clone, Copy)]
struct Ready;

impl Codec for Ready {
    type Encode = Bytes;
    type Decode = QueryRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Ready {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Ready {
    type Item = QueryRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<QueryRequest>, Status> {
        let request = QueryRequest::decode(buffer);
        request.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
