//! The API through the service: the CLI works as without it, the agent sees no key, and what a
//! session has cost is what the API has counted.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use axum::http::StatusCode;

use session_pool::{
    config::Config,
    proto::{RateLimitKind, RateLimited, SessionOptions, SessionStatus, turn_event::Kind},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::{
    bed::{Bed, Version, each_version, kinds},
    stand_in::Times,
    support::{eventually, service::query_with, turn::Turn},
};

each_version!(
    an_agent_sees_a_token_that_ends_with_its_process,
    ; pinned:
    what_a_session_cost_is_what_the_api_counted,
    what_an_agent_spends_beside_its_cli_counts_and_is_bounded,
    ; newest:
    a_key_that_is_rotated_fails_no_turn,
    a_limit_that_passes_fails_no_turn_and_one_of_hours_is_told_at_once,
);

const KEY: &str = "sk-ant-the-real-one";

/// A key in a file, which goes with the folder.
struct Key(TempDir);

impl Key {
    fn new() -> Self {
        let key = Self(TempDir::new().expect("a folder"));
        key.write(KEY);
        key
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("key")
    }

    fn write(&self, key: &str) {
        fs::write(self.path(), key).expect("written");
    }

    /// Has CLIs reach the stand-in through the gateway.
    fn behind_gateway(&self, config: &mut Config) {
        config.cli.env.remove("ANTHROPIC_API_KEY");
        config.gateway.upstream = config.cli.env.remove("ANTHROPIC_BASE_URL").expect("a stand-in");
        config.gateway.api_key_file = Some(self.path());
        config.gateway.enabled = true;
    }
}

fn with_bash(session: &str, prompt: &str) -> session_pool::proto::QueryRequest {
    let options =
        SessionOptions { allowed_tools: vec!["Bash".into()], ..SessionOptions::default() };
    query_with(session, prompt, options)
}

/// The values of two variables of an agent, which it was made to say.
fn said(turn: &Turn) -> (String, String) {
    let text = turn.text();
    let part = |name: &str| {
        let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("{name} in {text}"));
        rest.split('|').next().expect("a value").to_owned()
    };
    (part("url="), part("key="))
}

const SAY: &str = "[[bash echo \"url=$ANTHROPIC_BASE_URL|key=$ANTHROPIC_API_KEY|\"]]";

/// Sends a request as an agent could; returns the status.
async fn ask(url: &str, key: &str, body: &str) -> String {
    let address = url.strip_prefix("http://").expect("plain text");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn an_agent_sees_a_token_that_ends_with_its_process(version: Version) {
    let key = Key::new();
    let bed = Bed::with(version, |config| key.behind_gateway(config)).await;
    bed.api.accept_only(&[KEY]);
    let turn = bed.run(with_bash("a", SAY)).await;
    let (url, token) = said(&turn);
    assert!(token.starts_with("sk-ant-session-pool-") && url.starts_with("http://127."), "{url}");
    let shown = bed.last_request(&turn.result().cli_session_id);
    assert_eq!(shown.header("x-api-key"), Some(KEY));
    let everything = bed.run(with_bash("a", "[[bash env; cat /proc/$PPID/environ]]")).await;
    assert!(!everything.text().contains(KEY), "{}", everything.text());
    // Another process has another token; that of the first is worth nothing any more.
    bed.kill_after(&everything).await;
    let (_, next) = said(&bed.run(with_bash("a", SAY)).await);
    assert_ne!(next, token);
    assert_eq!(ask(&url, &token, "{}").await, "401");
    assert_ne!(ask(&url, &next, "{}").await, "401");
    bed.service.stop().await;
    bed.api.shutdown().await.expect("no connection is left");
}

async fn what_a_session_cost_is_what_the_api_counted(version: Version) {
    let key = Key::new();
    let bed = Bed::with(version, |config| {
        key.behind_gateway(config);
        config.pool.hibernate_after = Duration::from_millis(100);
    })
    .await;
    let mut total = 0.0;
    for (model, usage) in [
        ("", "input 1000 output 2000"),
        ("claude-sonnet-4-6", "input 30000 output 100 cache-read 500000"),
        ("claude-haiku-4-5", "input 5000 output 300 cache-write 40000 cache-read 20000"),
    ] {
        let options = SessionOptions {
            model: (!model.is_empty()).then(|| model.to_owned()),
            ..SessionOptions::default()
        };
        let session = format!("of-{model}");
        let turn =
            bed.run(query_with(&session, &format!("[[usage {usage}]][[say ok]]"), options)).await;
        let told = turn.result().total_cost_usd;
        let counted = bed.service.session(&session).await.expect("in the pool").total_cost_usd;
        // The CLI reckons with the same prices, of all the models that it knows.
        assert!((told - counted).abs() < 1e-9, "{model}: {told} told, {counted} counted");
        total += counted;
        eventually("hibernation", async || {
            let session = bed.service.session(&session).await.expect("in the pool");
            (session.status() == SessionStatus::Hibernated).then_some(())
        })
        .await;
    }
    assert!(total > 0.0);
    assert!((bed.service.stats().await.total_cost_usd - total).abs() < 1e-9);
    bed.stop().await;
}

async fn what_an_agent_spends_beside_its_cli_counts_and_is_bounded(version: Version) {
    let key = Key::new();
    let bed = Bed::with(version, |config| key.behind_gateway(config)).await;
    let options = SessionOptions {
        allowed_tools: vec!["Bash".into()],
        max_budget_usd: Some(1.0),
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with("a", SAY, options)).await;
    let (url, token) = said(&turn);
    let before = bed.service.session("a").await.expect("in the pool").total_cost_usd;
    // Sonnet: a hundred thousand tokens written cost 1.50.
    let body = r#"{"model":"claude-sonnet-4-5","max_tokens":64,"messages":[{"role":"user","content":"[[usage output 100000]][[say x]]"}]}"#;
    assert_eq!(ask(&url, &token, body).await, "200");
    assert_eq!(ask(&url, &token, body).await, "402", "the session's budget is spent");
    let turn = bed.run(with_bash("a", "one more")).await;
    let after = bed.service.session("a").await.expect("in the pool").total_cost_usd;
    assert!(after - before > 1.5, "{before} before, {after} after: {:?}", turn.events);
    bed.stop().await;
}

async fn a_key_that_is_rotated_fails_no_turn(version: Version) {
    let key = Key::new();
    let bed = Bed::with(version, |config| key.behind_gateway(config)).await;
    bed.api.accept_only(&[KEY]);
    let first = bed.query("a", "one").await;
    assert!(!first.result().is_error);
    key.write("sk-ant-another");
    bed.api.accept_only(&["sk-ant-another"]);
    let turn = bed.query("a", "two").await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    assert_eq!(
        bed.last_request(&turn.result().cli_session_id).header("x-api-key"),
        Some("sk-ant-another")
    );
    bed.stop().await;
}

/// What a turn was told of limits.
fn limits(turn: &Turn) -> Vec<RateLimited> {
    let limits = kinds(turn).filter_map(|kind| match kind {
        Kind::RateLimited(limit) => Some(limit.clone()),
        _ => None,
    });
    limits.collect()
}

async fn a_limit_that_passes_fails_no_turn_and_one_of_hours_is_told_at_once(version: Version) {
    let key = Key::new();
    let bed = Bed::with(version, |config| key.behind_gateway(config)).await;
    for session in ["a", "b", "c"] {
        bed.query(session, "hello").await.result();
    }
    let limited = StatusCode::TOO_MANY_REQUESTS;
    bed.api.refuse(limited, Some(2), Times::Count(3));
    let again = async |session| bed.service.query(session, "again").await;
    let (a, b, c) = tokio::join!(again("a"), again("b"), again("c"));
    let mut told = Vec::new();
    for turn in [a, b, c] {
        assert!(!turn.result().is_error, "{:?}", turn.result());
        told.extend(limits(&turn));
    }
    assert!(!told.is_empty(), "somebody was told why it takes longer");
    for limit in told {
        assert_eq!(limit.kind(), RateLimitKind::Requests);
        assert!(limit.model.starts_with("claude-"), "{limit:?}");
    }
    bed.api.refuse(limited, Some(7200), Times::Forever);
    let began = Instant::now();
    for (session, least) in [("a", 7000), ("b", 3500)] {
        let asked = SystemTime::now();
        let turn = bed.service.query(session, "and again").await;
        assert!(turn.result().is_error, "{:?}", turn.result());
        let [limit] = &limits(&turn)[..] else { panic!("one limit: {:?}", turn.events) };
        assert_eq!(limit.kind(), RateLimitKind::Quota);
        let until = SystemTime::try_from(limit.until.expect("a time")).expect("one");
        assert!(until > asked + Duration::from_secs(least), "{limit:?}");
    }
    let shown = bed.service.stats().await.rate_limits;
    assert!(shown.iter().any(|limit| limit.kind() == RateLimitKind::Quota), "{shown:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    bed.stop().await;
}
