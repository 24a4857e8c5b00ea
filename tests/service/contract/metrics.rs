//! Figures for Prometheus, and health checks over HTTP.

use std::net::{SocketAddr, TcpListener};

use session_pool::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    eventually,
    service::{Service, script},
};

/// A service with figures, and where they are.
async fn measured(change: impl FnOnce(&mut Config)) -> (Service, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let service = Service::start(|config| {
        config.server.metrics_listen = Some(free);
        change(config);
    })
    .await;
    (service, free)
}

/// The status line, the headers and the content of an answer.
async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).expect("a code").parse().expect("a number");
    (code, head.to_ascii_lowercase(), body.to_owned())
}

/// The value of a series.
async fn value(address: SocketAddr, series: &str) -> Option<f64> {
    let (_, _, text) = get(address, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("session_pool_{series} ")));
    line.map(|value| value.parse().expect("a number"))
}

#[tokio::test]
async fn a_turn_is_in_the_figures() {
    let (service, address) = measured(|_| {}).await;
    service.query("s", "one").await.result();
    service.query("s", "two").await.result();
    for (series, expected) in [
        ("turns_total", 2.0),
        ("prompts_written_total", 2.0),
        ("processes_taken_total{origin=\"created\"}", 1.0),
        ("processes_taken_total{origin=\"reused\"}", 1.0),
        ("sessions{state=\"active\"}", 1.0),
        ("processes", 1.0),
        ("turns_running", 0.0),
        ("first_event_seconds_count{origin=\"created\"}", 1.0),
        ("first_event_seconds_count{origin=\"reused\"}", 1.0),
        ("turn_duration_seconds_count{outcome=\"completed\"}", 2.0),
        ("queue_wait_seconds_count", 2.0),
        ("connect_wait_seconds_count{origin=\"created\"}", 1.0),
        ("cli_exits_total", 0.0),
    ] {
        assert_eq!(value(address, series).await, Some(expected), "{series}");
    }
    assert!(value(address, "commit_duration_seconds_count").await >= Some(2.0));
    assert!(value(address, "frames_total").await > Some(2.0));
    let (code, head, text) = get(address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n") && !text.contains("tenant="), "{text}");
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_fails_is_counted_by_what_its_caller_is_told() {
    let (service, address) = measured(|_| {}).await;
    let turn = service.query("s", &script(&["exit 3"])).await;
    assert!(turn.end.is_some_and(|end| end.is_err()));
    let failures = "turn_failures_total{reason=\"CLI_EXITED\"}";
    assert_eq!(value(address, failures).await, Some(1.0));
    assert_eq!(value(address, "cli_exits_total").await, Some(1.0));
    service.stop().await;
}

#[tokio::test]
async fn tenants_have_series_of_their_own_where_the_operator_wants_that() {
    let (service, address) = measured(|config| config.metrics.tenant_label = true).await;
    service.query("s", "one").await.result();
    assert_eq!(value(address, "turns_total{tenant=\"default\"}").await, Some(1.0));
    assert_eq!(value(address, "sessions{tenant=\"default\",state=\"active\"}").await, Some(1.0));
    assert_eq!(value(address, "turns_total").await, None);
    // What is of the service is of no tenant.
    assert_eq!(value(address, "processes").await, Some(1.0));
    service.stop().await;
}

#[tokio::test]
async fn health_is_told_over_http_as_over_grpc() {
    let (service, address) = measured(|config| config.pool.enabled = false).await;
    eventually("the CLI has said its version", async || {
        (!service.stats().await.cli_version.is_empty()).then_some(())
    })
    .await;
    assert_eq!(get(address, "/livez").await.0, 200);
    let (code, _, reasons) = get(address, "/readyz").await;
    assert_eq!((code, reasons.as_str()), (503, "pool: pool.enabled is false\n"));
    assert_eq!(value(address, "serving").await, Some(0.0));
    assert_eq!(get(address, "/").await.0, 404);
    service.stop().await;

    let (service, address) = measured(|_| {}).await;
    let ready = async || (get(address, "/readyz").await.0 == 200).then_some(());
    eventually("it is ready", ready).await;
    assert_eq!(value(address, "serving").await, Some(1.0));
    service.stop().await;
}

#[tokio::test]
async fn every_figure_is_documented() {
    let (service, address) = measured(|_| {}).await;
    service.query("s", "one").await.result();
    service.query("s", &script(&["exit 3"])).await;
    let (_, _, text) = get(address, "/metrics").await;
    let page = include_str!("../../../docs/metrics.md");
    let figures: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(figures.len() > 40, "{text}");
    for (name, kind) in figures {
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert!(page.contains(&format!("`{name}{suffix}")), "docs/metrics.md: {name}{suffix}");
    }
    service.stop().await;
}
