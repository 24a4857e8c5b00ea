//! A conversation has one session, whoever asks for it and whenever.

use std::{sync::Arc, time::Duration};

use session_pool::{
    config::{Config, StoreKind},
    proto::{QueryRequest, SessionOptions, SessionStatus},
};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::support::{
    eventually, failure,
    service::{Service, query, query_with, script},
};

fn resume(id: &str) -> SessionOptions {
    SessionOptions { resume: Some(id.into()), ..SessionOptions::default() }
}

#[track_caller]
fn conflict(status: &Status, owner: &str) {
    let metadata = failure(status, Code::FailedPrecondition, "SESSION_CONFLICT");
    assert_eq!(metadata["owner_session_id"], owner);
}

async fn recited(service: &Service, session: &str) -> String {
    service.query(session, &script(&["recite"])).await.text()
}

async fn hibernated(service: &Service, session: &str) {
    eventually("hibernation", async || {
        let shown = service.session(session).await.expect("it stays in the pool");
        (shown.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
}

fn in_memory(config: &mut Config) {
    config.store.kind = StoreKind::Memory;
}

async fn on_each_store(test: impl AsyncFn(Service)) {
    for change in [|_: &mut Config| {}, in_memory] {
        let service = Service::start(|config| {
            config.pool.hibernate_after = Duration::from_millis(300);
            change(config);
        });
        test(service.await).await;
    }
}

/// What was reported: b took up a's conversation, and each lost what the other said.
#[tokio::test]
async fn e1_a_conversation_of_a_live_or_hibernated_or_closed_session_is_refused() {
    on_each_store(async |service| {
        let first = service.query("a", "one").await;
        let id = first.started().cli_session_id.clone();
        let refused = service.run(query_with("b", "two", resume(&id))).await;
        conflict(refused.error(), "a");
        service.session("b").await.expect_err("it keeps no place in the pool");

        service.query("a", "three").await.result();
        hibernated(&service, "a").await;
        conflict(service.run(query_with("b", "two", resume(&id))).await.error(), "a");
        // Without a name it would be the same.
        conflict(service.run(query_with("", "two", resume(&id))).await.error(), "a");
        assert_eq!(recited(&service, "a").await, "one\nthree");

        service.close("a", false).await.expect("closed");
        conflict(service.run(query_with("b", "two", resume(&id))).await.error(), "a");
        // The owner may say so, and a copy is nobody's.
        let own = service.run(query_with("a", "four", resume(&id))).await;
        assert_eq!(own.started().cli_session_id, id);
        let fork = SessionOptions { fork_session: Some(true), ..resume(&id) };
        let copy = service.run(query_with("b", &script(&["recite"]), fork)).await;
        assert!(copy.text().contains("three"), "{}", copy.text());
        let copied = copy.started().cli_session_id.clone();
        assert_ne!(copied, id);
        conflict(service.run(query_with("a2", "x", resume(&copied))).await.error(), "b");

        // What is forgotten is nobody's, and not there.
        service.close("a", true).await.expect("forgotten");
        let gone = service.run(query_with("c", "two", resume(&id))).await;
        failure(gone.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
        service.stop().await;
    })
    .await;
}

#[tokio::test]
async fn e1_conversations_that_a_session_left_behind_stay_its_own() {
    on_each_store(async |service| {
        let first = service.query("a", "one").await.started().cli_session_id.clone();
        service.query("a", "/clear").await.result();
        let cleared = service.session("a").await.expect("there").cli_session_id;
        let anew = QueryRequest { new_conversation: true, ..query("a", "two") };
        let newest = service.run(anew).await.started().cli_session_id.clone();
        assert!(first != cleared && cleared != newest && newest != first);
        for id in [&first, &cleared, &newest] {
            conflict(service.run(query_with("b", "mine", resume(id))).await.error(), "a");
        }
        service.stop().await;
    })
    .await;
}

/// Nothing of a session is committed while its first turn runs, and of one without a name
/// nothing ever is.
#[tokio::test]
async fn e1_a_conversation_that_is_not_committed_yet_is_refused() {
    on_each_store(async |service| {
        for name in ["a", ""] {
            let prompt = script(&["say word", "sleep 400", "say end"]);
            let mut running = service.open(query(name, &prompt)).await.expect("taken");
            running.until_text("word").await;
            let started = running.started().clone();
            let refused = service.run(query_with("b", "two", resume(&started.cli_session_id)));
            conflict(refused.await.error(), &started.session_id);
            running.finish().await;
            assert!(running.text().ends_with("end"), "it is not disturbed");
        }
        service.stop().await;
    })
    .await;
}

/// A conversation that no session has, asked for by many at once: one gets it, and the
/// others are told who.
#[tokio::test]
async fn e1_of_those_who_take_up_a_conversation_at_once_one_gets_it() {
    let service = Service::start(|_| {}).await;
    let id = service.query("a", "one").await.started().cli_session_id.clone();
    let planted = uuid::Uuid::new_v4().to_string();
    service.kill_cli("a", "one").await;
    plant(&service, &id, &planted);

    let service = Arc::new(service);
    let mut asked = JoinSet::new();
    for n in 0..8 {
        let (service, name) = (Arc::clone(&service), format!("b{n}"));
        let request = query_with(&name, &format!("said by {name}"), resume(&planted));
        asked.spawn(async move { (name, service.run(request).await) });
    }
    let turns = asked.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) =
        turns.into_iter().partition(|(_, turn)| matches!(turn.end, Some(Ok(()))));
    let [(winner, _)] = &won[..] else { panic!("{} got it", won.len()) };
    for (name, turn) in &lost {
        assert_ne!(name, winner);
        conflict(turn.error(), winner);
    }
    assert_eq!(recited(&service, winner).await, format!("one\nsaid by {winner}"));
    Arc::into_inner(service).expect("nobody else has it").stop().await;
}

/// Copies a transcript to another id, as a program beside the service could.
fn plant(service: &Service, id: &str, copy: &str) {
    let mut folders = vec![service.state.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").filter_map(Result::ok) {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| *name == *format!("{id}.jsonl")) {
                let text = std::fs::read_to_string(&path).expect("text").replace(id, copy);
                std::fs::write(path.with_file_name(format!("{copy}.jsonl")), text)
                    .expect("written");
                return;
            }
        }
    }
    panic!("no transcript of {id}");
}

/// An agent can speak in the name of its CLI: it says that it works in the conversation of
/// another session. The turn fails, and the session keeps its own conversation.
#[tokio::test]
async fn e1_a_cli_that_says_it_is_in_anothers_conversation_is_not_followed() {
    on_each_store(async |service| {
        let theirs = service.query("a", "one").await.started().cli_session_id.clone();
        let own = service.query("b", "mine").await.started().cli_session_id.clone();
        let moved = format!(
            r#"raw {{"type":"system","subtype":"init","session_id":"{theirs}","model":"m","tools":[]}}"#
        );
        let turn = service.query("b", &script(&[&moved, "say after"])).await;
        conflict(turn.error(), "a");
        assert_eq!(service.session("b").await.expect("there").cli_session_id, own);
        assert_eq!(recited(&service, "a").await, "one");
        let again = service.query("b", "again").await;
        assert_eq!(again.started().cli_session_id, own, "it works on, on another process");
        assert!(recited(&service, "b").await.starts_with("mine"));

        // Also while only the other's CLI has said that it has it.
        let reported = uuid::Uuid::new_v4().to_string();
        let says = |id: &str| {
            format!(r#"raw {{"type":"system","subtype":"init","session_id":"{id}","model":"m"}}"#)
        };
        let prompt = script(&[&says(&reported), "say word", "sleep 600"]);
        let mut running = service.open(query("c", &prompt)).await.expect("taken");
        running.until_text("word").await;
        let turn = service.query("b", &script(&[&says(&reported)])).await;
        conflict(turn.error(), "c");
        let refused = service.run(query_with("d", "x", resume(&reported))).await;
        conflict(refused.error(), "c");
        running.finish().await;
        running.result();
        service.stop().await;
    })
    .await;
}
