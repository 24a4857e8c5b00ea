//! Spares are kept ready without being in anybody's way.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use session_pool::proto::{SessionStatus, TurnOrigin};

use super::{ready, with_spares};
use crate::support::{
    eventually,
    service::{Service, query, script},
};

#[tokio::test]
async fn spares_give_their_places_to_sessions() {
    let service = with_spares(2, |config| config.pool.max_processes = 2).await;
    let first = service.query("a", &script(&["say a"])).await;
    assert_eq!(first.started().origin(), TurnOrigin::CreatedFromSpare);
    // One place is left, and a spare has it or is about to.
    let options = session_pool::proto::SessionOptions {
        max_turns: Some(3),
        ..session_pool::proto::SessionOptions::default()
    };
    let second = service.run(crate::support::service::query_with("b", "hello", options)).await;
    assert_eq!(second.text(), "echo: hello");
    assert_eq!(service.session("a").await.expect("there").status(), SessionStatus::Active);
    let stats = service.stats().await;
    assert_eq!((stats.spares, stats.processes), (0, 2));
    assert_eq!(stats.counters.expect("counters").hibernations, 0, "no session gave its place");
    // With a place free again, a spare comes back.
    service.close("b", true).await.expect("closed");
    eventually("a spare", async || (service.stats().await.spares == 1).then_some(())).await;
    service.stop().await;
}

#[tokio::test]
async fn a_spare_that_is_being_started_gives_its_place_once_it_is_up() {
    let service = Service::start(|config| {
        config.pool.max_processes = 1;
        config.pool.spares = 1;
        config.cli.env.insert("FAKE_CLAUDE".into(), "boot=500".into());
    })
    .await;
    eventually("a start", async || (service.processes().len() == 1).then_some(())).await;
    let options = session_pool::proto::SessionOptions {
        max_turns: Some(3),
        ..session_pool::proto::SessionOptions::default()
    };
    // No spare fits, and the only place is one's that nobody could send away yet.
    let turn = service.run(crate::support::service::query_with("a", "hello", options)).await;
    assert_eq!(turn.text(), "echo: hello");
    assert_eq!(turn.started().origin(), TurnOrigin::Created);
    service.stop().await;
}

#[tokio::test]
async fn a_burst_of_sessions_is_never_short_of_places_because_of_spares() {
    let service = Service::start(|config| {
        config.pool.max_processes = 4;
        config.pool.spares = 4;
    })
    .await;
    ready(&service, 4).await;
    let mut turns = Vec::new();
    for number in 0..12 {
        let turn = service.open(query(&format!("s{number}"), &format!("I am {number}"))).await;
        turns.push((number, turn.expect("taken")));
    }
    for (number, mut turn) in turns {
        turn.finish().await;
        assert_eq!(turn.text(), format!("echo: I am {number}"));
    }
    assert!(service.stats().await.processes <= 4);
    service.stop().await;
}

#[tokio::test]
async fn an_old_spare_is_replaced() {
    let service = Service::start(|config| {
        config.pool.spares = 1;
        config.pool.spare_max_age = Duration::from_millis(300);
    })
    .await;
    ready(&service, 1).await;
    let before = service.processes();
    eventually("another", async || {
        let now = service.processes();
        (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_cli_that_does_not_start_is_not_tried_without_end() {
    let place = tempfile::tempdir().expect("a folder");
    let (program, starts) = (place.path().join("claude"), place.path().join("starts"));
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--session-id*) echo x >> {} ;; esac\nexit 3\n",
        starts.display()
    );
    std::fs::write(&program, text).expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    let service = Service::start(|config| {
        config.pool.spares = 2;
        config.cli.path = program;
    })
    .await;
    let tried = || std::fs::read_to_string(&starts).unwrap_or_default().lines().count();
    eventually("both are tried", async || (tried() == 2).then_some(())).await;
    let failed = service.query("a", "hello").await;
    assert!(matches!(failed.end, Some(Err(_))), "{failed:?}");
    assert_eq!(tried(), 3, "only the session's own");
    assert_eq!(service.stats().await.spares, 0);
    service.stop().await;
}

#[tokio::test]
async fn folders_that_no_session_took_are_gone_after_a_restart() {
    let service = with_spares(2, |_| {}).await;
    service.query("a", "remember this").await.result();
    let (_, state) = service.end().await;
    let work = state.path().join("tenants/default/work");
    std::fs::create_dir(work.join("p-left-by-a-crash")).expect("made");
    let config = crate::support::service::fake_cli(state.path());
    let mut config = config;
    config.pool.spares = 1;
    let service = Service::with(config, state).await;
    ready(&service, 1).await;
    assert!(!work.join("p-left-by-a-crash").exists());
    let again = service.query("a", &script(&["recite"])).await;
    assert_eq!(again.text(), "remember this", "the folder of the session is there");
    service.stop().await;
}
