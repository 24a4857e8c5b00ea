//! Health: SERVING only while new turns are taken; alive as long as the process works.

use std::time::Duration;

use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    eventually,
    service::{Service, query, script},
};

const SERVICE: &str = "sessionpool.v1.SessionPoolService";

async fn check(service: &Service, name: &str) -> ServingStatus {
    let mut client = HealthClient::new(service.channel().await);
    let request = HealthCheckRequest { service: name.into() };
    client.check(request).await.expect("answered").into_inner().status()
}

async fn becomes(service: &Service, status: ServingStatus) {
    for name in ["", SERVICE] {
        eventually(status.as_str_name(), async || {
            (check(service, name).await == status).then_some(())
        })
        .await;
    }
    assert_eq!(check(service, "liveness").await, ServingStatus::Serving);
}

#[tokio::test]
async fn a_service_that_takes_turns_is_serving() {
    let service = Service::start(|config| config.pool.max_sessions = 1).await;
    becomes(&service, ServingStatus::Serving).await;
    // A full pool's sessions have nowhere else to go.
    service.query("a", "hello").await.result();
    assert!(service.open(query("b", "hello")).await.is_err());
    assert_eq!(check(&service, "").await, ServingStatus::Serving);
    let mut client = HealthClient::new(service.channel().await);
    let unknown = client.check(HealthCheckRequest { service: "nope".into() }).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn s03_a_disabled_pool_is_not_serving() {
    let service = Service::start(|config| config.pool.enabled = false).await;
    // The CLI has answered, so this is the last word.
    eventually("the CLI has said its version", async || {
        (!service.stats().await.cli_version.is_empty()).then_some(())
    })
    .await;
    becomes(&service, ServingStatus::NotServing).await;
    assert_eq!(service.stats().await.not_ready_reasons, ["pool: pool.enabled is false"]);
    service.stop().await;
}

#[tokio::test]
async fn without_a_cli_it_is_not_serving() {
    let service = Service::start(|config| config.cli.path = "/no/such/claude".into()).await;
    becomes(&service, ServingStatus::NotServing).await;
    assert_eq!(service.query("a", "hello").await.error().code(), Code::FailedPrecondition);
    assert_eq!(check(&service, "").await, ServingStatus::NotServing);
    service.stop().await;
}

#[tokio::test]
async fn d7_a_cli_that_is_too_old_is_not_served_and_a_newer_one_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let wrapper = |version: &str| {
        let path = folder.path().join(version);
        let script = format!("#!/bin/sh\necho 'a banner 7'\necho '{version} (Claude Code)'\n");
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .expect("executable");
        path
    };
    for (version, status) in [
        ("2.0.77", ServingStatus::NotServing),
        ("2.1.109", ServingStatus::NotServing),
        ("2.1.110", ServingStatus::Serving),
        ("2.9.0", ServingStatus::Serving),
    ] {
        let path = wrapper(version);
        let service = Service::start(|config| config.cli.path = path).await;
        eventually("the CLI has said its version", async || {
            service.stats().await.cli_version.contains(version).then_some(())
        })
        .await;
        becomes(&service, status).await;
        let stats = service.stats().await;
        let told = stats.not_ready_reasons.join("\n");
        assert_eq!(told.contains("2.1.110"), status == ServingStatus::NotServing, "{told}");
        assert_eq!(stats.oldest_cli_version, "2.1.110");
        service.stop().await;
    }
}

#[tokio::test]
async fn d3_a_cli_that_says_its_version_and_does_not_start_is_not_served_until_it_does() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("claude");
    let broken = "#!/bin/sh\n[ \"$1\" = --version ] && echo 2.1.330 && exit\n\
                  echo 'no licence for this host' >&2; exit 3\n";
    std::fs::write(&path, broken).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let service = Service::start(|config| {
        config.cli.path = path.clone();
        config.cli.start_check = true;
    })
    .await;
    eventually("it says why", async || {
        let told = service.stats().await.not_ready_reasons.join("\n");
        (told.contains("cli.path: ") && told.contains("would get no process")).then_some(())
    })
    .await;
    assert_eq!(check(&service, "").await, ServingStatus::NotServing);

    // The operator mends it; the service is not started again.
    let mended = folder.path().join("mended");
    symlink(env!("CARGO_BIN_EXE_fake-claude"), &mended).expect("linked");
    std::fs::rename(&mended, &path).expect("replaced");
    becomes(&service, ServingStatus::Serving).await;
    let stats = service.stats().await;
    assert_eq!(stats.not_ready_reasons, [""; 0]);
    assert_eq!(stats.processes, 0, "none of the check is left");
    let work = service.state.path().join("tenants/default/work");
    assert_eq!(std::fs::read_dir(work).expect("made by the check").count(), 0);
    assert_eq!(service.query("a", "hello").await.result().result, "echo: hello");
    service.stop().await;
}

#[tokio::test]
async fn while_it_drains_it_is_not_serving() {
    let service = Service::start(|config| {
        config.server.drain_timeout = Duration::from_secs(20);
    })
    .await;
    becomes(&service, ServingStatus::Serving).await;
    let mut turn = service
        .open(query("a", &script(&["say word", "sleep 500", "say end"])))
        .await
        .expect("taken");
    turn.until_text("word").await;
    let mut client = HealthClient::new(service.channel().await);
    let request = Request::new(HealthCheckRequest { service: SERVICE.into() });
    let mut watch = client.watch(request).await.expect("answered").into_inner();
    let first = watch.message().await.expect("answered").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);
    let rest = async {
        let next = watch.message().await.expect("answered").expect("a status");
        assert_eq!(next.status(), ServingStatus::NotServing);
        drop(watch);
        turn.finish().await;
        assert_eq!(turn.result().result, "end");
    };
    let (in_order, ()) = tokio::join!(service.stop(), rest);
    assert!(in_order);
}
