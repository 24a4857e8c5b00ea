//! Who follows a session sees the events of its turns as the turns' own callers do.

use session_pool::proto::{
    Payload, SessionOptions, SessionStatus, WatchPhase, WatchSessionRequest, turn_event::Kind,
};

use crate::support::{
    eventually,
    follower::{Follower, Told, from, from_start, of},
    service::{Service, query, query_with, script},
    turn::Turn,
};

fn phases(follower: &Follower) -> Vec<WatchPhase> {
    let phases = follower.told.iter().filter_map(|(told, _)| match told {
        Told::Phase(phase) => Some(*phase),
        _ => None,
    });
    phases.collect()
}

#[track_caller]
fn assert_same(follower: &Follower, turns: &[&Turn]) {
    for turn in turns {
        assert_eq!(follower.of_turn(&turn.started().turn_id), turn.events);
    }
    let ids: Vec<_> = turns.iter().map(|turn| turn.started().turn_id.clone()).collect();
    assert_eq!(follower.turns(), ids);
}

#[tokio::test]
async fn every_turn_is_seen_by_all_who_follow_and_each_event_once() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "first").await;
    let mut all = Follower::open(&service.client, from_start("a")).await.expect("taken");
    let mut rest = Follower::open(&service.client, of("a")).await.expect("taken");
    all.until_live().await;
    rest.until_live().await;
    assert_same(&all, &[&first]);
    assert_eq!(all.told[0].0, Told::Phase(WatchPhase::Replay));
    assert_eq!(rest.told.len(), 2, "{:?}", rest.told);

    let second = service.query("a", &script(&["frames 30 100", "say second"])).await;
    let third = service.query("a", "third").await;
    for follower in [&mut all, &mut rest] {
        follower.until_result(&third.started().turn_id).await;
        assert_eq!(phases(follower), [WatchPhase::Replay, WatchPhase::Live]);
        assert_eq!(follower.gaps(), []);
    }
    assert_same(&all, &[&first, &second, &third]);
    assert_same(&rest, &[&second, &third]);

    // From any cursor the same goes on.
    for (behind, (_, cursor)) in rest.told.iter().enumerate().skip(1).step_by(9) {
        let mut again = Follower::open(&service.client, from("a", cursor)).await.expect("taken");
        again.until_live().await;
        let events = |told: &[(Told, String)]| -> Vec<Told> {
            let told = told.iter().map(|(told, _)| told.clone());
            told.filter(|told| matches!(told, Told::Event(..))).collect()
        };
        assert_eq!(events(&again.told), events(&rest.told[behind + 1..]));
    }
    service.stop().await;
}

#[tokio::test]
async fn a_running_turn_is_followed_from_its_middle() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say before", "sleep 300", "say behind"]);
    let mut turn = service.open(query("a", &prompt)).await.expect("taken");
    turn.until_text("before").await;
    let seen = turn.events.len();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    turn.finish().await;
    let id = &turn.started().turn_id;
    follower.until_result(id).await;
    let rest = follower.of_turn(id);
    let from = usize::try_from(rest[0].sequence).expect("small") - 1;
    assert!(from >= seen, "{from} {seen}");
    assert_eq!(rest, turn.events[from..]);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_the_cli_begins_by_itself_is_followed() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let asked = service.query("a", &script(&["say asked for", "background-turn 100"])).await;
    let by_itself = |told: &Told| {
        matches!(told, Told::Event(_, event)
            if matches!(&event.kind, Some(Kind::Started(started)) if started.background))
    };
    follower.until(by_itself).await;
    let id = follower.turns().pop().expect("a turn");
    follower.until_result(&id).await;
    let mut turn = service.attach("a", &id, 0).await.expect("kept");
    turn.finish().await;
    assert_eq!(turn.text(), "background task done");
    assert_same(&follower, &[&asked, &turn]);
    service.stop().await;
}

#[tokio::test]
async fn the_session_is_shown_when_it_changes() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let prompt = script(&[r#"ask Bash {"command":"ls"}"#, "say done"]);
    let mut turn = service.open(query("a", &prompt)).await.expect("taken");
    let asked = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let mut waits = service.open(query("a", "next")).await.expect("queued");
    let Some(Kind::Prompt(asked)) = asked.kind else { panic!("asked for a prompt") };
    // A picture is no event: it comes while others are waited for.
    eventually("the picture of the prompt and the queue", async || {
        let next = follower.next();
        let _more = tokio::time::timeout(std::time::Duration::from_millis(50), next).await;
        let shown = follower.pictures.last()?;
        let prompts: Vec<_> = shown.open_prompts.iter().map(|open| &open.prompt_id).collect();
        (prompts == [&asked.prompt_id] && shown.queued_turns == 1).then_some(())
    })
    .await;
    let shown = follower.pictures.last().expect("one");
    assert_eq!(shown.status(), SessionStatus::Active);
    assert_eq!(shown.running_turn_id, turn.started().turn_id);
    service.interrupt("a", true).await;
    turn.finish().await;
    waits.finish().await;
    follower.until_result(&waits.started().turn_id).await;
    let pictures = follower.pictures.clone();
    let same = pictures.windows(2).find(|pair| {
        let of = |at: usize| {
            let shown = &pair[at];
            let running = shown.running_turn_id.clone();
            (shown.status, running, shown.queued_turns, shown.open_prompts.clone())
        };
        of(0) == of(1)
            && pair[0].error_count == pair[1].error_count
            && pair[0].client_id == pair[1].client_id
    });
    assert_eq!(same, None, "told although nothing has changed");
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_fails_is_told_with_its_reason_and_the_session_goes_on() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let failed = service.query("a", &script(&["say half", "exit 3"])).await;
    let next = service.query("a", "next").await;
    follower.until_result(&next.started().turn_id).await;
    assert_same(&follower, &[&failed, &next]);
    let failures = follower.told.iter().filter_map(|(told, _)| match told {
        Told::Failure(failure) => Some(failure.clone()),
        _ => None,
    });
    let failures = failures.collect::<Vec<_>>();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(failure.turn_id, failed.started().turn_id);
    assert_eq!(
        (failure.reason.as_str(), failure.metadata["exit_code"].as_str()),
        ("CLI_EXITED", "3")
    );
    assert_eq!(failure.message, failed.error().message());
    service.stop().await;
}

#[tokio::test]
async fn who_follows_keeps_no_turn_alive_that_its_caller_has_left() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let id = turn.started().turn_id.clone();
    turn.leave();
    follower.until_result(&id).await;
    let last = follower.of_turn(&id).pop().expect("an event");
    assert!(matches!(last.kind, Some(Kind::Result(result)) if result.interrupted));
    service.stop().await;
}

#[tokio::test]
async fn a_follower_chooses_its_own_payload_and_its_pieces() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let request = WatchSessionRequest {
        payload: Payload::Json.into(),
        include_partial_messages: true,
        ..of("a")
    };
    let mut follower = Follower::open(&service.client, request).await.expect("taken");
    follower.until_live().await;
    let options =
        SessionOptions { include_partial_messages: Some(true), ..SessionOptions::default() };
    let turn = service.run(query_with("a", "hello again", options)).await;
    let pieces = turn.events.iter().filter(|e| matches!(e.kind, Some(Kind::StreamEvent(_))));
    assert!(pieces.count() > 0);
    let id = &turn.started().turn_id;
    follower
        .until(|told| matches!(told, Told::Event(_, event) if event.json.contains("\"result\"")))
        .await;
    let events = follower.of_turn(id);
    let sequences = |events: &[session_pool::proto::TurnEvent]| -> Vec<u64> {
        events.iter().map(|event| event.sequence).collect()
    };
    assert_eq!(sequences(&events), sequences(&turn.events));
    assert!(events[1..].iter().all(|event| event.kind.is_none() && event.json.starts_with('{')));
    service.stop().await;
}

#[tokio::test]
async fn a_large_event_comes_in_parts() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let turn = service.query("a", &script(&["frames 1 7000000", "say end"])).await;
    let id = &turn.started().turn_id;
    follower.until_result(id).await;
    assert!(follower.parts >= 3, "{}", follower.parts);
    assert_eq!(follower.of_turn(id), turn.events);
    service.stop().await;
}
