//! TLS: certificates of the server and of its callers, swapped while it serves; callers
//! that speak something else, or nothing.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use session_pool::{
    config::Config,
    proto::{
        GetSessionRequest, GetStatsRequest,
        session_pool_service_client::SessionPoolServiceClient as Client,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    bed::{Bearer, file_of, token},
    support::{
        eventually, failure, free_address,
        service::{Service, fake_cli, query},
        turn::Turn,
    },
};

/// An authority that issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("issued");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn server(&self) -> Issued {
        let names = vec!["localhost".to_owned()];
        self.issue(CertificateParams::new(names).expect("a name"))
    }

    fn caller(&self, tenant: &str, organization: Option<&str>) -> Issued {
        self.issue(caller(tenant, organization))
    }
}

fn caller(tenant: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, tenant);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params
}

/// A service over TLS, and the authority that callers know it by.
pub struct Bed {
    pub service: Service,
    folder: TempDir,
    pub authority: Authority,
}

impl Bed {
    /// With client certificates of these authorities, and further changes.
    pub async fn start(
        clients: Option<&Authority>,
        change: impl FnOnce(&mut Config, &Path),
    ) -> Self {
        let (state, folder) =
            (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let authority = Authority::new();
        install(folder.path(), &authority.server());
        let mut config = fake_cli(state.path());
        let at = |name: &str| -> Option<PathBuf> { Some(folder.path().join(name)) };
        config.tls.cert = at("cert.pem");
        config.tls.key = at("key.pem");
        if let Some(clients) = clients {
            fs::write(folder.path().join("clients.pem"), clients.pem()).expect("written");
            config.tls.client_ca = at("clients.pem");
        }
        change(&mut config, folder.path());
        Self { service: Service::with(config, state).await, folder, authority }
    }

    pub fn address(&self) -> SocketAddr {
        self.service.address.trim_start_matches("http://").parse().expect("an address")
    }

    /// Connects as a caller who trusts this authority.
    async fn connect(&self, trusted: &Authority, own: Option<&Issued>) -> Option<Channel> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(trusted.pem()))
            .domain_name("localhost");
        if let Some(own) = own {
            tls = tls.identity(Identity::from_pem(&own.cert, &own.key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address()));
        endpoint.expect("an address").tls_config(tls).expect("good").connect().await.ok()
    }

    /// Whether a caller with this certificate is let in.
    async fn knock(&self, own: Option<&Issued>) -> Result<(), Option<Status>> {
        let channel = self.connect(&self.authority, own).await.ok_or(None)?;
        let asked = Client::new(channel).get_stats(GetStatsRequest::default()).await;
        asked.map(drop).map_err(Some)
    }
}

pub fn install(folder: &Path, issued: &Issued) {
    fs::write(folder.join("cert.pem"), &issued.cert).expect("written");
    fs::write(folder.join("key.pem"), &issued.key).expect("written");
}

#[tokio::test]
async fn the_certificate_names_tenant_and_role() {
    let clients = Authority::new();
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let (a, b) = (clients.caller("a", None), clients.caller("b", None));
    let admin = clients.caller("ops", Some("session-pool:admin"));
    let [a, b, admin] = [&a, &b, &admin].map(async |own| {
        Client::new(bed.connect(&bed.authority, Some(own)).await.expect("connected"))
    });
    let (mut a, mut b, mut admin) = tokio::join!(a, b, admin);
    let mut turn = Turn::new(a.query(query("s", "hello")).await.expect("taken").into_inner());
    turn.finish().await;
    assert_eq!(turn.result().result, "echo: hello");
    let look = || GetSessionRequest { session_id: "s".into() };
    a.get_session(look()).await.expect("its own");
    let status = b.get_session(look()).await.expect_err("not its own");
    failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
    let all = GetStatsRequest { all_tenants: true, ..Default::default() };
    let status = b.get_stats(all).await.expect_err("no admin");
    failure(&status, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(admin.get_stats(all).await.expect("an admin").into_inner().total_sessions, 1);
    bed.service.stop().await;
}

#[tokio::test]
async fn a_caller_with_a_bad_certificate_or_none_stays_outside() {
    let (clients, others) = (Authority::new(), Authority::new());
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let mut expired = caller("a", None);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (expired, foreign) = (clients.issue(expired), others.caller("a", None));
    for own in [None, Some(&foreign), Some(&expired)] {
        let refused = bed.knock(own).await.expect_err("refused");
        // TLS 1.3 tells a client after its own part of the handshake is done.
        assert!(refused.is_none_or(|status| status.code() != Code::Ok));
    }
    let nameless = clients.caller("not a tenant", None);
    let refused = bed.knock(Some(&nameless)).await.expect_err("refused").expect("a status");
    failure(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
    bed.knock(Some(&clients.caller("a", None))).await.expect("let in");
    bed.service.stop().await;
}

#[tokio::test]
async fn a_token_decides_even_beside_a_good_certificate() {
    let clients = Authority::new();
    let good = token("by-token", false, None);
    let bed = Bed::start(Some(&clients), |config, folder| {
        let file = folder.join("tokens.toml");
        fs::write(&file, file_of(&[&good])).expect("written");
        config.auth.tokens_file = Some(file);
    })
    .await;
    let own = clients.caller("by-certificate", None);
    let stats = async |own: Option<&Issued>, header: Option<String>| {
        let channel = bed.connect(&bed.authority, own).await.expect("connected");
        let mut client = Client::with_interceptor(channel, Bearer(header));
        client.get_stats(GetStatsRequest::default()).await.map(drop)
    };
    let bearer = |secret: &str| Some(format!("Bearer {secret}"));
    stats(Some(&own), None).await.expect("a certificate alone");
    stats(None, bearer(&good.secret)).await.expect("a token alone");
    let refused = stats(Some(&own), bearer("sp_wrong")).await.expect_err("a wrong token");
    failure(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
    let refused = stats(None, None).await.expect_err("neither");
    let metadata = failure(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(metadata.get("field").map(String::as_str), Some("authorization"));
    bed.service.stop().await;
}

#[tokio::test]
async fn certificates_are_swapped_without_a_restart() {
    let clients = Authority::new();
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let own = clients.caller("a", None);
    let kept = bed.connect(&bed.authority, Some(&own)).await.expect("connected");

    // A pair that does not fit is not taken.
    let next = Authority::new();
    let issued = next.server();
    fs::write(bed.folder.path().join("cert.pem"), &issued.cert).expect("written");
    bed.knock(Some(&own)).await.expect("the old pair is in force");
    install(bed.folder.path(), &issued);
    eventually("the new certificate", async || bed.connect(&next, Some(&own)).await).await;
    assert!(bed.connect(&bed.authority, Some(&own)).await.is_none(), "the old one is gone");
    let mut kept = Client::new(kept);
    let asked = kept.get_stats(GetStatsRequest::default()).await;
    asked.expect("a connection that was there goes on");

    // Other callers from now on.
    let others = Authority::new();
    fs::write(bed.folder.path().join("clients.pem"), others.pem()).expect("written");
    let other = others.caller("a", None);
    eventually("the new authority", async || {
        let channel = bed.connect(&next, Some(&other)).await?;
        Client::new(channel).get_stats(GetStatsRequest::default()).await.ok()
    })
    .await;
    let former = bed.connect(&next, Some(&own)).await;
    let asked = match former {
        Some(channel) => Client::new(channel).get_stats(GetStatsRequest::default()).await.ok(),
        None => None,
    };
    assert!(asked.is_none(), "nobody of the former authority comes in");
    // Certificates are checked against the authority when a connection begins.
    let asked = kept.get_stats(GetStatsRequest::default()).await;
    asked.expect("a connection of the former authority's goes on until it ends");
    bed.service.stop().await;
}

#[tokio::test]
async fn whoever_does_not_speak_tls_disturbs_nobody() {
    let clients = Authority::new();
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let own = clients.caller("a", None);
    // Some connect and say nothing, for as long as the test lasts.
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(bed.address()).await.expect("connected"));
    }
    let mut plain = TcpStream::connect(bed.address()).await.expect("connected");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    let closed = timeout(Duration::from_secs(5), plain.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection is closed");
    assert!(!answer.windows(4).any(|bytes| bytes == b"grpc"), "{answer:?}");
    let plain = Endpoint::from_shared(bed.service.address.clone()).expect("an address");
    if let Ok(channel) = plain.connect().await {
        let asked = Client::new(channel).get_stats(GetStatsRequest::default()).await;
        assert_ne!(asked.expect_err("nothing is answered in plain text").code(), Code::Ok);
    }
    bed.knock(Some(&own)).await.expect("others are served meanwhile");
    drop(silent);
    bed.service.stop().await;
}

#[tokio::test]
async fn silent_connections_do_not_use_up_the_places_for_handshakes() {
    let clients = Authority::new();
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let own = clients.caller("a", None);
    let mut silent = Vec::new();
    // More than there are places, and none of them ends by itself for ten seconds.
    for _ in 0..300 {
        silent.push(TcpStream::connect(bed.address()).await.expect("connected"));
    }
    let served = timeout(Duration::from_secs(6), bed.knock(Some(&own))).await;
    served.expect("served while the others say nothing").expect("let in");
    drop(silent);
    bed.service.stop().await;
}

#[tokio::test]
async fn a_certificate_that_expires_ends_what_its_connection_may_do() {
    let clients = Authority::new();
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let mut brief = caller("a", None);
    brief.not_after = (SystemTime::now() + Duration::from_secs(5)).into();
    let own = clients.issue(brief);
    let channel = bed.connect(&bed.authority, Some(&own)).await.expect("connected");
    let ask = async || Client::new(channel.clone()).get_stats(GetStatsRequest::default()).await;
    ask().await.expect("let in while it is good");
    let refused = eventually("the certificate's end", async || ask().await.err()).await;
    failure(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
    assert!(refused.message().contains("certificate has expired"), "{}", refused.message());
    bed.service.stop().await;
}

#[tokio::test]
async fn a_token_where_there_are_none_is_not_let_in_by_the_certificate() {
    let clients = Authority::new();
    let bed = Bed::start(Some(&clients), |_, _| {}).await;
    let own = clients.caller("a", None);
    let channel = bed.connect(&bed.authority, Some(&own)).await.expect("connected");
    let mut client = Client::with_interceptor(channel, Bearer(Some("Bearer sp_stray".into())));
    let refused = client.get_stats(GetStatsRequest::default()).await.expect_err("refused");
    failure(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
    bed.service.stop().await;
}

#[tokio::test]
async fn health_is_answered_in_plain_text_and_nothing_else_is() {
    let clients = Authority::new();
    let port = free_address();
    let bed = Bed::start(Some(&clients), |config, _| {
        config.server.health_listen = Some(port);
    })
    .await;
    let channel = Endpoint::from_shared(format!("http://{port}")).expect("an address");
    let channel = channel.connect().await.expect("connected");
    let request = HealthCheckRequest { service: "liveness".into() };
    HealthClient::new(channel.clone()).check(request).await.expect("answered");
    let asked = Client::new(channel).get_stats(GetStatsRequest::default()).await;
    assert_eq!(asked.expect_err("not here").code(), Code::Unimplemented);
    bed.service.stop().await;
}

#[tokio::test]
async fn f6_plain_http_to_a_tls_port_is_told_in_words_that_name_tls() {
    let bed = Bed::start(None, |_, _| {}).await;
    let stats = async |address: &str| {
        let program = tokio::process::Command::new(env!("CARGO_BIN_EXE_session-pool"))
            .args(["stats", "--address", address])
            .output();
        let output =
            timeout(crate::support::PATIENCE, program).await.expect("in time").expect("ran");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = stats(&bed.service.address).await;
    assert_eq!(code, Some(69), "{told}");
    assert!(told.contains("the service speaks TLS: use https://"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    for word in ["h2", "http2", "frame", "transport"] {
        assert!(!told.contains(word), "{told}");
    }
    bed.service.stop().await;
    // And the other way round.
    let plain = Service::with(fake_cli(bed.folder.path()), TempDir::new().expect("a folder")).await;
    let (code, told) = stats(&plain.address.replace("http://", "https://")).await;
    assert_eq!(code, Some(69), "{told}");
    assert!(told.contains("the service does not speak TLS: use http://"), "{told}");
    plain.stop().await;
}
