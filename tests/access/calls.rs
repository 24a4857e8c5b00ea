//! Calls that are none, that mean two things, that never arrive, or that come in floods:
//! what callers without credentials can do.

use std::{net::SocketAddr, time::Duration};

use http::{Method, Request, StatusCode};
use session_pool::proto::{
    GetStatsRequest, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

use crate::{
    bed::{Bearer, Bed, knock, token},
    raw::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, Raw, SETTINGS, frame},
    support::{failure, log, service::Service},
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const STATS: &str = "/sessionpool.v1.SessionPoolService/GetStats";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn address_of(service: &Service) -> SocketAddr {
    service.address.trim_start_matches("http://").parse().expect("an address")
}

/// One call by an ordinary HTTP/2 client; the empty message is sent.
async fn ask(
    address: SocketAddr,
    method: Method,
    headers: &[(&str, &str)],
) -> (StatusCode, http::HeaderMap) {
    ask_with(address, method, headers, raw::message(&[])).await
}

/// The same, with this as the request's body.
async fn ask_with(
    address: SocketAddr,
    method: Method,
    headers: &[(&str, &str)],
    content: Vec<u8>,
) -> (StatusCode, http::HeaderMap) {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("greeted");
    let connection = session_pool::internals::tasks::spawn_owned(connection);
    let mut client = client.ready().await.expect("ready");
    let mut request = Request::builder().method(method).uri(format!("http://test{STATS}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, mut body) =
        client.send_request(request.body(()).expect("a request"), false).expect("sent");
    body.send_data(content.into(), true).ok();
    let response = timeout(Duration::from_secs(10), response).await.expect("in time");
    let (parts, mut body) = response.expect("answered").into_parts();
    while let Some(Ok(_)) = body.data().await {}
    let trailers = body.trailers().await.ok().flatten();
    connection.abort();
    (parts.status, trailers.unwrap_or(parts.headers))
}

fn code(headers: &http::HeaderMap) -> Code {
    Status::from_header_map(headers).expect("a status").code()
}

#[tokio::test]
async fn c9_what_is_no_grpc_call_is_refused_in_http() {
    let service = Service::start(|_| {}).await;
    let address = address_of(&service);
    let (status, headers) = ask(address, Method::POST, &[GRPC]).await;
    assert_eq!((status, code(&headers)), (StatusCode::OK, Code::Ok));
    for content in [&[][..], &[("content-type", "text/plain")], &[GRPC, GRPC]] {
        let (status, _) = ask(address, Method::POST, content).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content:?}");
    }
    for method in [Method::GET, Method::PUT, Method::OPTIONS] {
        let (status, headers) = ask(address, method, &[GRPC]).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers["allow"], "POST");
    }
    service.stop().await;
}

#[tokio::test]
async fn c9_credentials_that_are_sent_twice_let_nobody_in() {
    let (good, other) = (token("a", false, None), token("b", true, None));
    let bed = Bed::start(&[&good, &other]).await;
    let address = address_of(&bed.service);
    let [good, other] = [&good, &other].map(|token| format!("Bearer {}", token.secret));
    for pair in [[&good, &other], [&other, &good], [&good, &good]] {
        let headers = [GRPC, ("authorization", pair[0]), ("authorization", pair[1])];
        let (_, trailers) = ask(address, Method::POST, &headers).await;
        assert_eq!(code(&trailers), Code::Unauthenticated);
    }
    for key in ["session-id", "grpc-timeout"] {
        let headers = [GRPC, ("authorization", good.as_str()), (key, "9S"), (key, "9S")];
        let (_, trailers) = ask(address, Method::POST, &headers).await;
        assert_eq!(code(&trailers), Code::InvalidArgument, "{key}");
    }
    let (_, trailers) = ask(address, Method::POST, &[GRPC, ("authorization", &good)]).await;
    assert_eq!(code(&trailers), Code::Ok);
    bed.service.stop().await;
}

#[tokio::test]
async fn c5_a_deadline_that_cannot_be_read_is_refused() {
    let service = Service::start(|_| {}).await;
    for timeout in ["1x", "+5S", "-5S", "", "S", "123456789S"] {
        let headers = [GRPC, ("grpc-timeout", timeout)];
        let (_, trailers) = ask(address_of(&service), Method::POST, &headers).await;
        let status = Status::from_header_map(&trailers).expect("a status");
        let metadata = failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(metadata["field"], "metadata grpc-timeout");
        assert!(status.message().contains(&format!("{timeout:?}")), "{status:?}");
    }
    let (_, trailers) =
        ask(address_of(&service), Method::POST, &[GRPC, ("grpc-timeout", "5S")]).await;
    assert_eq!(code(&trailers), Code::Ok);
    service.stop().await;
}

#[tokio::test]
async fn c1_a_request_that_the_library_refuses_has_a_reason() {
    let service = Service::start(|_| {}).await;
    // No field; and a message of which only the length is sent.
    for message in [raw::message(&[0xFF; 9]), [&[0], &u32::MAX.to_be_bytes()[..]].concat()] {
        let (_, trailers) = ask_with(address_of(&service), Method::POST, &[GRPC], message).await;
        let status = Status::from_header_map(&trailers).expect("a status");
        let metadata = failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(metadata["field"], "request", "{status:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn c1_an_error_that_repeats_a_header_reaches_the_caller() {
    let service = Service::start(|_| {}).await;
    let long = "é".repeat(3000);
    let (_, trailers) =
        ask(address_of(&service), Method::POST, &[GRPC, ("grpc-encoding", &long[..4000])]).await;
    let size: usize =
        trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size < 8192, "{size}");
    assert_ne!(code(&trailers), Code::Ok);
    service.stop().await;
}

#[tokio::test]
async fn c9_a_flood_of_refused_calls_does_not_flood_the_log() {
    let good = token("a", false, None);
    let bed = Bed::start(&[&good]).await;
    let before = log::named("unauthenticated").len();
    let (connections, calls, headers) = (60, 50, raw::call(STATS, &[]));
    for _ in 0..connections {
        let mut raw = Raw::greeted(address_of(&bed.service)).await;
        for stream in (1..).step_by(2).take(calls) {
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers)).await;
        }
        raw.until_end_of(2 * u32::try_from(calls).expect("few") - 1).await;
    }
    let calls = connections * calls;
    let written = log::named("unauthenticated").len() - before;
    // The other tests of this program write some, too.
    assert!(written <= 50, "{written} lines for {calls} calls");
    knock(&bed.client(&good)).await.expect("others are let in");
    bed.service.stop().await;
}

#[tokio::test]
async fn c3_a_large_health_check_is_refused_before_it_is_read() {
    let good = token("a", false, None);
    let bed = Bed::start(&[&good]).await;
    let mut raw = Raw::greeted(address_of(&bed.service)).await;
    // The length of a message of nearly 4 MiB, and no more of it.
    let begun = [&[0], &(4_u32 << 20).saturating_sub(100).to_be_bytes()[..]].concat();
    for stream in (1..).step_by(2).take(200) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &raw::call(CHECK, &[]))).await;
        raw.send(&frame(DATA, 0, stream, &begun)).await;
        let answer = raw.until_end_of(stream).await;
        assert!(!answer.is_empty());
    }
    bed.service.stop().await;
}

#[tokio::test]
async fn c3_a_request_whose_message_never_arrives_is_ended() {
    let service =
        Service::start(|config| config.server.limits.body_timeout = Duration::from_millis(400))
            .await;
    let mut raw = Raw::greeted(address_of(&service)).await;
    for (stream, path) in (1..).step_by(2).zip([
        CHECK,
        STATS,
        "/grpc.health.v1.Health/Watch",
        "/sessionpool.v1.SessionPoolService/Query",
        "/sessionpool.v1.SessionPoolService/Attach",
    ]) {
        let begun = Instant::now();
        raw.send(&frame(HEADERS, END_HEADERS, stream, &raw::call(path, &[]))).await;
        raw.send(&frame(DATA, 0, stream, &[0, 0, 0, 0, 9, 1])).await;
        raw.until_end_of(stream).await;
        assert!(begun.elapsed() >= Duration::from_millis(350), "{path}");
    }
    service.stop().await;
}

#[tokio::test]
async fn c9_a_connection_on_which_call_after_call_is_refused_ends() {
    let good = token("a", false, None);
    let bed = Bed::start(&[&good]).await;
    let refused = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &raw::call(STATS, &[]));
    let mut raw = Raw::greeted(address_of(&bed.service)).await;
    for stream in (1..).step_by(2).take(2000) {
        if raw.stream.write_all(&refused(stream)).await.is_err() {
            break;
        }
    }
    raw.until_closed().await;
    // One on which a call was let in goes on, whatever its other callers do.
    let bearer = format!("Bearer {}", good.secret);
    let let_in = raw::call(STATS, &[("authorization", &bearer)]);
    let mut raw = Raw::greeted(address_of(&bed.service)).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &let_in)).await;
    raw.send(&frame(DATA, END_STREAM, 1, &raw::message(&[]))).await;
    raw.until_end_of(1).await;
    for stream in (3..).step_by(2).take(500) {
        raw.send(&refused(stream)).await;
        raw.until_end_of(stream).await;
    }
    bed.service.stop().await;
}

/// A watcher on a connection of its own.
async fn watch(service: &Service) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: "liveness".into() };
    let mut client = HealthClient::new(service.channel().await);
    let mut watcher = client.watch(request).await.expect("taken").into_inner();
    watcher.message().await.expect("answered").expect("a first state");
    watcher
}

/// Waits until a watcher is told no more.
async fn ended(watcher: &mut Streaming<HealthCheckResponse>) {
    while let Ok(Some(_)) = watcher.message().await {}
}

#[tokio::test]
async fn c3_watchers_are_bounded_and_a_check_always_finds_room() {
    let good = token("a", false, None);
    let bed = Bed::with(&[&good], |config| config.server.limits.max_health_calls = 10).await;
    let mut watchers = Vec::new();
    for _ in 0..30 {
        watchers.push(watch(&bed.service).await);
    }
    for watcher in &mut watchers[..20] {
        timeout(Duration::from_secs(5), ended(watcher)).await.expect("given way");
    }
    let newest = timeout(Duration::from_millis(200), ended(&mut watchers[29])).await;
    assert!(newest.is_err(), "the newest watch on");
    let request = HealthCheckRequest { service: "liveness".into() };
    let answer = HealthClient::new(bed.service.channel().await).check(request).await;
    answer.expect("a check is answered");
    drop(watchers);
    bed.service.stop().await;
}

#[tokio::test]
async fn c3_health_checks_whose_answers_are_not_taken_give_way_with_their_connection() {
    let good = token("a", false, None);
    let bed = Bed::with(&[&good], |config| config.server.limits.max_health_calls = 10).await;
    let mut raw =
        Raw { stream: TcpStream::connect(address_of(&bed.service)).await.expect("connected") };
    // A window of nothing: no byte of an answer can be sent.
    let shut = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    raw.send(&[PREFACE, &shut].concat()).await;
    for stream in (1..).step_by(2).take(11) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &raw::call(CHECK, &[]))).await;
        raw.send(&frame(DATA, END_STREAM, stream, &raw::message(&[]))).await;
    }
    raw.until_closed().await;
    let request = HealthCheckRequest { service: "liveness".into() };
    let answer = HealthClient::new(bed.service.channel().await).check(request).await;
    answer.expect("a check is answered");
    bed.service.stop().await;
}

#[tokio::test]
async fn c3_a_connection_with_many_watchers_and_no_caller_ends() {
    let good = token("a", false, None);
    let bed = Bed::start(&[&good]).await;
    let watch = "/grpc.health.v1.Health/Watch";
    let begin = |stream: u32| {
        let headers = frame(HEADERS, END_HEADERS, stream, &raw::call(watch, &[]));
        [headers, frame(DATA, END_STREAM, stream, &raw::message(&[]))].concat()
    };
    let mut raw = Raw::greeted(address_of(&bed.service)).await;
    for stream in (1..).step_by(2).take(40) {
        if raw.stream.write_all(&begin(stream)).await.is_err() {
            break;
        }
    }
    raw.until_closed().await;
    // Behind a caller who was let in there may be a proxy for many.
    let channel = bed.service.channel().await;
    let bearer = Bearer(Some(format!("Bearer {}", good.secret)));
    let mut client = Client::with_interceptor(channel.clone(), bearer);
    client.get_stats(GetStatsRequest::default()).await.expect("let in");
    let mut watchers = Vec::new();
    for _ in 0..40 {
        let request = HealthCheckRequest { service: "liveness".into() };
        let watcher = HealthClient::new(channel.clone()).watch(request).await.expect("taken");
        watchers.push(watcher.into_inner());
    }
    client.get_stats(GetStatsRequest::default()).await.expect("the connection goes on");
    drop(watchers);
    bed.service.stop().await;
}
