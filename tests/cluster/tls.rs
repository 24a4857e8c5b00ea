//! Nodes that know each other by certificates.

use std::{fs, path::Path};

use session_pool::{
    config::Config,
    proto::{GetStatsRequest, session_pool_service_client::SessionPoolServiceClient as Client},
    server::Server,
};
use tempfile::TempDir;
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    bed::{Places, node},
    support::{
        authority::Authority,
        failure,
        service::{Service, fake_cli, process_tree, query, script},
    },
};

fn known_by(authority: &Authority) -> impl Fn(&mut Config) {
    let folder = authority.path().to_owned();
    move |config| {
        config.cluster.listen = Some(([127, 0, 0, 1], 0).into());
        config.cluster.ca = Some(folder.join("ca.pem"));
        config.cluster.cert = Some(folder.join("cert.pem"));
        config.cluster.key = Some(folder.join("key.pem"));
    }
}

async fn pair(
    asked: impl Fn(&mut Config),
    owner: impl Fn(&mut Config),
) -> (Service, Service, Places) {
    let places = Places::default();
    let (asked, owner) = (node("a", &places, asked).await, node("b", &places, owner).await);
    places.put("s", "b");
    (asked, owner, places)
}

#[tokio::test]
async fn nodes_with_certificates_of_one_authority_forward_to_each_other() {
    let authority = Authority::new();
    let (asked, owner, places) = pair(known_by(&authority), known_by(&authority)).await;
    assert_eq!(asked.query("s", &script(&["say over tls"])).await.text(), "over tls");
    // Without a certificate nobody gets as far as a call, and no plain text is spoken.
    let address = places.address_of("b");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(
            fs::read(authority.path().join("ca.pem")).expect("read"),
        ))
        .domain_name("localhost");
    let refused = async |tls: Option<ClientTlsConfig>| {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).expect("good");
        let endpoint = match tls {
            Some(tls) => endpoint.tls_config(tls).expect("good"),
            None => endpoint,
        };
        let Ok(channel) = endpoint.connect().await else { return true };
        Client::new(channel).get_stats(GetStatsRequest::default()).await.is_err()
    };
    assert!(refused(Some(tls.clone())).await);
    assert!(refused(None).await);
    // Nor with one of another authority.
    let (cert, key) = Authority::new().issue("localhost");
    assert!(refused(Some(tls.identity(Identity::from_pem(cert, key)))).await);
    asked.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn a_node_of_another_authority_is_no_owner_and_no_forwarder() {
    let (one, other) = (Authority::new(), Authority::new());
    let (asked, owner, _) = pair(known_by(&one), known_by(&other)).await;
    let turn = asked.run(query("s", "x")).await;
    failure(turn.error(), Code::Unavailable, "SESSION_MOVED");
    assert_eq!(owner.stats().await.total_sessions, 0);
    asked.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn a_node_whose_certificate_is_for_another_host_is_no_owner() {
    let authority = Authority::new();
    let (good, bad) = (authority.path().join("good"), authority.path().join("bad"));
    for (folder, host) in [(&good, "localhost"), (&bad, "elsewhere")] {
        fs::create_dir(folder).expect("made");
        let (cert, key) = authority.issue(host);
        fs::write(folder.join("cert.pem"), cert).expect("written");
        fs::write(folder.join("key.pem"), key).expect("written");
    }
    let with = |folder: &Path, config: &mut Config| {
        known_by(&authority)(config);
        config.cluster.cert = Some(folder.join("cert.pem"));
        config.cluster.key = Some(folder.join("key.pem"));
    };
    let (asked, owner, _) = pair(|config| with(&good, config), |config| with(&bad, config)).await;
    let turn = asked.run(query("s", "x")).await;
    failure(turn.error(), Code::Unavailable, "SESSION_MOVED");
    asked.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn an_authority_of_callers_cannot_be_one_of_nodes() {
    let authority = Authority::new();
    let state = TempDir::new().expect("a folder");
    let mut config = fake_cli(state.path());
    known_by(&authority)(&mut config);
    config.tls.cert = config.cluster.cert.clone();
    config.tls.key = config.cluster.key.clone();
    // The same authority in another file, with another one.
    let both = authority.path().join("callers.pem");
    fs::write(&both, [Authority::new().issuer.pem(), authority.issuer.pem()].concat())
        .expect("written");
    config.tls.client_ca = Some(both);
    let error = Server::bind(config, process_tree()).await.expect_err("refused").to_string();
    assert!(error.contains("cluster.ca") && error.contains("tls.client_ca"), "{error}");
}
