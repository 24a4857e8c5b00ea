//! Connections: whoever does not get on with it is cut off, whoever does nothing gives way,
//! and callers who do what callers do notice nothing of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prost::Message as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use session_pool::config::Config;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    raw::{
        self, CANCEL, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, Raw, SETTINGS,
        frame,
    },
    support::{
        free_address,
        service::{Service, fake_cli, query, script},
    },
    tls::{Authority, install},
};

const QUERY: &str = "/sessionpool.v1.SessionPoolService/Query";
const STATS: &str = "/sessionpool.v1.SessionPoolService/GetStats";

fn address_of(service: &Service) -> SocketAddr {
    service.address.trim_start_matches("http://").parse().expect("an address")
}

async fn limited(change: impl FnOnce(&mut Config)) -> (Service, SocketAddr) {
    let service = Service::start(change).await;
    let address = address_of(&service);
    (service, address)
}

/// What clients say that never say all that a connection begins with.
fn half_greetings() -> [Vec<u8>; 4] {
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    [
        Vec::new(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &settings[..settings.len() - 1]].concat(),
    ]
}

#[tokio::test]
async fn c4_a_greeting_that_is_never_finished_ends_the_connection_on_every_listener() {
    let probes = free_address();
    let (service, address) = limited(|config| {
        config.server.limits.handshake_timeout = Duration::from_millis(300);
        config.server.health_listen = Some(probes);
    })
    .await;
    for address in [address, probes] {
        for greeting in half_greetings() {
            let begun = Instant::now();
            let mut raw = Raw { stream: TcpStream::connect(address).await.expect("connected") };
            raw.send(&greeting).await;
            raw.until_closed().await;
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(250), "not before its time: {took:?}");
        }
        // One that is finished in time is not cut off when that time is over.
        let mut raw = Raw::greeted(address).await;
        sleep(Duration::from_millis(600)).await;
        raw.send(&frame(raw::PING, 0, 0, b"12345678")).await;
        let pong = loop {
            let next = raw.next().await.expect("it goes on");
            if next.kind == raw::PING && next.flags == raw::ACK {
                break next;
            }
        };
        assert_eq!(pong.payload, b"12345678");
    }
    service.stop().await;
}

#[tokio::test]
async fn c4_a_greeting_that_is_never_finished_ends_the_connection_behind_tls_too() {
    let (state, folder) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let authority = Authority::new();
    install(folder.path(), &authority.server());
    let mut config = fake_cli(state.path());
    config.tls.cert = Some(folder.path().join("cert.pem"));
    config.tls.key = Some(folder.path().join("key.pem"));
    config.server.limits.handshake_timeout = Duration::from_millis(500);
    let service = Service::with(config, state).await;
    let mut roots = RootCertStore::empty();
    let own = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate");
    roots.add(own).expect("good");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("some");
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    // Nothing of a handshake at all.
    let mut silent =
        Raw { stream: TcpStream::connect(address_of(&service)).await.expect("connected") };
    silent.until_closed().await;
    for greeting in half_greetings() {
        let stream = TcpStream::connect(address_of(&service)).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = connector.connect(name, stream).await.expect("a handshake");
        let mut raw = Raw { stream };
        raw.send(&greeting).await;
        raw.until_closed().await;
    }
    service.stop().await;
}

#[tokio::test]
async fn c4_silent_connections_give_way_and_those_of_callers_do_not() {
    let (service, address) = limited(|config| {
        config.server.limits.max_connections = 8;
    })
    .await;
    let prompt = script(&["say one", "sleep 4000", "say two"]);
    let mut turn = service.open(query("busy", &prompt)).await.expect("taken");
    turn.until_text("one").await;
    // Greeted and silent: more than there is room for, and then some without a word.
    let mut silent = Vec::new();
    for index in 0..24 {
        silent.push(match index % 2 {
            0 => Raw::greeted(address).await,
            _ => Raw { stream: TcpStream::connect(address).await.expect("connected") },
        });
    }
    let another = timeout(Duration::from_secs(15), service.another_client()).await;
    let mut another = another.expect("let in while others are silent");
    let stats = timeout(
        Duration::from_secs(5),
        another.get_stats(session_pool::proto::GetStatsRequest::default()),
    );
    stats.await.expect("in time").expect("answered");
    silent[0].until_closed().await;
    turn.finish().await;
    assert_eq!(turn.result().result, "two", "a connection with a turn does not give way");
    drop(silent);
    service.stop().await;
}

#[tokio::test]
async fn c4_a_connection_without_calls_is_closed_in_a_way_on_which_no_call_is_lost() {
    let (service, address) = limited(|config| {
        config.server.limits.idle_timeout = Duration::from_millis(300);
    })
    .await;
    // A library's client connects again by itself. (One that sends in the very moment in
    // which its own connection task ends is told so by its library, whatever the service
    // does: those moments are left out here and tried with frames below.)
    let client = service.another_client().await;
    for pause in [0, 100, 150, 900, 1500] {
        sleep(Duration::from_millis(pause)).await;
        let request = session_pool::proto::GetStatsRequest::default();
        client.clone().get_stats(request).await.expect("no call is lost");
    }
    // A call that takes longer than the limit is not idleness.
    let turn = service.query("long", &script(&["say one", "sleep 900", "say two"])).await;
    assert_eq!(turn.result().result, "two");
    // The first GOAWAY says only that no more calls are wanted: one that crosses it on its
    // way is answered.
    let mut raw = Raw::greeted(address).await;
    let ping = loop {
        let next = raw.next().await.expect("told first");
        match next.kind {
            GOAWAY => assert_eq!(next.payload[..4], [0x7f, 0xff, 0xff, 0xff]),
            raw::PING if next.flags == 0 => break next,
            _ => {}
        }
    };
    raw.send(&frame(HEADERS, END_HEADERS, 1, &raw::call(STATS, &[]))).await;
    raw.send(&frame(raw::DATA, END_STREAM, 1, &raw::message(&[]))).await;
    raw.send(&frame(raw::PING, raw::ACK, 0, &ping.payload)).await;
    let answer = raw.until_end_of(1).await;
    assert!(answer.iter().any(|frame| frame.kind == raw::DATA && frame.stream == 1), "{answer:?}");
    raw.until_closed().await;
    // One that answers nothing is closed all the same, and told that it was no fault.
    let mut raw = Raw::greeted(address).await;
    let mut told = None;
    while let Some(next) = raw.next().await {
        if next.kind == GOAWAY {
            told = Some(next.payload[4..8].to_vec());
        }
    }
    assert_eq!(told, Some(vec![0; 4]), "GOAWAY with NO_ERROR");
    service.stop().await;
}

#[tokio::test]
async fn c2_what_a_connection_may_hold_is_told_in_its_settings() {
    let (service, address) = limited(|config| {
        config.server.limits.max_streams = 77;
        config.server.limits.max_header_bytes = 5000;
    })
    .await;
    let mut raw = Raw::greeted(address).await;
    let settings = raw.next().await.expect("a frame");
    assert_eq!(settings.kind, SETTINGS);
    let told = |id: u16| {
        let mut entries = settings.payload.chunks_exact(6);
        let entry = entries.find(|entry| entry[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    };
    assert_eq!((told(3), told(6)), (Some(77), Some(5000)));
    service.stop().await;
}

/// Calls that are opened and cancelled in one packet.
fn cancelled(streams: impl Iterator<Item = u32>) -> Vec<u8> {
    let headers = raw::call(STATS, &[]);
    let pair = |stream| {
        [frame(HEADERS, END_HEADERS, stream, &headers), frame(RST_STREAM, 0, stream, &CANCEL)]
            .concat()
    };
    streams.flat_map(pair).collect()
}

#[tokio::test]
async fn c2_a_proxys_connection_outlives_batches_of_cancelled_calls() {
    let (service, address) = limited(|_| {}).await;
    let mut raw = Raw::greeted(address).await;
    let prompt = script(&["say one", "sleep 4000", "say two"]);
    let request = raw::message(&query("long", &prompt).encode_to_vec());
    raw.send(&frame(HEADERS, END_HEADERS, 1, &raw::call(QUERY, &[]))).await;
    raw.send(&frame(raw::DATA, END_STREAM, 1, &request)).await;
    let mut next = 3;
    for batch in [21, 50, 100, 200, 1000, 3000] {
        let bytes = cancelled((next..).step_by(2).take(batch));
        raw.send(&bytes).await;
        next += 2 * u32::try_from(batch).expect("few");
        sleep(Duration::from_millis(50)).await;
    }
    // And faster than they can be looked at.
    for _ in 0..100 {
        raw.send(&cancelled((next..).step_by(2).take(200))).await;
        next += 400;
    }
    // Calls that were under way for a while, and are cancelled together.
    let open: Vec<u32> = (next..).step_by(2).take(200).collect();
    let headers = raw::call(QUERY, &[]);
    let opened: Vec<u8> =
        open.iter().flat_map(|stream| frame(HEADERS, END_HEADERS, *stream, &headers)).collect();
    raw.send(&opened).await;
    sleep(Duration::from_millis(100)).await;
    let resets: Vec<u8> =
        open.iter().flat_map(|stream| frame(RST_STREAM, 0, *stream, &CANCEL)).collect();
    raw.send(&resets).await;
    let frames = raw.until_end_of(1).await;
    assert!(frames.iter().all(|frame| frame.kind != GOAWAY), "{frames:?}");
    let sent: Vec<u8> = frames
        .into_iter()
        .filter(|frame| frame.stream == 1 && frame.kind == raw::DATA)
        .flat_map(|frame| frame.payload)
        .collect();
    assert!(sent.windows(3).any(|bytes| bytes == b"two"), "the long turn has its result");
    service.stop().await;
}

#[tokio::test]
async fn c4_health_is_answered_while_connections_flood_its_listener() {
    let probes = free_address();
    let (service, _) = limited(|config| config.server.health_listen = Some(probes)).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::greeted(probes).await);
    }
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{probes}"));
    let answered = timeout(Duration::from_secs(10), async {
        let channel = endpoint.expect("an address").connect().await.expect("connected");
        let request = HealthCheckRequest { service: "liveness".into() };
        HealthClient::new(channel).check(request).await
    });
    answered.await.expect("in time").expect("answered");
    drop(silent);
    service.stop().await;
}
