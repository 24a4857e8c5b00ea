//! The order in which a service stops, seen from outside while it does.

use std::{net::SocketAddr, time::Duration};

use session_pool::{proto, server::Server};
use tempfile::TempDir;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    eventually, failure,
    service::{Service, fake_cli, process_tree, query, script},
};

/// A service with a second listener for probes, which is about to wait long for its turns.
async fn service() -> (Service, SocketAddr) {
    let state = TempDir::new().expect("a folder");
    let mut config = fake_cli(state.path());
    config.server.health_listen = Some(config.server.listen);
    config.server.drain_timeout = Duration::from_secs(60);
    let server = Server::bind(config, process_tree()).await.expect("bound");
    let probes = server.health_address().expect("an address");
    (Service::of(server, state), probes)
}

async fn connect(address: &str) -> Channel {
    let channel = Channel::from_shared(address.to_owned()).expect("an address");
    channel.connect().await.expect("connected")
}

async fn health(channel: Channel, name: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: name.into() };
    let answer = HealthClient::new(channel).check(request).await;
    answer.expect("answered").into_inner().status()
}

#[tokio::test]
async fn while_turns_end_everything_is_answered_but_new_turns() {
    let (service, probes) = service().await;
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let address = service.address.clone();
    let client = service.client.clone();

    let during = async {
        let draining = || async {
            let request = proto::GetStatsRequest::default();
            client.clone().get_stats(request).await.expect("answered").into_inner().draining
        };
        eventually("it drains", async || draining().await.then_some(())).await;
        // Also on new connections, so that whoever comes late is told why.
        for address in [address.clone(), format!("http://{probes}")] {
            let channel = connect(&address).await;
            assert_eq!(health(channel.clone(), "liveness").await, ServingStatus::Serving);
            eventually("it is not ready any more", async || {
                (health(channel.clone(), "").await == ServingStatus::NotServing).then_some(())
            })
            .await;
        }
        let late = client.clone().query(query("b", "late")).await.expect_err("refused");
        failure(&late, Code::Unavailable, "SHUTTING_DOWN");
        let request = proto::GetSessionRequest { session_id: "a".into() };
        let shown = client.clone().get_session(request).await.expect("shown").into_inner();
        assert_eq!(shown.session.expect("a session").status(), proto::SessionStatus::Active);
        // It is the last one.
        let request = proto::InterruptRequest {
            session_id: "a".into(),
            keep_session: true,
            ..proto::InterruptRequest::default()
        };
        client.clone().interrupt(request).await.expect("answered");
        turn.finish().await;
        assert!(turn.result().interrupted);
    };
    let ((in_order, state), ()) = tokio::join!(service.end(), during);
    assert!(in_order, "the turn has ended by itself as far as the stop is concerned");
    // Nothing of it keeps the next service from its place.
    let config = fake_cli(state.path());
    let next = eventually("the lock is free", async || {
        match Server::bind(config.clone(), process_tree()).await {
            // Another test's program may have it between fork and exec.
            Err(error) if error.to_string().contains("another service uses") => None,
            bound => Some(bound.expect("bound")),
        }
    });
    drop(next.await);
}
