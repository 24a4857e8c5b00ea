//! Collectors that are away, slow, or refuse: callers do not feel them, what is lost is counted and
//! told, and one that comes back is sent what still waits.

use std::{fs, net::SocketAddr, time::Duration};

use session_pool::{config::Config, server::check_files};
use tokio::time::Instant;
use tonic::Code;

use super::{CALL, exporting, parent, run, trace};
use crate::{
    contract::metrics::{measured, value},
    support::{
        authority::Authority,
        collector::{Collector, Mood},
        eventually, log,
        service::{Service, fake_cli, query},
    },
};

const SOON: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_millis(200);

/// A service that exports there, and where its figures are.
async fn watched(endpoint: String, max_queued: usize) -> (Service, SocketAddr) {
    measured(|config| {
        config.traces.otlp_endpoint = endpoint;
        (config.traces.export_interval, config.traces.export_timeout) = (SOON, LATE);
        config.traces.max_queued_spans = max_queued;
    })
    .await
}

/// How many spans were dropped for this reason, once there are as many.
async fn dropped(address: SocketAddr, reason: &str, least: f64) -> f64 {
    let series = format!("trace_spans_dropped_total{{reason=\"{reason}\"}}");
    eventually(&series, async || value(address, &series).await.filter(|count| *count >= least))
        .await
}

#[tokio::test]
async fn a_collector_that_is_away_is_not_felt_and_gets_what_waits_when_it_is_back() {
    let gone = Collector::start().await;
    let (place, endpoint) = (gone.address, gone.endpoint());
    drop(gone);
    let (service, address) = watched(endpoint, 1000).await;
    service.query("s", "first").await.result();
    let began = Instant::now();
    for _ in 0..20 {
        service.query("s", "hello").await.result();
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("it is told", async || log::named("spans_not_exported").pop()).await;
    assert_eq!(value(address, "trace_spans_exported_total").await, Some(0.0));

    let back = Collector::start_at(place).await;
    // 21 turns, each a call, a wait, a turn and a commit; and one start.
    eventually("all of them", async || (back.spans().len() >= 85).then_some(())).await;
    eventually("they are counted", async || {
        value(address, "trace_spans_exported_total").await.filter(|count| *count >= 85.0)
    })
    .await;
    assert_eq!(dropped(address, "queue_full", 0.0).await, 0.0);
    service.stop().await;
}

#[tokio::test]
async fn a_collector_that_hangs_costs_spans_and_neither_turns_nor_the_stop() {
    let collector = Collector::start().await;
    collector.set(Mood::Hangs);
    let (service, address) = watched(collector.endpoint(), 4).await;
    for _ in 0..10 {
        service.query("s", "hello").await.result();
    }
    dropped(address, "queue_full", 20.0).await;
    let lines = log::named("spans_dropped");
    let told = lines.iter().any(|line| line.fields["reason"] == "queue_full");
    assert!(told && lines.len() <= 40, "within its bound: {}", lines.len());
    let began = Instant::now();
    service.stop().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again() {
    let collector = Collector::start().await;
    let (service, address) = watched(collector.endpoint(), 1000).await;
    collector.set(Mood::Refuses(Code::PermissionDenied));
    service.query("s", "one").await.result();
    dropped(address, "refused", 5.0).await;
    collector.set(Mood::TakesBut(1));
    run(&service, query("s", "two"), &parent(&trace(1), "01")).await.result();
    collector.of_trace(&trace(1), 4).await;
    dropped(address, "refused", 6.0).await;
    // What passes is waited for.
    collector.set(Mood::Refuses(Code::Unavailable));
    run(&service, query("s", "three"), &parent(&trace(2), "01")).await.result();
    collector.set(Mood::Takes);
    collector.of_trace(&trace(2), 4).await;
    service.stop().await;
}

#[tokio::test]
async fn a_stop_sends_what_waits() {
    let collector = Collector::start().await;
    let service = exporting(&collector, |config| {
        config.traces.export_interval = Duration::from_secs(60);
    })
    .await;
    run(&service, query("s", "one"), &parent(&trace(1), "01")).await.result();
    service.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.iter().filter(|span| span.trace_id == trace(1)).count(), 5, "{spans:?}");
    assert!(spans.iter().any(|span| span.name == CALL));
}

#[tokio::test]
async fn the_headers_of_the_file_go_along_and_are_shown_nowhere() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("headers");
    fs::write(&file, "# key of the collector\nX-Api-Key: s3cret-of-the-collector\n")
        .expect("written");
    let collector = Collector::start().await;
    let service = exporting(&collector, |config| {
        config.traces.headers_file = Some(file.clone());
    })
    .await;
    service.query("s", "one").await.result();
    collector.named(CALL).await;
    let headers = collector.headers();
    assert_eq!(headers[0].get("x-api-key").expect("there"), "s3cret-of-the-collector");
    service.stop().await;
    assert!(!log::mentions("s3cret-of-the-collector"));
}

#[tokio::test]
async fn a_collector_s_certificate_has_to_be_of_the_authority() {
    let (own, another) = (Authority::new(), Authority::new());
    let collector = Collector::start_encrypted(&own).await;
    let endpoint = format!("https://localhost:{}", collector.address.port());
    for (ca, taken) in [(&own, true), (&another, false)] {
        let (service, address) = measured(|config| {
            config.traces.otlp_endpoint.clone_from(&endpoint);
            config.traces.ca = Some(ca.path().join("ca.pem"));
            (config.traces.export_interval, config.traces.export_timeout) = (SOON, LATE * 10);
        })
        .await;
        let before = collector.spans().len();
        service.query("s", "one").await.result();
        if taken {
            eventually("its spans", async || (collector.spans().len() >= 5).then_some(())).await;
        } else {
            let failed = |line: &log::Logged| line.fields["error"].contains("certificate");
            eventually("it is told", async || {
                log::named("spans_not_exported").into_iter().find(failed)
            })
            .await;
            assert_eq!(value(address, "trace_spans_exported_total").await, Some(0.0));
        }
        service.stop().await;
        assert!(taken || collector.spans().len() == before, "none came");
    }
}

#[test]
fn files_that_are_not_good_are_refused_before_the_start() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("headers");
    let mut config = fake_cli(folder.path());
    config.traces.otlp_endpoint = "http://127.0.0.1:1".into();
    config.traces.headers_file = Some(file.clone());
    let problem = |config: &Config| format!("{:#}", check_files(config).expect_err("refused"));
    assert!(problem(&config).starts_with("traces.headers_file: "), "{}", problem(&config));
    fs::write(&file, "s3cret").expect("written");
    let told = problem(&config);
    assert!(told.contains("line 1 must be NAME: VALUE") && !told.contains("s3cret"), "{told}");
    fs::write(&file, "a: s3cret").expect("written");
    check_files(&config).expect("good");
    config.traces.otlp_endpoint = "https://localhost:1".into();
    config.traces.ca = Some("/no/such".into());
    assert!(problem(&config).starts_with("traces.ca: /no/such: "), "{}", problem(&config));
}
