//! What goes along with a call that is forwarded, in both directions, and how large it may be.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use prost::Message as _;
use session_pool::proto::{QueryRequest, QueryResponse};
use tonic::{Code, Request};

use crate::{
    bed::{Pair, Places, caller, node, open},
    stand_in::{StandIn, answer, framed},
    support::{
        collector::Collector,
        eventually, failure, fields,
        service::{query, script},
    },
};

/// What came to an owner: metadata and body.
type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn recorder(
    messages: usize,
    trailers: &'static [(&'static str, &'static str)],
) -> (StandIn, Seen) {
    let seen = Seen::default();
    let recorded = Arc::clone(&seen);
    let stand_in = StandIn::start(move |request| {
        let recorded = Arc::clone(&recorded);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            recorded.lock().expect("no panic").push((parts.headers, body));
            let messages = vec![framed(&QueryResponse::default()); messages];
            let mut answer = answer(tokio_stream::iter(messages), trailers);
            let name: http::HeaderName = "x-owner-says".parse().expect("a name");
            answer.headers_mut().append(&name, "one".parse().expect("a value"));
            answer.headers_mut().append(&name, "two".parse().expect("a value"));
            answer
        }
    })
    .await;
    (stand_in, seen)
}

#[tokio::test]
async fn metadata_messages_and_trailers_arrive_as_they_were_sent() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    let (owner, seen) =
        recorder(2, &[("grpc-status", "0"), ("x-last", "word"), ("x-last-bin", "AAEC")]).await;
    places.put("s", "b");
    places.reach("b", Some(owner.address.clone()));

    let request = QueryRequest { prompt: "p".repeat(100_000), ..query("s", "") };
    let mut call = Request::new(request.clone());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (key, value) in [("traceparent", trace), ("x-own", "1"), ("x-session-pool-forged", "x")] {
        call.metadata_mut().append(key, value.parse().expect("a value"));
    }
    call.metadata_mut().append("x-own", "2".parse().expect("a value"));
    call.metadata_mut().append("authorization", "Bearer secret".parse().expect("a value"));
    call.metadata_mut().append("cookie", "secret".parse().expect("a value"));
    call.set_timeout(Duration::from_secs(50));
    let answer = asked.client.clone().query(call).await.expect("answered");
    let said: Vec<_> = answer.metadata().get_all("x-owner-says").iter().collect();
    assert_eq!(said, ["one", "two"]);
    let mut stream = answer.into_inner();
    for _ in 0..2 {
        stream.message().await.expect("no error").expect("a message");
    }
    assert_eq!(stream.message().await.expect("no error"), None);
    let trailers = stream.trailers().await.expect("no error").expect("trailers");
    assert_eq!(trailers.get("x-last").expect("there"), "word");
    let binary = trailers.get_bin("x-last-bin").expect("there").to_bytes().expect("good");
    assert_eq!(&binary[..], [0, 1, 2]);

    let seen = seen.lock().expect("no panic").pop().expect("one call");
    let (headers, body) = seen;
    assert_eq!(QueryRequest::decode(&body[5..]).expect("the request"), request);
    assert_eq!(headers["traceparent"], trace);
    assert_eq!(headers.get_all("x-own").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(
        (&headers["te"], &headers["content-type"]),
        (&"trailers".parse().expect("a value"), &"application/grpc".parse().expect("a value"))
    );
    assert_eq!(headers["x-session-pool-hop"], "a");
    assert_eq!(headers["x-session-pool-tenant"], "default");
    for name in ["authorization", "cookie", "x-session-pool-forged"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let timeout = headers["grpc-timeout"].to_str().expect("text").trim_end_matches('u').to_owned();
    let micros: u64 = timeout.parse().expect("microseconds");
    assert!((40_000_000..50_000_000).contains(&micros), "less than the caller's: {micros}");
    asked.stop().await;
}

#[tokio::test]
async fn an_error_of_the_owner_is_told_untouched() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    let (owner, _) = recorder(
        0,
        &[
            ("grpc-status", "8"),
            ("grpc-message", "no%20room"),
            ("grpc-status-details-bin", "CAgSAWE"),
            ("x-why", "because"),
        ],
    )
    .await;
    places.put("s", "b");
    places.reach("b", Some(owner.address.clone()));
    let turn = asked.run(query("s", "x")).await;
    let status = turn.error();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "no room"));
    assert_eq!(status.details(), [8, 8, 18, 1, b'a']);
    assert_eq!(status.metadata().get("x-why").expect("there"), "because");
    asked.stop().await;
}

#[tokio::test]
async fn the_caller_s_deadline_ends_the_turn_at_the_owner() {
    let pair = Pair::with_session_elsewhere().await;
    pair.asked.query("s", "warm").await.result();
    let mut call = Request::new(query("s", &script(&["say here", "hang"])));
    // By the header alone: the client's own clock would hide who ended the call.
    call.metadata_mut().append("grpc-timeout", "700m".parse().expect("a value"));
    let stream = pair.asked.client.clone().query(call).await.expect("taken").into_inner();
    let mut turn = crate::support::turn::Turn::new(stream);
    turn.finish().await;
    failure(turn.error(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    eventually("the turn is over at the owner", async || {
        let shown = pair.owner.session("s").await.ok()?;
        shown.running_turn_id.is_empty().then_some(())
    })
    .await;
    assert_eq!(pair.asked.query("s", &script(&["say on"])).await.text(), "on");
    pair.stop().await;
}

#[tokio::test]
async fn large_messages_pass_and_those_over_the_limit_are_refused_in_the_owner_s_words() {
    let pair = Pair::start(|config| {
        config.policy.max_prompt_bytes = 6 << 20;
        config.policy.slash_commands = false;
    })
    .await;
    pair.places.put("s", "b");
    let prompt = format!("x{}", "y".repeat(5 << 20));
    let turn = pair.asked.query("s", &prompt).await;
    assert_eq!(turn.result().result.len(), "echo: ".len() + prompt.len());
    let over = pair.asked.query("s", &"x".repeat(7 << 20)).await;
    failure(over.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(fields(over.error()), ["prompt"]);
    // More than the decoder takes at all.
    let huge = "x".repeat(21 << 20);
    let beyond = pair.asked.query("s", &huge).await;
    let here = pair.owner.query("s", &huge).await;
    failure(beyond.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(beyond.error().message(), here.error().message());
    pair.stop().await;
}

#[tokio::test]
async fn what_is_not_gzip_but_says_so_is_refused_as_without_other_nodes() {
    let pair = Pair::with_session_elsewhere().await;
    let told = async |service: &crate::support::service::Service| {
        let channel = service.channel().await;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.expect("ready");
        let codec = tonic_prost::ProstCodec::<QueryRequest, QueryResponse>::default();
        let mut request = Request::new(tokio_stream::once(query("s", "x")));
        request.metadata_mut().append("grpc-encoding", "gzip".parse().expect("a value"));
        let path = "/sessionpool.v1.SessionPoolService/Query".parse().expect("a path");
        let answered = grpc.streaming(request, path, codec).await;
        answered.map(|_| ()).expect_err("refused")
    };
    let (forwarded, direct) = (told(&pair.asked).await, told(&pair.owner).await);
    assert_eq!((forwarded.code(), forwarded.message()), (direct.code(), direct.message()));
    pair.stop().await;
}

#[tokio::test]
async fn a_forwarded_call_counts_among_its_tenant_s_streams_where_it_was_made() {
    let places = Places::default();
    let asked = node("a", &places, |config| config.policy.tenant_max_streams = 1).await;
    let owner = node("b", &places, |_| {}).await;
    for session in ["s", "t"] {
        places.put(session, "b");
    }
    let one = caller(&asked.address, &[]).await;
    let mut turn = open(&one, query("s", &script(&["say here", "hang"]))).await.expect("taken");
    turn.until_text("here").await;
    let over = open(&one, query("t", "x")).await.expect_err("one too many");
    let metadata = failure(&over, Code::ResourceExhausted, "TENANT_QUOTA_EXCEEDED");
    assert_eq!(metadata["field"], "policy.tenant_max_streams");
    turn.leave();
    eventually("its place is free again", async || {
        open(&one, query("t", "hello")).await.ok().map(drop)
    })
    .await;
    asked.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn a_forwarded_call_is_one_trace_over_both_nodes() {
    const CALL: &str = "sessionpool.v1.SessionPoolService/Query";
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let collector = Collector::start().await;
    let pair = Pair::start(|config| {
        config.traces.otlp_endpoint = collector.endpoint();
        config.traces.export_interval = Duration::from_millis(5);
    })
    .await;
    pair.places.put("s", "b");
    let sent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let says = [("traceparent", sent.as_str()), ("tracestate", "vendor=1")];
    let caller = caller(&pair.asked.address, &says).await;
    let mut turn = open(&caller, query("s", "hello")).await.expect("taken");
    turn.finish().await;
    turn.result();
    let spans = collector.of_trace(TRACE, 6).await;
    let calls: Vec<_> = spans.iter().filter(|span| span.name == CALL).collect();
    let first = calls.iter().find(|span| span.parent == "b7ad6b7169203331").expect("of the first");
    let owner = calls.iter().find(|span| span.parent == first.id).expect("of the owner");
    assert_eq!((calls.len(), spans.len()), (2, 6), "{spans:?}");
    let turn = spans.iter().find(|span| span.name.starts_with("invoke_agent")).expect("the turn");
    assert_eq!(turn.parent, owner.id);
    pair.stop().await;
}
