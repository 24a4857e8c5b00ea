//! File descriptors: the limit is raised for the service and not for what it starts, and
//! when there are none left the service waits calmly and still answers health checks.

use std::{fs, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use session_pool::{internals::os::procfs::pid, proto::GetStatsRequest};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    daemon::Daemon,
    eventually, free_address,
    service::{query, script},
};

/// Soft and hard limit of a process.
fn limits(process: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{process}/limits")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().expect("soft"), numbers.next().expect("hard"))
}

#[tokio::test]
async fn c4_the_service_has_the_hard_limit_and_its_clis_what_it_was_started_with() {
    let state = TempDir::new().expect("a folder");
    let daemon = Daemon::start_by(&["prlimit", "--nofile=300:1234"], state, &[]).await;
    assert_eq!(limits(daemon.id()), (1234, 1234));
    let mut turn = daemon.open(query("s", &script(&["say one", "sleep 60000"]))).await;
    turn.until_text("one").await;
    let processes = daemon.processes();
    assert!(!processes.is_empty());
    for process in processes {
        assert_eq!(limits(process), (300, 1234), "what a program expects that scans them all");
    }
    assert!(daemon.logged("file_descriptors").iter().any(|line| line["limit"] == 1234));
    assert!(daemon.logged("file_descriptors_limit_processes").is_empty(), "16 processes fit");
}

#[tokio::test]
async fn c4_a_limit_that_does_not_carry_the_pool_is_told_at_the_start() {
    let state = TempDir::new().expect("a folder");
    let settings = [("POOL__MAX_PROCESSES", "500")];
    let daemon = Daemon::start_by(&["prlimit", "--nofile=1024:1024"], state, &settings).await;
    let told = |message: &str| daemon.logged(message).pop().expect("told");
    assert_eq!(told("file_descriptors_limit_processes")["max_processes"], 500);
    assert_eq!(told("file_descriptors_limit_connections")["wanted"], 1000);
}

/// Seconds of a processor that a process has used.
fn used(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<f64> =
        rest.split_whitespace().map(|word| word.parse().unwrap_or_default()).collect();
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    (fields[11] + fields[12]) / ticks
}

#[tokio::test]
async fn c4_without_descriptors_the_service_is_calm_and_still_answers_health_checks() {
    let probes = free_address();
    let probes_text = probes.to_string();
    let daemon = Daemon::start(&[("SERVER__HEALTH_LISTEN", &probes_text)]).await;
    let process = daemon.id();
    daemon.client.clone().get_stats(GetStatsRequest::default()).await.expect("answered");
    let before = getrlimit(Resource::Nofile);
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
    let open = u64::try_from(open.count()).expect("few");
    let set = |current: u64| {
        let limit = Rlimit { current: Some(current), maximum: before.maximum };
        prlimit(pid(process), Resource::Nofile, limit).expect("set");
    };
    // A few are left, and then there are none.
    set(open + 4);
    let address = daemon.address.trim_start_matches("http://").to_owned();
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(TcpStream::connect(&address).await.expect("in the system's queue"));
    }
    eventually("the complaint", async || {
        (!daemon.logged("connection_not_accepted").is_empty()).then_some(())
    })
    .await;
    let endpoint = Endpoint::from_shared(format!("http://{probes}")).expect("an address");
    let checked = timeout(Duration::from_secs(10), async {
        let channel = endpoint.connect().await.expect("connected");
        let request = HealthCheckRequest { service: "liveness".into() };
        HealthClient::new(channel).check(request).await
    });
    checked.await.expect("in time").expect("answered without a descriptor to spare");
    let (cpu, lines) = (used(process), daemon.logged("connection_not_accepted").len());
    sleep(Duration::from_secs(3)).await;
    let (cpu, lines) =
        (used(process) - cpu, daemon.logged("connection_not_accepted").len() - lines);
    assert!(cpu < 1.0, "{cpu} s of 3 s");
    assert!(lines <= 20, "{lines} lines in 3 s");
    set(before.current.expect("a limit"));
    drop(waiting);
    let client = timeout(
        Duration::from_secs(10),
        session_pool::proto::session_pool_service_client::SessionPoolServiceClient::connect(
            daemon.address.clone(),
        ),
    );
    let mut client = client.await.expect("in time").expect("connected");
    client.get_stats(GetStatsRequest::default()).await.expect("served again");
}
