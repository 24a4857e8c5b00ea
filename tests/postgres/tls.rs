//! TLS between a node and its database: whom the node talks to is checked, and what it is refused
//! for is said without the password.

use std::{fs, path::Path};

use session_pool::{config::StoreKind, server};
use tempfile::TempDir;

use super::{
    Server, ask, node,
    support::{
        authority::Authority,
        service::{fake_cli, process_tree},
    },
};

/// The end of a connection string that trusts an authority.
fn trusts(authority: &Authority) -> String {
    format!("sslmode=verify-full&sslrootcert={}", authority.path().join("ca.pem").display())
}

/// Why a service does not start on this database.
async fn refusal(state: &Path, url: &str) -> String {
    let file = state.join("url");
    fs::write(&file, url).expect("written");
    let mut config = fake_cli(state);
    config.store.kind = StoreKind::Postgres;
    config.store.url_file = Some(file);
    config.cluster.node = "one".into();
    let refused = server::Server::bind(config, process_tree()).await.expect_err("refused");
    format!("{refused:#}")
}

#[tokio::test]
async fn a_database_is_taken_for_what_it_is_by_its_certificate_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let Some(server) = Server::start_with_tls(&authority.issue("localhost")) else { return };
    let database = server.database().await;
    let port = server.address().rsplit_once(':').expect("a port").1.to_owned();
    let url = |host: &str, trusted: &str| {
        format!("postgres://tester:sesame@{host}:{port}/{database}?{trusted}")
    };
    let node = node("one", &url("localhost", &trusts(&authority)), &[]).await;
    assert_eq!(ask(&node, "s", "one").await, [""; 0]);
    assert_eq!(ask(&node, "s", "two").await, ["one"]);
    let mut connection = server.connect(&database).await;
    let open: Vec<bool> = sqlx::query_scalar(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = 'session-pool'",
    )
    .fetch_all(&mut connection)
    .await
    .expect("read");
    assert!(!open.is_empty() && open.iter().all(|is_encrypted| *is_encrypted), "{open:?}");

    let plain = Server::shared().expect("it is installed");
    let plain_port = plain.address().rsplit_once(':').expect("a port").1.to_owned();
    for (what, url, said) in [
        ("another authority", url("localhost", &trusts(&other)), "invalid peer certificate"),
        ("another host", url("127.0.0.1", &trusts(&authority)), "not valid for"),
        (
            "no TLS",
            format!("postgres://tester:sesame@localhost:{plain_port}/x?{}", trusts(&authority)),
            "TLS",
        ),
        ("no file", url("localhost", "sslmode=verify-full&sslrootcert=/gone.pem"), "gone.pem"),
    ] {
        let state = TempDir::new().expect("a folder");
        let told = refusal(state.path(), &url).await;
        assert!(told.contains("store.url: the database cannot be used"), "{what}: {told}");
        assert!(told.contains(said), "{what}: {told}");
        assert!(!told.contains("sesame"), "{what}: {told}");
    }
}
