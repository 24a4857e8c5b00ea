//! Conversations: forgotten, begun anew, taken up from another, cleared by the CLI.

use session_pool::proto::{QueryRequest, SessionOptions, TurnOrigin};

use crate::support::{
    eventually,
    service::{Service, query, query_with, script},
};

fn recite() -> String {
    script(&["recite"])
}

#[tokio::test]
async fn a_closed_session_continues_unless_it_was_forgotten() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "my name is Ada").await;
    service.close("a", false).await.expect("closed");
    let second = service.query("a", &recite()).await;
    assert_eq!(second.text(), "my name is Ada");
    assert_eq!(second.started().cli_session_id, first.started().cli_session_id);

    service.close("a", true).await.expect("closed");
    let third = service.query("a", &recite()).await;
    assert_eq!(third.text(), "");
    assert_eq!(third.started().origin(), TurnOrigin::Created);
    assert_ne!(third.started().cli_session_id, first.started().cli_session_id);
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_has_left_the_pool_can_be_forgotten() {
    let service = Service::start(|_| {}).await;
    service.query("a", "my name is Ada").await.result();
    service.interrupt("a", false).await;
    assert!(!service.close("a", true).await.expect("forgotten"));
    service.close("a", true).await.expect_err("not known any more");
    assert_eq!(service.query("a", &recite()).await.text(), "");
    service.stop().await;
}

#[tokio::test]
async fn a_new_conversation_leaves_the_old_one_behind() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "my name is Ada").await;
    let anew = QueryRequest { new_conversation: true, ..query("a", &recite()) };
    let second = service.run(anew).await;
    assert_eq!(second.text(), "");
    assert_ne!(second.started().cli_session_id, first.started().cli_session_id);
    assert_eq!(second.started().origin(), TurnOrigin::Created);
    let third = service.query("a", &recite()).await;
    assert_eq!(third.started().client_id, second.started().client_id);
    assert!(!third.text().contains("Ada"), "{}", third.text());
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn clear_is_followed_also_after_the_process_was_killed() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "my name is Ada").await;
    service.query("a", "/clear").await.result();
    let cleared = service.session("a").await.expect("there").cli_session_id;
    assert_ne!(cleared, first.started().cli_session_id);
    let second = service.query("a", "my name is Grace").await;
    assert_eq!(second.started().cli_session_id, cleared);
    assert_eq!(second.started().client_id, first.started().client_id);

    service.kill_cli("a", "my name is Grace").await;
    eventually("the loss is noticed", async || {
        (service.session("a").await.expect("there").process_id == 0).then_some(())
    })
    .await;
    let third = service.query("a", &recite()).await;
    assert_eq!(third.started().cli_session_id, cleared);
    assert!(third.text().contains("Grace") && !third.text().contains("Ada"), "{}", third.text());
    service.stop().await;
}

#[tokio::test]
async fn a_session_can_start_from_a_conversation_or_a_copy_of_it() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "my name is Ada").await;
    let original = first.started().cli_session_id.clone();
    service.close("a", false).await.expect("closed");

    let from = |fork| SessionOptions {
        resume: Some(original.clone()),
        fork_session: fork,
        ..SessionOptions::default()
    };
    let copy = service.run(query_with("copy", &recite(), from(Some(true)))).await;
    assert_eq!(copy.text(), "my name is Ada");
    assert_ne!(copy.started().cli_session_id, original);
    // The conversation is its own session's, which may name it.
    let taken_up = service.run(query_with("a", &recite(), from(None))).await;
    assert_eq!(taken_up.started().cli_session_id, original);
    // What was said in the copy stays there.
    assert_eq!(taken_up.text(), "my name is Ada");
    assert_eq!(taken_up.started().origin(), TurnOrigin::Resumed);
    service.stop().await;
}

#[tokio::test]
async fn each_session_works_in_a_folder_of_its_own() {
    let service = Service::start(|_| {}).await;
    let a = service.query("a", &script(&["cwd"])).await.text();
    let b = service.query("b", &script(&["cwd"])).await.text();
    assert_ne!(a, b);
    let state = service.state.path().canonicalize().expect("it is there");
    for folder in [&a, &b] {
        assert!(std::path::Path::new(folder).starts_with(&state), "{folder}");
    }
    // The environment is made from nothing.
    let turn = service.query("a", &script(&["env CARGO_MANIFEST_DIR", "env HOME"])).await;
    let text = turn.text();
    let (cargo, home) = text.split_once('\n').expect("two lines");
    assert_eq!(cargo, "unset");
    assert!(home.starts_with(service.state.path().to_str().expect("UTF-8")), "{home}");
    service.stop().await;
}
