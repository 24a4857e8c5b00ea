//! The way to other hosts.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Bed, LIMIT, Speaks};
use crate::{gateway::Pass, policy::egress::Egress, tasks::spawn_owned};

/// A host that repeats what it is sent until a blank line, and then ends.
async fn host() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = socket.local_addr().expect("an address");
    drop(spawn_owned(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut heard).await.unwrap_or(0) > 0
            {}
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_bytes();
            stream.write_all(&[head, &heard].concat()).await.ok();
        }
    }));
    address
}

async fn bed(patterns: &[String]) -> Bed {
    let patterns = patterns.iter().map(|text| text.parse().expect("a pattern")).collect();
    Bed::start(Speaks::Http1, |settings| settings.egress = Egress::Hosts(patterns)).await
}

/// Asks the gateway's own listener, where each process says who it is.
async fn ask(bed: &Bed, pass: &Pass, head: &str, rest: &str) -> String {
    let mut stream = TcpStream::connect(bed.gateway.0.address).await.expect("connected");
    let who = STANDARD.encode(format!("{}:", pass.token()));
    let request = format!("{head}\r\nproxy-authorization: Basic {who}\r\n\r\n{rest}");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("text");
    answer
}

/// How an attempt to be led to a place is answered.
pub(super) async fn status(bed: &Bed, token: &str, place: &str) -> String {
    let mut stream = TcpStream::connect(bed.gateway.0.address).await.expect("connected");
    let who = STANDARD.encode(format!("{token}:"));
    let request =
        format!("CONNECT {place} HTTP/1.1\r\nhost: x\r\nproxy-authorization: Basic {who}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut answer)).await;
    read.expect("in time").expect("answered");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_listed_host_is_led_to_by_tunnel_and_in_plain_text() {
    let host = host().await;
    let bed = bed(&[host.to_string()]).await;
    let pass = bed.pass();
    let told =
        ask(&bed, &pass, &format!("CONNECT {host} HTTP/1.1\r\nhost: {host}"), "hello\r\n\r\n")
            .await;
    assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("hello\r\n\r\n"), "{told}");
    let plain = format!(
        "GET http://{host}/a?b HTTP/1.1\r\nhost: elsewhere\r\nx-own: 1\r\nconnection: close"
    );
    let told = ask(&bed, &pass, &plain, "").await;
    assert!(told.contains("GET /a?b HTTP/1.1") && told.contains("x-own: 1"), "{told}");
    assert!(told.contains(&format!("host: {host}")) && !told.contains("elsewhere"), "{told}");
    assert!(!told.contains("proxy-authorization"), "{told}");
    bed.end().await;
}

#[tokio::test]
async fn nobody_is_led_to_what_is_not_listed_or_without_a_name() {
    let (host, other) = (host().await, host().await);
    let bed = bed(&[host.to_string(), "localhost:*".into()]).await;
    let pass = bed.pass();
    for (place, expected) in [
        (other.to_string(), 403),
        // A name that is listed, with an address that is not.
        (format!("localhost:{}", other.port()), 403),
        ("169.254.169.254:80".into(), 403),
        ("[::1]:443".into(), 403),
        ("example.org:443".into(), 403),
        ("nothing".into(), 400),
    ] {
        let told = status(&bed, pass.token(), &place).await;
        assert_eq!(told, format!("HTTP/1.1 {expected}"), "{place}");
    }
    let ended = bed.pass();
    let old = ended.token().to_owned();
    drop(ended);
    for (token, expected) in [(old.as_str(), 407), ("", 407), (pass.token(), 200)] {
        let told = status(&bed, token, &host.to_string()).await;
        assert_eq!(told, format!("HTTP/1.1 {expected}"), "{token}");
    }
    bed.end().await;
}

#[tokio::test]
async fn a_tunnel_ends_with_its_process() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let place = silent.local_addr().expect("an address");
    let bed = bed(&[place.to_string()]).await;
    let pass = bed.pass();
    let mut stream = TcpStream::connect(bed.gateway.0.address).await.expect("connected");
    let who = STANDARD.encode(format!("{}:", pass.token()));
    let request =
        format!("CONNECT {place} HTTP/1.1\r\nhost: x\r\nproxy-authorization: Basic {who}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut held, _) = silent.accept().await.expect("accepted");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("answered");
    drop(pass);
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("it ends").ok();
    tokio::time::timeout(LIMIT, held.read_to_end(&mut rest)).await.expect("it ends").ok();
    bed.end().await;
}
