//! Figures for Prometheus, and health checks over HTTP.

use std::net::{SocketAddr, TcpListener};

use session_pool::{config::Config, server::Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    eventually, free_address,
    service::{Service, fake_cli, process_tree, script},
};

/// A service with figures, and where they are.
pub async fn measured(change: impl FnOnce(&mut Config)) -> (Service, SocketAddr) {
    let free = free_address();
    let service = Service::start(|config| {
        config.server.metrics_listen = Some(free);
        change(config);
    })
    .await;
    (service, free)
}

/// The status line, the headers and the content of an answer.
pub(super) async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
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
pub async fn value(address: SocketAddr, series: &str) -> Option<f64> {
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
        ("cli_exits_total{cause=\"code\"}", 0.0),
        ("interrupts_total{outcome=\"interrupted\"}", 0.0),
        ("prompts_open", 0.0),
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
    assert_eq!(value(address, "cli_exits_total{cause=\"code\"}").await, Some(1.0));
    let turn = service.query("killed", &script(&["kill-self KILL"])).await;
    assert!(turn.end.is_some_and(|end| end.is_err()));
    assert_eq!(value(address, "cli_exits_total{cause=\"signal\"}").await, Some(1.0));
    service.stop().await;
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let (service, address) = measured(|_| {}).await;
    service.query("s", "one").await.result();
    service.session("nobody").await.expect_err("there is none");
    let mut nowhere = tonic::client::Grpc::new(service.channel().await);
    nowhere.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static("/sessionpool.v1.SessionPoolService/Nothing");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let refused = nowhere.unary(tonic::Request::new(()), path, codec).await;
    assert_eq!(refused.expect_err("nothing").code(), tonic::Code::Unimplemented);
    let of = |kind: &str, method: &str| {
        let service = "sessionpool.v1.SessionPoolService";
        format!("grpc_type=\"{kind}\",grpc_service=\"{service}\",grpc_method=\"{method}\"")
    };
    let unknown = "grpc_type=\"unknown\",grpc_service=\"unknown\",grpc_method=\"unknown\"";
    let query = of("server_stream", "Query");
    for (series, expected) in [
        (format!("grpc_server_started_total{{{query}}}"), 1.0),
        (format!("grpc_server_handled_total{{{query},grpc_code=\"OK\"}}"), 1.0),
        (format!("grpc_server_handling_seconds_count{{{query}}}"), 1.0),
        (
            format!(
                "grpc_server_handled_total{{{},grpc_code=\"NotFound\"}}",
                of("unary", "GetSession")
            ),
            1.0,
        ),
        (format!("grpc_server_started_total{{{}}}", of("unary", "InterruptAll")), 0.0),
        (format!("grpc_server_handled_total{{{unknown},grpc_code=\"Unimplemented\"}}"), 1.0),
    ] {
        let (_, _, text) = get(address, "/metrics").await;
        let line = format!("{series} {expected:.0}");
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
    service.stop().await;
}

#[tokio::test]
async fn what_models_and_processes_take_is_told_all_together() {
    let (service, address) = measured(|_| {}).await;
    let cost = service.query("s", "one").await.result().total_cost_usd;
    service.query("s", "two").await.result();
    let (_, _, text) = get(address, "/metrics").await;
    let models: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("session_pool_model_cost_usd_total{model=\"claude-"))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    let told = value(address, "cost_usd_total").await.expect("a sum");
    let sum: f64 = models.iter().sum();
    assert!(sum > cost && (sum - told).abs() < 1e-9, "{models:?} {told}");
    let output = "session_pool_model_tokens_total{model=\"claude-";
    assert!(text.lines().any(|line| line.starts_with(output)), "{text}");
    let (cpu, held) = ("processes_cpu_seconds_total", "processes_memory_bytes");
    let before = value(address, cpu).await;
    assert!(before.is_some() && value(address, held).await > Some(1e6), "{text}");
    service.close("s", false).await.expect("closed");
    assert!(value(address, cpu).await >= before, "what has ended counts");
    for name in ["process_open_fds", "process_resident_memory_bytes", "process_max_fds"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {text}");
    }
    service.stop().await;
}

#[tokio::test]
async fn fifty_scrapes_at_once_see_what_was_true_when_they_asked() {
    let (service, address) = measured(|_| {}).await;
    for turn in 1..=3 {
        service.query("s", "again").await.result();
        let scrapes = (0..50).map(|_| async move { value(address, "turns_total").await });
        for seen in futures(scrapes).await {
            assert_eq!(seen, Some(f64::from(turn)));
        }
    }
    service.stop().await;
}

/// All of them at once.
async fn futures<T: Send + 'static>(
    all: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    all.collect::<tokio::task::JoinSet<T>>().join_all().await
}

#[tokio::test]
async fn scrapers_that_do_not_read_keep_no_other_out() {
    let (service, address) = measured(|_| {}).await;
    service.query("s", "one").await.result();
    let mut held = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let whole = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        let sent = if i % 2 == 0 { whole } else { &whole[..20] };
        // One that has had to give way already takes no more.
        stream.write_all(sent.as_bytes()).await.ok();
        held.push(stream);
    }
    assert_eq!(value(address, "turns_total").await, Some(1.0));
    drop(held);
    service.stop().await;
}

#[tokio::test]
async fn figures_are_told_at_an_address_of_either_family_and_nowhere_without_one() {
    for local in ["[::1]:0", "127.0.0.1:0"] {
        let free = TcpListener::bind(local).and_then(|it| it.local_addr()).expect("a port");
        let service = Service::start(|config| config.server.metrics_listen = Some(free)).await;
        assert_eq!(get(free, "/livez").await.0, 200, "{local}");
        service.stop().await;
        TcpStream::connect(free).await.expect_err("it has stopped");
    }
    let service = Service::start(|config| assert!(config.server.metrics_listen.is_none())).await;
    service.query("s", "one").await.result();
    service.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start_and_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let state = tempfile::tempdir().expect("a folder");
    let mut config = fake_cli(state.path());
    config.server.metrics_listen = Some(address);
    let refused = Server::bind(config, process_tree()).await;
    let told = format!("{:#}", refused.expect_err("it is taken"));
    assert!(told.contains(&format!("server.metrics_listen: cannot bind {address}")), "{told}");
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
    assert_eq!(get(address, "/nothing").await.0, 404);
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
