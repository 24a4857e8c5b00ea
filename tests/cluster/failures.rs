//! Owners that cannot be reached, or that are no owners any more.

use std::time::Duration;

use session_pool::proto::{QueryRequest, QueryResponse};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{
    bed::{Pair, Places, node},
    support::{
        eventually, failure, free_address, retry_after,
        service::{query, script},
    },
};

#[tokio::test]
async fn an_owner_that_cannot_be_reached_is_asked_for_once_more_and_told() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    places.put("s", "gone");
    places.reach("gone", Some(free_address().to_string()));
    let turn = asked.run(query("s", "x")).await;
    let told = failure(turn.error(), Code::Unavailable, "SESSION_MOVED");
    assert_eq!(told["owner"], "gone");
    assert!(retry_after(turn.error()).is_some());
    assert_eq!(places.asked(), 2);
    asked.stop().await;
}

/// A listener that accepts nothing, and whose queue of connections is full.
struct Full {
    address: String,
    _socket: tokio::net::TcpListener,
    _queued: Vec<tokio::net::TcpStream>,
}

impl Full {
    async fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let socket = socket.listen(0).expect("listening");
        let address = socket.local_addr().expect("an address");
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await
        {
            queued.push(stream);
        }
        Self { address: address.to_string(), _socket: socket, _queued: queued }
    }
}

#[tokio::test]
async fn an_owner_that_does_not_answer_keeps_nobody_for_long() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    let full = Full::new().await;
    places.put("s", "full");
    places.reach("full", Some(full.address.clone()));
    let before = Instant::now();
    let all = async {
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut client = asked.client.clone();
            set.spawn(async move { client.query(query("s", "x")).await.map(drop) });
        }
        set.join_all().await
    };
    for ended in all.await {
        failure(&ended.expect_err("not reached"), Code::Unavailable, "SESSION_MOVED");
    }
    // One attempt for all of them, and what is asked again meanwhile fails at once.
    assert!(before.elapsed() < Duration::from_millis(2900), "{:?}", before.elapsed());
    asked.stop().await;
}

#[tokio::test]
async fn an_owner_that_does_not_say_where_it_is_is_told() {
    let pair = Pair::with_session_elsewhere().await;
    pair.places.reach("b", None);
    let turn = pair.asked.run(query("s", "x")).await;
    let told = failure(turn.error(), Code::Unavailable, "SESSION_MOVED");
    assert_eq!(told["owner"], "b");
    pair.stop().await;
}

#[tokio::test]
async fn a_session_that_moved_meanwhile_is_found_where_it_is() {
    let pair = Pair::with_session_elsewhere().await;
    pair.places.reach("gone", Some(free_address().to_string()));
    pair.places.mislead_once("s", "gone");
    assert_eq!(pair.asked.query("s", &script(&["say there"])).await.text(), "there");
    // And here, if it has come here.
    pair.places.put("t", "a");
    pair.places.mislead_once("t", "gone");
    assert_eq!(pair.asked.query("t", &script(&["say here"])).await.text(), "here");
    assert_eq!(pair.asked.stats().await.total_sessions, 1);
    pair.stop().await;
}

#[tokio::test]
async fn an_owner_that_comes_back_is_reached_again() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    let owner = node("b", &places, |_| {}).await;
    places.put("s", "b");
    assert_eq!(asked.query("s", &script(&["say one"])).await.text(), "one");
    owner.stop().await;
    failure(asked.run(query("s", "x")).await.error(), Code::Unavailable, "SESSION_MOVED");
    let owner = node("b", &places, |_| {}).await;
    let again = eventually("it is reached again", async || {
        let turn = asked.run(query("s", &script(&["say two"]))).await;
        matches!(turn.end, Some(Ok(()))).then(|| turn.text())
    });
    assert_eq!(again.await, "two");
    asked.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_for_want_of_calls_costs_no_call() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    let idle = Duration::from_millis(30);
    let owner = node("b", &places, |config| config.server.limits.idle_timeout = idle).await;
    places.put("s", "b");
    for pause in 0..40 {
        // About as long as the owner takes to close it: before, at the same time, and after.
        tokio::time::sleep(Duration::from_millis(15 + pause)).await;
        let shown = asked.session("s").await.expect_err("no such session");
        failure(&shown, Code::NotFound, "SESSION_NOT_FOUND");
    }
    asked.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn an_owner_that_is_stopped_is_noticed() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    // The kernel accepts the connection, and nobody ever says anything.
    let stopped = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    places.put("s", "stopped");
    places.reach("stopped", Some(stopped.local_addr().expect("an address").to_string()));
    let before = Instant::now();
    let turn = asked.run(query("s", "x")).await;
    failure(turn.error(), Code::Unavailable, "SESSION_MOVED");
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
    asked.stop().await;
}

#[tokio::test]
async fn where_a_session_lives_that_cannot_be_looked_up_is_not_guessed() {
    let pair = Pair::with_session_elsewhere().await;
    pair.places.lose();
    let turn = pair.asked.run(query("s", "x")).await;
    failure(turn.error(), Code::Unavailable, "STORE_UNAVAILABLE");
    assert_eq!(pair.asked.query("", &script(&["say unnamed"])).await.text(), "unnamed");
    pair.stop().await;
}

#[tokio::test]
async fn a_caller_that_does_not_finish_its_request_is_told_that_and_not_that_the_owner_is_lost() {
    let places = Places::default();
    let limit = Duration::from_millis(500);
    let asked = node("a", &places, |config| config.server.limits.body_timeout = limit).await;
    let owner = node("b", &places, |_| {}).await;
    places.put("s", "b");
    let mut grpc = tonic::client::Grpc::new(asked.channel().await);
    grpc.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<QueryRequest, QueryResponse>::default();
    let unfinished = tokio_stream::once(query("s", "x")).chain(tokio_stream::pending());
    let path = "/sessionpool.v1.SessionPoolService/Query".parse().expect("a path");
    let answered = grpc.streaming(tonic::Request::new(unfinished), path, codec).await;
    let status = answered.map(|_| ()).expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("server.limits.body_timeout"), "{status:?}");
    assert_eq!(owner.stats().await.total_messages, 0, "half a request is none");
    asked.stop().await;
    owner.stop().await;
}
