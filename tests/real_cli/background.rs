//! Turns that nobody asked for, and a slash command that moves to another conversation.

use session_pool::proto::{TurnEvent, TurnOrigin, turn_event::Kind};

use crate::{
    bed::{Bed, Version, each_version, has_command, kinds, origin},
    support::{
        eventually,
        follower::{Follower, from_start},
        processes::kill,
        turn::Turn,
    },
};

each_version!(
    a_background_turn_and_a_query_do_not_mix,
    the_end_of_a_background_task_is_a_turn_of_its_own,
    clear_begins_another_conversation,
);

fn results(turn: &Turn) -> usize {
    kinds(turn).filter(|kind| matches!(kind, Kind::Result(_))).count()
}

/// Joins the last turn of a session once it is one that the CLI began by itself.
async fn background_turn(bed: &Bed, session: &str) -> Turn {
    let mut turn = eventually("a background turn", async || {
        let mut turn = bed.service.attach(session, "", 0).await.ok()?;
        turn.next().await;
        turn.started().background.then_some(turn)
    })
    .await;
    turn.finish().await;
    turn
}

/// These turns were told to who follows their session, in this order; others may be between.
#[track_caller]
fn assert_followed(follower: &Follower, turns: &[&Turn]) {
    let ids: Vec<_> = turns.iter().map(|turn| turn.started().turn_id.clone()).collect();
    let mut told = follower.turns();
    told.retain(|turn| ids.contains(turn));
    assert_eq!(told, ids);
    // The bed asks for JSON too, and who follows does not.
    let typed = |event: &TurnEvent| TurnEvent { json: String::new(), ..event.clone() };
    for turn in turns {
        let events: Vec<_> = turn.events.iter().map(typed).collect();
        assert_eq!(follower.of_turn(&turn.started().turn_id), events);
    }
}

async fn the_end_of_a_background_task_is_a_turn_of_its_own(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "[[bash-background sleep 1; echo done]] [[say started]]").await;
    assert_eq!(first.result().result, "started");
    assert!(!first.started().background);
    let background = background_turn(&bed, "a").await;
    assert_eq!(background.result().result, "Noted.");
    assert_ne!(background.started().turn_id, first.started().turn_id);
    assert_eq!(background.started().client_id, first.started().client_id);

    let mut follower = Follower::open(&bed.service.client, from_start("a")).await.expect("taken");
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\"."), "{:?}", next.result());
    assert!(!next.started().background);
    follower.until_result(&next.started().turn_id).await;
    assert_followed(&follower, &[&first, &background, &next]);
    assert_eq!(follower.turns().len(), 3);
    bed.stop().await;
}

async fn a_background_turn_and_a_query_do_not_mix(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = "[[bash-background sleep 0.3; echo done]] [[say started]]";
    let first = bed.query("a", prompt).await;
    let mut follower = Follower::open(&bed.service.client, from_start("a")).await.expect("taken");
    let mut turns = vec![first];
    // Some of these meet the task's end.
    for round in 1..=6 {
        let mark = format!("round {round}");
        let turn = bed.query("a", &format!("[[pause 80]] {mark}")).await;
        assert_eq!(results(&turn), 1);
        let result = &turn.result().result;
        assert!(result.starts_with(&format!("You said: \"[[pause 80]] {mark}\"")), "{result}");
        assert!(!turn.text().contains("Noted."), "another turn's answer: {}", turn.text());
        assert!(!turn.started().background);
        turns.push(turn);
    }
    let mut ids: Vec<_> = turns.iter().map(|turn| turn.started().turn_id.clone()).collect();
    // Whenever the CLI began its own turn, who follows sees each of them whole, once and in order.
    follower.until_result(&ids[ids.len() - 1]).await;
    assert_followed(&follower, &turns.iter().collect::<Vec<_>>());
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn clear_begins_another_conversation(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    let old = first.started().cli_session_id.clone();
    let clear = bed.query("a", "/clear").await;
    assert!(!clear.result().is_error, "{:?}", clear.result());
    if !has_command(&first, "clear") {
        assert_eq!(clear.result().result, "Unknown command: /clear");
        let next = bed.query("a", "two").await;
        assert!(next.text().contains("\"one\""), "nothing was cleared: {}", next.text());
        return bed.stop().await;
    }
    let second = bed.query("a", "two").await;
    assert_eq!(second.result().result, "You said: \"two\".");
    assert_eq!(second.started().client_id, first.started().client_id);
    let new = second.result().cli_session_id.clone();
    assert_ne!(new, old);
    let session = bed.service.session("a").await.expect("a session");
    assert_eq!(session.cli_session_id, new);

    bed.kill_after(&second).await;
    let third = bed.query("a", "three").await;
    assert_eq!(origin(&third), TurnOrigin::Resumed);
    assert_eq!(third.started().cli_session_id, new);
    let answer = "You said: \"three\". Earlier in this conversation you said: \"two\".";
    assert_eq!(third.result().result, answer);

    // A conversation in which nothing was said yet is as good as a new one.
    bed.query("a", "/clear").await;
    bed.service.close("a", false).await.expect("closed");
    let fourth = bed.query("a", "four").await;
    assert_eq!(fourth.result().result, "You said: \"four\".");
    let fifth = bed.query("a", "/clear").await;
    kill(bed.pid("a").await);
    let client_id = fifth.started().client_id.clone();
    eventually("the loss is noticed", async || {
        (bed.service.session("a").await.ok()?.client_id != client_id).then_some(())
    })
    .await;
    let sixth = bed.query("a", "six").await;
    assert_eq!(sixth.result().result, "You said: \"six\".");
    bed.stop().await;
}
