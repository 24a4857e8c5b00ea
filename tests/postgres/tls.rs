//! TLS between a node and its database: whom the node talks to is checked, and what it is refused
//! for is said without the password.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use session_pool::{config::StoreKind, server};
use tempfile::TempDir;

use super::{
    Server, ask, node,
    support::service::{fake_cli, process_tree},
};

/// An authority, whose certificate is in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Self { issuer, folder }
    }

    /// A certificate for this host, and its key.
    fn issue(&self, host: &str) -> (String, String) {
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("issued");
        (cert.pem(), key.serialize_pem())
    }

    /// The end of a connection string that trusts it.
    fn trusted(&self) -> String {
        format!("sslmode=verify-full&sslrootcert={}", self.folder.path().join("ca.pem").display())
    }
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
    let node = node("one", &url("localhost", &authority.trusted()), &[]).await;
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
        ("another authority", url("localhost", &other.trusted()), "invalid peer certificate"),
        ("another host", url("127.0.0.1", &authority.trusted()), "not valid for"),
        (
            "no TLS",
            format!("postgres://tester:sesame@localhost:{plain_port}/x?{}", authority.trusted()),
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
