//! A session that begins on a spare does not wait for a start, and is in nothing else
//! another session than one that was started for it.

use std::time::Duration;

use session_pool::proto::{SessionOptions, TurnOrigin, turn_event::Kind};

use super::{ready, with_spares};
use crate::support::service::{query, query_with, script};

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[tokio::test]
async fn a_new_session_does_not_wait_for_a_start() {
    let service = with_spares(1, |_| {}).await;
    let waiting = service.processes();
    let turn = service.query("a", "hello").await;
    assert_eq!(turn.text(), "echo: hello");
    let started = turn.started();
    assert_eq!(started.origin(), TurnOrigin::CreatedFromSpare);
    let waited = Duration::try_from(started.connect_time.expect("told")).expect("a time");
    assert!(waited < Duration::from_millis(400), "{waited:?} of 500 ms that a start takes");
    assert_eq!([service.session("a").await.expect("there").process_id], waiting[..]);

    let cold = service.query("b", "hello").await;
    assert_eq!(cold.started().origin(), TurnOrigin::Created, "the next is not ready yet");
    ready(&service, 1).await;
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.from_spare, counters.cold_starts), (1, 1));
    assert_eq!((counters.sessions_created, counters.spare_misses_none_ready), (2, 1));
    service.stop().await;
}

#[tokio::test]
async fn what_a_session_may_choose_is_bound_to_the_spare() {
    let service = with_spares(1, |config| config.policy.env = vec!["FLAVOUR".into()]).await;
    let options = SessionOptions {
        system_prompt: text("You are brief."),
        append_system_prompt: text("And polite."),
        json_schema: text(r#"{"type":"object"}"#),
        model: text("some-model"),
        permission_mode: text("plan"),
        env: [("FLAVOUR".to_owned(), "sweet".to_owned())].into(),
        ..SessionOptions::default()
    };
    let prompt = script(&["initialize-payload", "env FLAVOUR"]);
    let turn = service.run(query_with("a", &prompt, options)).await;
    assert_eq!(turn.started().origin(), TurnOrigin::CreatedFromSpare);
    for words in ["You are brief.", "And polite.", r#""jsonSchema":{"type":"object"}"#, "sweet"] {
        assert!(turn.text().contains(words), "{words} in {}", turn.text());
    }
    let init = turn.events.iter().find_map(|event| match event.kind.as_ref()? {
        Kind::System(system) => system.init.clone(),
        _ => None,
    });
    let init = init.expect("it says what it is");
    assert_eq!((init.model.as_str(), init.permission_mode.as_str()), ("some-model", "plan"));
    service.stop().await;
}

#[tokio::test]
async fn the_session_keeps_the_spares_folder_and_conversation() {
    let service = with_spares(1, |config| {
        config.pool.hibernate_after = Duration::from_millis(100);
    })
    .await;
    let first = service.query("a", &script(&["cwd", "say remember this"])).await;
    assert_eq!(first.started().origin(), TurnOrigin::CreatedFromSpare);
    crate::support::eventually("hibernation", async || {
        (service.session("a").await.expect("there").process_id == 0).then_some(())
    })
    .await;
    let next = service.query("a", &script(&["cwd", "recite"])).await;
    assert_eq!(next.started().origin(), TurnOrigin::Resumed);
    assert_eq!(next.started().cli_session_id, first.started().cli_session_id);
    let folder = |text: &str| text.lines().next().map(str::to_owned);
    assert_eq!(folder(&next.text()), folder(&first.text()), "the real folder");
    assert!(next.text().contains("remember this"));
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.spare_misses_conversation, 1);

    let work = service.state.path().join("tenants/default/work");
    assert!(work.join("s-a").is_symlink());
    service.close("a", true).await.expect("forgotten");
    assert!(!work.join("s-a").is_symlink());
    let folder = folder(&first.text()).expect("a folder");
    assert!(!std::path::Path::new(&folder).exists(), "forgotten");
    service.stop().await;
}

#[tokio::test]
async fn a_session_without_a_name_takes_one_too_and_leaves_nothing() {
    let service = with_spares(1, |_| {}).await;
    let turn = service.run(query("", "hello")).await;
    assert_eq!(turn.started().origin(), TurnOrigin::CreatedFromSpare);
    ready(&service, 1).await;
    let work = service.state.path().join("tenants/default/work");
    let left = std::fs::read_dir(&work).expect("there").count();
    assert_eq!(left, 1, "the folder of the next spare");
    service.stop().await;
}

#[tokio::test]
async fn a_class_serves_those_who_ask_for_its_options() {
    let class = session_pool::config::SpareConfig {
        count: 1,
        tools: vec!["Read".into()],
        ..Default::default()
    };
    let service = crate::support::service::Service::start(|config| {
        config.pool.spares = 1;
        config.spare = vec![class];
    })
    .await;
    ready(&service, 2).await;
    let wanted = SessionOptions {
        tools: vec!["Read".into()],
        include_partial_messages: Some(true),
        ..SessionOptions::default()
    };
    let turn = service.run(query_with("a", &script(&["argv"]), wanted)).await;
    assert_eq!(turn.started().origin(), TurnOrigin::CreatedFromSpare);
    assert!(turn.text().contains("--tools=Read"), "{}", turn.text());
    let plain = service.query("b", &script(&["argv"])).await;
    assert_eq!(plain.started().origin(), TurnOrigin::CreatedFromSpare);
    assert!(!plain.text().contains("--tools"), "{}", plain.text());
    service.stop().await;
}

#[tokio::test]
async fn d6_a_new_session_has_nothing_to_reset_and_takes_a_spare_all_the_same() {
    let service = with_spares(1, |_| {}).await;
    let reset =
        session_pool::internals::domain::options::Options::names().map(str::to_owned).collect();
    let options = SessionOptions { reset_options: reset, ..SessionOptions::default() };
    let turn = service.run(query_with("a", "hello", options)).await;
    assert_eq!(turn.started().origin(), TurnOrigin::CreatedFromSpare);
    service.stop().await;
}
