mod api;
mod audited;
mod proxy;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use self::api::{Api, COST, EVENTS, Seen, Speaks, serve_api};
use super::*;
use crate::cli::cost::Wire as _;

const LIMIT: Duration = Duration::from_secs(20);

/// A gateway before such an API.
struct Bed {
    gateway: Gateway,
    tasks: Tasks,
    seen: mpsc::Receiver<Seen>,
    api: Api,
    folder: tempfile::TempDir,
}

impl Bed {
    async fn start(speaks: Speaks, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        std::fs::write(&key, "sk-real\n").expect("written");
        let (sender, seen) = mpsc::channel(100);
        let api = Api { pieces: Arc::default(), seen: sender, status: StatusCode::OK };
        let (address, ca) = serve_api(api.clone(), speaks, folder.path()).await;
        let scheme = if speaks == Speaks::Tls { "https" } else { "http" };
        let mut settings = Settings {
            upstream: format!("{scheme}://{address}/base/").parse().expect("an address"),
            ca,
            http2: speaks != Speaks::Http1,
            connect_timeout: LIMIT,
            credential: Some(CredentialFile {
                key: "gateway.api_key_file",
                kind: CredentialKind::ApiKey,
                path: key,
            }),
            tenants: BTreeMap::new(),
            prices: Prices::new(Vec::new()),
            tokens_per_minute: None,
            serves_api: true,
            egress: Egress::Open,
            audit: Audit::default(),
        };
        change(&mut settings);
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let tasks = Tasks::default();
        let gateway = Gateway::start(settings, socket, &tasks).await.expect("started");
        Self { gateway, tasks, seen, api, folder }
    }

    /// With a request that has gone, whose answer is what is sent as pieces.
    async fn streaming() -> (Self, Pass, mpsc::Sender<Bytes>, TcpStream) {
        let mut bed = Self::start(Speaks::Http1, |_| {}).await;
        let (pieces, of_api) = mpsc::channel(1);
        *bed.api.pieces.lock().expect("not poisoned") = Some(of_api);
        let pass = bed.pass();
        let stream = bed.begin(pass.token(), "/v1/messages", b"{}").await;
        bed.seen.recv().await.expect("asked");
        (bed, pass, pieces, stream)
    }

    fn pass(&self) -> Pass {
        self.gateway.pass(&TenantId::default(), ClientId::fresh(), false).expect("for the API")
    }

    /// Sends a request as a CLI does, and reads the answer to its end.
    async fn ask(&self, token: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.begin(token, path, body).await;
        let mut answer = Vec::new();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("in time").ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
        (status, answer)
    }

    async fn begin(&self, token: &str, path: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.gateway.0.address).await.expect("connected");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway\r\nx-api-key: {token}\r\nauthorization: Bearer no\r\n\
             anthropic-beta: a,b\r\nx-unknown: 1\r\nconnection: close, x-mine\r\nx-mine: 1\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(body).await.expect("sent");
        stream
    }

    async fn end(self) {
        assert!(self.tasks.stop(LIMIT).await, "connections are left");
    }
}

#[tokio::test]
async fn a_request_goes_with_the_credential_and_without_what_is_of_its_connection() {
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Tls] {
        let mut bed = Bed::start(speaks, |_| {}).await;
        let pass = bed.pass();
        let (status, answer) = bed.ask(pass.token(), "/v1/messages?beta=true", b"{}").await;
        assert_eq!(status, 200, "{answer}");
        assert!(
            answer.contains("request-id: req_1") && answer.contains("message_delta"),
            "{answer}"
        );
        assert!(!answer.contains("x-of-connection"), "{answer}");
        let seen = bed.seen.recv().await.expect("asked");
        assert_eq!(
            (seen.method, seen.path.as_str(), seen.body),
            (Method::POST, "/base/v1/messages?beta=true", 2)
        );
        let header = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("x-api-key"), Some("sk-real"));
        assert_eq!(header("anthropic-beta"), Some("a,b"));
        assert_eq!(header("x-unknown"), Some("1"));
        assert_eq!(header("accept-encoding"), Some("identity"));
        for name in ["authorization", "x-mine"] {
            assert_eq!(header(name), None, "{name}");
        }
        assert_ne!(header("host"), Some("gateway"));
        // What it has used is known when the answer is.
        assert!((pass.account().sum() - COST).abs() < 1e-9);
        bed.end().await;
    }
}

#[tokio::test]
async fn who_has_no_living_process_s_token_reaches_nobody() {
    let mut bed = Bed::start(Speaks::Http1, |_| {}).await;
    let pass = bed.pass();
    let ended = bed.pass();
    let old = ended.token().to_owned();
    drop(ended);
    for token in ["", "sk-real", old.as_str()] {
        let (status, answer) = bed.ask(token, "/v1/messages", b"{}").await;
        assert_eq!(status, 401, "{answer}");
        assert!(answer.contains(r#"{"error":{"message":"the token"#), "{answer}");
        assert!(answer.contains(r#""type":"authentication_error""#), "{answer}");
    }
    for path in ["/v1/files", "/v1/messages/batches", "/v1/messages/../files", "//v1/messages", "/"]
    {
        let (status, answer) = bed.ask(pass.token(), path, b"{}").await;
        assert_eq!(status, 404, "{path}: {answer}");
    }
    assert!(bed.seen.try_recv().is_err(), "the API was asked");
    bed.end().await;
}

#[tokio::test]
async fn an_answer_streams_through_and_is_cut_with_its_process() {
    let (bed, pass, pieces, mut stream) = Bed::streaming().await;
    let mut read = Vec::new();
    for piece in ["data: one\n\n", "data: two\n\n"] {
        pieces.send(Bytes::from_static(piece.as_bytes())).await.expect("taken");
        while !String::from_utf8_lossy(&read).contains(piece) {
            let more = tokio::time::timeout(LIMIT, stream.read_buf(&mut read)).await;
            assert_ne!(more.expect("before the answer ends").expect("read"), 0);
        }
    }
    drop(pass);
    let rest = tokio::time::timeout(LIMIT, stream.read_to_end(&mut read)).await;
    drop(rest.expect("the answer ends with its process"));
    // The API hears of it, too.
    tokio::time::timeout(LIMIT, pieces.closed()).await.expect("the request is given up");
    bed.end().await;
}

#[tokio::test]
async fn who_leaves_has_its_request_given_up_and_what_it_used_counted() {
    let (bed, pass, pieces, mut stream) = Bed::streaming().await;
    let start = EVENTS.split_inclusive("\n\n").next().expect("an event");
    pieces.send(Bytes::from_static(start.as_bytes())).await.expect("taken");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("message_start") {
        assert_ne!(stream.read_buf(&mut read).await.expect("read"), 0);
    }
    drop(stream);
    tokio::time::timeout(LIMIT, pieces.closed()).await.expect("the request is given up");
    assert!((pass.account().sum() - 1.000_005).abs() < 1e-9, "{}", pass.account().sum());
    bed.end().await;
}

#[tokio::test]
async fn budgets_are_held_before_a_request_goes() {
    #[derive(Debug)]
    struct Left(f64);
    impl Allowances for Left {
        fn left_today(&self, _: &TenantId) -> Option<f64> {
            Some(self.0)
        }
    }
    let mut bed =
        Bed::start(Speaks::Http1, |settings| settings.tokens_per_minute = Some(3_000_000)).await;
    bed.gateway.hold_to(Arc::new(Left(2.5 * COST)));
    let (one, other) = (bed.pass(), bed.pass());
    let ask = async |pass: &Pass| bed.ask(pass.token(), "/v1/messages", b"{}").await;
    one.account().allow(Some(COST));
    assert_eq!(ask(&one).await.0, 200);
    let (status, answer) = ask(&one).await;
    assert!(status == 402 && answer.contains("max_budget_usd"), "{answer}");
    assert_eq!(ask(&other).await.0, 200);
    // Four million tokens in a minute, where three may be used.
    let (status, answer) = ask(&other).await;
    assert!(status == 429 && answer.contains("tenant_max_tokens_per_minute"), "{answer}");
    let wait = answer.lines().find_map(|line| line.strip_prefix("retry-after: "));
    assert!(
        (1..=61).contains(&wait.and_then(|it| it.trim().parse::<u64>().ok()).expect("a wait")),
        "{answer}"
    );
    for _ in 0..2 {
        bed.seen.recv().await.expect("asked");
    }
    assert!(bed.seen.try_recv().is_err(), "a request went that nobody pays");
    bed.end().await;
    let bed = Bed::start(Speaks::Http1, |_| {}).await;
    bed.gateway.hold_to(Arc::new(Left(1.5 * COST)));
    let (one, other) = (bed.pass(), bed.pass());
    for (pass, expected) in [(&one, 200), (&other, 200), (&one, 402)] {
        let (status, answer) = bed.ask(pass.token(), "/v1/messages", b"{}").await;
        assert_eq!(status, expected, "{answer}");
    }
    bed.end().await;
}

#[tokio::test]
async fn a_key_that_is_rotated_counts_from_the_next_request_on() {
    let mut bed = Bed::start(Speaks::Http1, |_| {}).await;
    let pass = bed.pass();
    for key in ["sk-real", "sk-new", "sk-newer"] {
        std::fs::write(bed.folder.path().join("key"), key).expect("written");
        assert_eq!(bed.ask(pass.token(), "/v1/messages", b"{}").await.0, 200);
        let seen = bed.seen.recv().await.expect("asked");
        assert_eq!(seen.headers.get("x-api-key").expect("a key"), key);
    }
    bed.end().await;
}

#[tokio::test]
async fn an_api_that_is_not_there_is_told_in_its_own_words() {
    let nobody = closed_port().await;
    let bed = Bed::start(Speaks::Http1, |settings| {
        settings.upstream = format!("http://{nobody}").parse().expect("an address");
    })
    .await;
    let pass = bed.pass();
    let (status, answer) = bed.ask(pass.token(), "/v1/messages", b"{}").await;
    assert!(status == 502 && answer.contains("the API cannot be reached"), "{answer}");
    assert!(!answer.contains("sk-real"), "{answer}");
    bed.end().await;
}

async fn closed_port() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    socket.local_addr().expect("an address")
}

#[tokio::test]
async fn a_large_request_streams_through() {
    let mut bed = Bed::start(Speaks::Http1, |_| {}).await;
    let pass = bed.pass();
    let body = vec![b'x'; 100 << 20];
    assert_eq!(bed.ask(pass.token(), "/v1/messages", &body).await.0, 200);
    assert_eq!(bed.seen.recv().await.expect("asked").body, body.len());
    bed.end().await;
}

#[tokio::test]
async fn who_hangs_up_before_the_end_has_not_written_for_nothing() {
    let (bed, pass, pieces, mut stream) = Bed::streaming().await;
    let start = EVENTS.split_inclusive("\n\n").next().expect("an event");
    let text = "x".repeat(30_000);
    let delta = format!("data: {{\"type\":\"content_block_delta\",\"text\":\"{text}\"}}\n\n");
    for piece in [start.to_owned(), delta] {
        pieces.send(Bytes::from(piece)).await.expect("taken");
    }
    let mut read = Vec::new();
    while read.iter().filter(|byte| **byte == b'x').count() < text.len() {
        let more = tokio::time::timeout(LIMIT, stream.read_buf(&mut read)).await;
        assert_ne!(more.expect("it is passed on").expect("read"), 0);
    }
    drop(stream);
    tokio::time::timeout(LIMIT, pieces.closed()).await.expect("the request is given up");
    let account = pass.account();
    let counted = async || {
        while account.sum() < 1.04 {
            tokio::task::yield_now().await;
        }
    };
    // A million tokens read for a dollar, and some ten thousand written for five cents.
    tokio::time::timeout(LIMIT, counted()).await.expect("it is counted");
    assert!(account.sum() < 1.06, "{}", account.sum());
    bed.end().await;
}

#[tokio::test]
async fn a_pass_for_other_hosts_alone_does_not_open_the_api() {
    let mut bed =
        Bed::start(Speaks::Http1, |settings| settings.egress = Egress::Hosts(Vec::new())).await;
    let own_way =
        bed.gateway.pass(&TenantId::default(), ClientId::fresh(), true).expect("for hosts");
    assert_eq!(bed.ask(own_way.token(), "/v1/messages", b"{}").await.0, 401);
    assert!(!bed.gateway.variables(&own_way, true).contains_key("ANTHROPIC_API_KEY"));
    assert!(bed.gateway.variables(&own_way, true).contains_key("HTTPS_PROXY"));
    assert!(bed.seen.try_recv().is_err(), "the API was asked");
    bed.end().await;
}
