use std::future::ready;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use tower_layer::Layer as _;

use super::*;

const QUERY: &str = "/sessionpool.v1.SessionPoolService/Query";

type Answer = Response<Boxed>;
type Boxed = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// A service that answers every call so.
#[derive(Clone)]
struct Fixed(fn() -> Answer);

impl Service<Request<()>> for Fixed {
    type Response = Answer;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok((self.0)()))
    }
}

async fn call(measures: &CallMeasures, path: &str, answer: fn() -> Answer) -> CountedBody<Boxed> {
    let mut service = {
        let (measures, audit) = (measures.clone(), Audit::default());
        CountLayer { measures, traces: Traces::default(), audit }.layer(Fixed(answer))
    };
    let request = Request::builder().uri(path).body(()).expect("a request");
    service.call(request).await.expect("answered").into_body()
}

fn text(measures: &CallMeasures) -> String {
    let (mut registry, mut text) = (Registry::default(), String::new());
    measures.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    text
}

/// The sum of the series of a figure whose labels have this in them.
fn sum(measures: &CallMeasures, name: &str, label: &str) -> f64 {
    let text = text(measures);
    let series = text.lines().filter(|line| {
        line.split_once('{').is_some_and(|(it, labels)| it == name && labels.contains(label))
    });
    series.map(|line| line.rsplit(' ').next().expect("one").parse::<f64>().expect("a number")).sum()
}

fn trailers(status: &'static str) -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, status.parse().expect("a value"));
    let frames = [Ok(Frame::data(Bytes::from_static(b"x"))), Ok(Frame::trailers(trailers))];
    Response::new(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))))
}

fn whole(response: Response<()>) -> Answer {
    response.map(|()| BodyExt::boxed(Full::new(Bytes::from_static(b"x"))))
}

#[tokio::test]
async fn a_call_is_counted_by_the_status_that_its_caller_sees() {
    let with_head: fn() -> Answer =
        || whole(Response::builder().header(STATUS, "16").body(()).expect("a response"));
    let no_grpc: fn() -> Answer =
        || whole(Response::builder().status(415).body(()).expect("a response"));
    for (answer, code) in [
        (|| trailers("0")) as fn() -> Answer,
        || trailers("4"),
        with_head,
        no_grpc,
        || whole(Response::new(())),
    ]
    .into_iter()
    .zip(["OK", "DeadlineExceeded", "Unauthenticated", "Unknown", "Unknown"])
    {
        let measures = CallMeasures::default();
        let body = call(&measures, QUERY, answer).await;
        body.collect().await.expect("read");
        let label = format!("grpc_code=\"{code}\"");
        assert!((sum(&measures, "grpc_server_handled_total", &label) - 1.0).abs() < 0.1, "{code}");
        assert!((sum(&measures, "grpc_server_handled_total", "") - 1.0).abs() < 0.1, "{code}");
        let method = "grpc_method=\"Query\"";
        assert!((sum(&measures, "grpc_server_started_total", method) - 1.0).abs() < 0.1);
        assert!((sum(&measures, "grpc_server_handling_seconds_count", method) - 1.0).abs() < 0.1);
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_was_cancelled_and_is_open_until_then() {
    let measures = CallMeasures::default();
    let mut body = call(&measures, QUERY, || trailers("0")).await;
    body.frame().await.expect("the first").expect("data");
    assert!(sum(&measures, "grpc_server_handled_total", "") < 0.1);
    drop(body);
    assert!(sum(&measures, "grpc_server_handled_total", "Canceled") > 0.9);
}

#[tokio::test]
async fn paths_that_are_not_served_are_one_series_and_served_ones_are_there_from_the_start() {
    let measures = CallMeasures::default();
    let before = text(&measures).lines().count();
    for i in 0..1000 {
        let path = format!("/sessionpool.v1.SessionPoolService/Query{i}");
        call(&measures, &path, || trailers("12")).await.collect().await.expect("read");
    }
    assert!((sum(&measures, "grpc_server_started_total", "\"unknown\"") - 1000.0).abs() < 0.1);
    // The counters, one more series for its code, and the histogram.
    let more = text(&measures).lines().count() - before;
    assert!(more < 25, "{more}");
    for method in ["Query", "GetStats", "Check", "Watch", "ServerReflectionInfo", "ServeTools"] {
        let label = format!("grpc_method=\"{method}\"");
        assert!(text(&measures).contains(&label), "{method}");
    }
    for kind in ["unary", "server_stream", "bidi_stream"] {
        assert!(text(&measures).contains(&format!("grpc_type=\"{kind}\"")), "{kind}");
    }
}
