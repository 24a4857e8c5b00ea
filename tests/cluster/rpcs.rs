//! Each rpc that names a session, asked at another node than the one where it lives.

use session_pool::proto::{
    PromptAllow, RespondRequest, StopTaskRequest, UpdateSessionRequest, respond_request::Decision,
    turn_event::Kind,
};
use tonic::Code;

use crate::{
    bed::{Pair, caller, node, open},
    support::{
        eventually, failure,
        follower::{Follower, from_start},
        service::{model, query, script},
    },
};

#[tokio::test]
async fn a_turn_runs_where_the_session_lives_and_its_caller_sees_all_of_it() {
    let pair = Pair::with_session_elsewhere().await;
    let turn = pair.asked.query("s", &script(&["say over there"])).await;
    assert_eq!(
        (turn.text().as_str(), turn.end.as_ref().map(Result::is_ok)),
        ("over there", Some(true))
    );
    let next = pair.asked.query("s", &script(&["say again"])).await;
    assert_eq!(next.started().client_id, turn.started().client_id, "the same process");
    let (here, there) = (pair.asked.stats().await, pair.owner.stats().await);
    assert_eq!(here.total_sessions, 0);
    assert_eq!(there.total_sessions, 1);
    assert!(pair.asked.processes().is_empty());
    // What nobody has placed, and what has no name, is served by whoever is asked.
    assert_eq!(pair.asked.query("mine", &script(&["say here"])).await.text(), "here");
    assert_eq!(pair.asked.query("", &script(&["say unnamed"])).await.text(), "unnamed");
    eventually("the one without a name is gone", async || {
        (pair.asked.stats().await.total_sessions == 1).then_some(())
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn a_turn_is_attached_to_followed_answered_and_stopped_from_elsewhere() {
    let pair = Pair::with_session_elsewhere().await;
    let (asked, owner) = (&pair.asked, &pair.owner);
    let prompt = script(&["say first", "ask Bash {\"command\":\"true\"}", "say second", "hang"]);
    let mut turn = asked.open(query("s", &prompt)).await.expect("taken");
    let prompted = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompted)) = prompted.kind else { panic!("a prompt") };

    let mut follower = Follower::open(&asked.client, from_start("s")).await.expect("followed");
    let mut attached = asked.attach("s", "", 0).await.expect("joined");
    attached.until_text("first").await;
    let respond = RespondRequest {
        session_id: "s".into(),
        prompt_id: prompted.prompt_id.clone(),
        decision: Some(Decision::Allow(PromptAllow::default())),
    };
    asked.client.clone().respond(respond.clone()).await.expect("answered");
    for waiting in [&mut turn, &mut attached] {
        waiting.until_text("second").await;
    }
    let twice = asked.client.clone().respond(respond).await.expect_err("answered already");
    failure(&twice, Code::NotFound, "PROMPT_NOT_FOUND");

    let shown = asked.session("s").await.expect("shown");
    assert_eq!(shown.running_turn_id, turn.started().turn_id);
    let report = asked.interrupt("s", true).await;
    assert!(report.had_active_turn, "{report:?}");
    turn.finish().await;
    attached.finish().await;
    assert_eq!(turn.end.is_some(), attached.end.is_some());
    let task = StopTaskRequest { session_id: "s".into(), task_id: "none".into() };
    let status = asked.client.clone().stop_task(task).await.expect_err("no such task");
    failure(&status, Code::NotFound, "TASK_NOT_FOUND");

    let options = UpdateSessionRequest { session_id: "s".into(), options: Some(model("opus")) };
    let updated = asked.client.clone().update_session(options).await.expect("updated");
    assert_eq!(updated.into_inner().changed_options, ["model"]);
    asked.close("s", false).await.expect("closed");
    follower.finish().await;
    assert!(matches!(follower.end, Some(Ok(()))), "{:?}", follower.end);
    assert!(!follower.turns().is_empty());
    failure(&owner.session("s").await.expect_err("closed"), Code::NotFound, "SESSION_NOT_FOUND");
    pair.stop().await;
}

#[tokio::test]
async fn the_routing_key_is_believed_and_held_against_the_message_by_the_owner() {
    let pair = Pair::with_session_elsewhere().await;
    let routed = caller(&pair.asked.address, &[("session-id", "s")]).await;
    let turn = open(&routed, query("s", &script(&["say routed"]))).await;
    let mut turn = turn.expect("taken");
    turn.finish().await;
    assert_eq!(turn.text(), "routed");
    let wrong = open(&routed, query("other", "x")).await.expect_err("two ids");
    failure(&wrong, Code::InvalidArgument, "INVALID_ARGUMENT");
    pair.stop().await;
}

#[tokio::test]
async fn a_call_is_forwarded_once() {
    let pair = Pair::with_session_elsewhere().await;
    let third = node("c", &pair.places, |_| {}).await;
    // The third sees it at `a` for once; `a` knows that it is at `b`.
    pair.places.mislead_once("s", "a");
    let status = third.run(query("s", "x")).await;
    let metadata = failure(status.error(), Code::Unavailable, "SESSION_MOVED");
    assert_eq!(metadata.get("owner").map(String::as_str), Some("b"));
    assert_eq!(metadata.get("session_id").map(String::as_str), Some("s"));
    assert!(crate::support::retry_after(status.error()).is_some());
    assert_eq!(third.query("s", &script(&["say now"])).await.text(), "now");
    let none = eventually("nothing of it runs at the first", async || {
        pair.asked.processes().is_empty().then_some(())
    });
    none.await;
    third.stop().await;
    pair.stop().await;
}
