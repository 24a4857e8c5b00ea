//! What is asked of sessions that are there, awake or not.

use super::{Bed, Given, id, key};
use crate::{
    domain::{decision::Decision, failure::Cause, ids::TenantId, options::Options},
    session::{InterruptTarget, Settings, status::SessionState},
    test_support::{SECOND, answered, read, settings, until},
    turn::event::Partials,
};

/// A pool with a session that has no process and no task any more.
async fn asleep() -> Bed {
    let session =
        Settings { hibernate_after: Some(10 * SECOND), turn_retention: 5 * SECOND, ..settings() };
    let bed = Bed::start(Given { session, ..Given::default() });
    assert!(bed.run("s", "a ok").await.end.is_ok());
    until("its process is gone", || bed.supply.alive() == 0).await;
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(bed.condition("s").await, SessionState::Hibernated);
    bed
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sleeps_is_shown_with_what_is_kept_of_it() {
    let bed = asleep().await;
    let status = bed.status("s").await;
    assert_eq!((status.message_count, status.process_id), (1, None));
    assert_eq!(bed.supply.alive(), 0, "nobody wakes it by looking");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sleeps_takes_an_update_without_a_process() {
    let bed = asleep().await;
    let options = Options { model: Some("m1".into()), ..Options::default() };
    let (status, report) = bed.pool.update(&key("s"), options).await.expect("updated");
    assert_eq!(report.changed, ["model"]);
    assert_eq!(status.options.model.as_deref(), Some("m1"));
    assert_eq!(bed.supply.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sleeps_is_closed_as_any_other() {
    let bed = asleep().await;
    let report = bed.pool.close(&key("s"), false).await.expect("closed");
    assert!(report.closed && !report.had_active_turn);
    assert!(bed.pool.is_empty());
    assert!(!bed.record("s").await.expect("kept").in_pool);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_runs_can_be_joined_by_anybody() {
    let bed = Bed::start(Given::default());
    let turn = answered(bed.begin("s", "a slow 1000").await).await;
    let joined = bed.pool.attach(&key("s"), None, 0, Partials::Hidden).await.expect("joined");
    assert_eq!(joined.turn_id(), turn.turn_id());
    let by_id = Some(turn.turn_id().clone());
    let again = bed.pool.attach(&key("s"), by_id, 0, Partials::Hidden).await.expect("joined");
    assert_eq!(read(joined).await.frames, read(again).await.frames);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_a_session_that_is_not_there_is_told_so() {
    let bed = Bed::start(Given::default());
    let key = key("s");
    let not_found = Cause::SessionNotFound;
    let attached = bed.pool.attach(&key, None, 0, Partials::Hidden).await;
    assert_eq!(attached.expect_err("none").cause, not_found);
    let answered = bed.pool.respond(&key, "p".to_owned(), Decision::Raw("{}".to_owned())).await;
    assert_eq!(answered.expect_err("none").cause, not_found);
    let updated = bed.pool.update(&key, Options::default()).await;
    assert_eq!(updated.expect_err("none").cause, not_found);
    assert_eq!(bed.pool.close(&key, false).await.expect_err("none").cause, not_found);
    assert_eq!(bed.pool.close(&key, true).await.expect_err("none").cause, not_found);
    assert_eq!(bed.pool.interrupt(&key, InterruptTarget::Running, true).await, Ok(None));
    assert_eq!(bed.absence("s").await, not_found);
    assert!(bed.pool.is_empty(), "nobody makes one by asking");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_in_pages_whether_they_sleep_or_not() {
    let bed = asleep().await;
    for name in ["a", "z"] {
        assert!(bed.run(name, "1 ok").await.end.is_ok());
    }
    let page = async |after: Option<&str>| {
        let listed = bed.pool.list(&TenantId::default(), after.map(id), 2).await;
        let (page, more) = listed.expect("listed");
        let names: Vec<_> =
            page.iter().map(|status| (status.session_id.to_string(), status.condition)).collect();
        (names, more)
    };
    let shown = |name: &str, condition| (name.to_owned(), condition);
    assert_eq!(
        page(None).await,
        (vec![shown("a", SessionState::Active), shown("s", SessionState::Hibernated)], true)
    );
    assert_eq!(page(Some("s")).await, (vec![shown("z", SessionState::Active)], false));
    assert_eq!(page(Some("z")).await, (Vec::new(), false));
}
