//! Starts: side by side as far as `start_concurrency` allows, and nobody else waits.

use std::time::Duration;

use session_pool::proto::SessionStatus;
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use crate::support::{
    failure,
    service::{Service, model, query_with},
    turn::Turn,
};

async fn start(service: &Service, starts: &mut JoinSet<Turn>, id: String, knobs: &str) {
    let request = query_with(&id, "hello", model(knobs));
    let mut turn = service.open(request).await.expect("taken");
    starts.spawn(async move {
        turn.finish().await;
        turn
    });
}

#[tokio::test]
async fn sixteen_slow_starts_take_the_time_of_one_and_a_warm_session_is_served_meanwhile() {
    let service = Service::start(|config| config.pool.start_concurrency = 16).await;
    service.query("warm", "hello").await.result();
    let began = Instant::now();
    let mut starts = JoinSet::new();
    for n in 0..16 {
        start(&service, &mut starts, format!("s{n}"), "fake:boot=3000").await;
    }
    let mut warm_turns = 0;
    while starts.len() == 16 {
        let turn = service.query("warm", "meanwhile").await;
        assert_eq!(turn.result().result, "echo: meanwhile");
        if let Some(first) = starts.try_join_next() {
            first.expect("no panic").result();
            break;
        }
        warm_turns += 1;
    }
    // None of them has started yet, so the warm session waited for none of them.
    assert!(warm_turns >= 5, "{warm_turns}");
    for turn in starts.join_all().await {
        assert_eq!(turn.result().result, "echo: hello");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(16), "{took:?}");
    assert_eq!(service.processes().len(), 17);
    service.stop().await;
}

#[tokio::test]
async fn with_a_start_concurrency_of_one_they_start_one_after_the_other() {
    let service = Service::start(|config| config.pool.start_concurrency = 1).await;
    let mut starts = JoinSet::new();
    let began = Instant::now();
    for (id, knobs) in
        [("first", "fake:boot=3000"), ("second", "fake:boot=100"), ("third", "fake:boot=100")]
    {
        start(&service, &mut starts, id.into(), knobs).await;
        // In order of arrival: each is in line before the next one comes.
        crate::support::eventually("it is in line", async || {
            let starting = service.stats().await.starting_processes as usize;
            (starting == starts.len()).then_some(())
        })
        .await;
    }
    crate::support::eventually("the first one starts, alone", async || {
        assert!(service.processes().len() <= 1);
        (service.processes().len() == 1).then_some(())
    })
    .await;
    let mut order = Vec::new();
    while let Some(turn) = starts.join_next().await {
        let turn = turn.expect("no panic");
        turn.result();
        let at = turn.started().start_time.expect("a time");
        order.push((at.seconds, at.nanos, turn.started().session_id.clone()));
    }
    order.sort();
    let ids: Vec<&str> = order.iter().map(|(.., id)| id.as_str()).collect();
    assert_eq!(ids, ["first", "second", "third"]);
    assert!(began.elapsed() >= Duration::from_millis(3200), "{:?}", began.elapsed());
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_never_initialises_delays_no_other() {
    let service = Service::start(|config| {
        config.pool.start_concurrency = 2;
    })
    .await;
    let mut stuck = JoinSet::new();
    start(&service, &mut stuck, "stuck".into(), "fake:no-init").await;
    for n in 0..3 {
        assert_eq!(service.query(&format!("s{n}"), "hello").await.result().result, "echo: hello");
    }
    // It is still at it.
    let session = service.session("stuck").await.expect("there");
    assert_eq!(session.status(), SessionStatus::Connecting);
    service.close("stuck", false).await.expect("closed");
    let stuck = stuck.join_next().await.expect("one").expect("no panic");
    failure(stuck.error(), Code::Cancelled, "TURN_INTERRUPTED");
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_hangs_in_its_stop_gives_its_turn_to_the_next() {
    let service = Service::start(|config| {
        config.pool.start_concurrency = 1;
        config.pool.connect_timeout = Duration::from_millis(300);
    })
    .await;
    let mut stuck = JoinSet::new();
    start(&service, &mut stuck, "stuck".into(), "fake:no-init,ignore-term,ignore-eof").await;
    let turn = service.query("a", "hello").await;
    assert_eq!(turn.result().result, "echo: hello");
    let stuck = stuck.join_next().await.expect("one").expect("no panic");
    failure(stuck.error(), Code::Unavailable, "CONNECT_FAILED");
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

/// The exit code of a command with these variables and no others, and what it says on stderr.
fn say(words: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_session-pool"))
        .args(words)
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(env.iter().copied())
        .output()
        .expect("ran");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_variable_that_nothing_reads_is_told_with_the_one_that_may_be_meant() {
    let check = |env: &[(&str, &str)]| say(&["config", "check"], env);
    let (code, said) = check(&[("SESSION_POOL_POOL_MAX_SESSIONS", "5")]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("must be written SESSION_POOL__POOL__MAX_SESSIONS"), "{said}");
    let (code, said) = check(&[("SESSION_POOL_IMAGE_TAG", "5")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("nothing reads the environment variable SESSION_POOL_IMAGE_TAG"),
        "{said}"
    );
    // What Kubernetes tells of a Service that is named session-pool.
    let (code, said) = check(&[
        ("SESSION_POOL_SERVICE_HOST", "10.0.0.1"),
        ("SESSION_POOL_SERVICE_PORT_GRPC", "50051"),
        ("SESSION_POOL_PORT", "tcp://10.0.0.1:50051"),
        ("SESSION_POOL_PORT_50051_TCP_ADDR", "10.0.0.1"),
    ]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    // The client does without what is none of its own.
    let (_, said) = say(
        &["stats", "--address", "http://127.0.0.1:1"],
        &[("SESSION_POOL_ADRESS", "x"), ("SESSION_POOL_IMAGE_TAG", "y")],
    );
    assert!(said.contains("SESSION_POOL_ADRESS; did you mean SESSION_POOL_ADDRESS?"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}
