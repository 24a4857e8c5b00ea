//! What is left of processes: nothing after a session's end, one after many interrupts.

use session_pool::proto::{InterruptOutcome, SessionOptions, TurnOrigin, turn_event::Kind};

use crate::{
    bed::{Bed, Version, each_version, origin},
    support::service::{query, query_with},
};

each_version!(newest:
    a_closed_session_leaves_nothing,
    an_interrupted_session_leaves_nothing,
    a_stopped_service_leaves_nothing,
    many_interrupts_leave_one_process,
);

/// Starts a background task, a command that ran away from its shell, and a foreground
/// command that does not end. Returns once all of them run.
const LOAD: &str = "[[bash-background sleep 1000]] \
                    [[bash setsid sleep 1001 > run.log 2>&1 & echo started]]";

async fn load(bed: &Bed, session: &str) {
    let options =
        SessionOptions { allowed_tools: vec!["Bash".into()], ..SessionOptions::default() };
    let turn = bed.run(query_with(session, LOAD, options)).await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    bed.until_running("sleep 1000").await;
    bed.until_running("sleep 1001").await;
}

async fn a_closed_session_leaves_nothing(version: Version) {
    let bed = Bed::start(version).await;
    load(&bed, "a").await;
    let other = bed.query("b", "hello").await;
    let had_turn = bed.service.close("a", false).await.expect("closed");
    assert!(!had_turn);
    // The other session's process, and nothing else.
    assert_eq!(bed.service.processes(), [bed.pid("b").await]);
    let again = bed.query("b", "hello").await;
    assert_eq!(again.started().client_id, other.started().client_id);
    bed.stop().await;
}

async fn an_interrupted_session_leaves_nothing(version: Version) {
    let bed = Bed::start(version).await;
    load(&bed, "a").await;
    let mut turn = bed.open(query("a", "[[bash echo x; sleep 1002]]")).await;
    bed.until_running("sleep 1002").await;
    let report = bed.service.interrupt("a", false).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    assert_eq!(bed.service.processes(), [0; 0]);
    turn.finish().await;
    assert!(turn.result().interrupted);
    bed.stop().await;
}

async fn a_stopped_service_leaves_nothing(version: Version) {
    let bed = Bed::start(version).await;
    load(&bed, "a").await;
    let mut turn = bed.open(query("b", "[[bash echo x; sleep 1003]]")).await;
    turn.until(|kind| matches!(kind, Kind::Assistant(_))).await;
    bed.until_running("sleep 1003").await;
    assert!(bed.service.processes().len() >= 5, "{:?}", bed.service.processes());
    let reading = async {
        turn.finish().await;
        turn
    };
    // `stop` checks that nothing is left.
    let (turn, ()) = tokio::join!(reading, bed.stop());
    assert!(turn.end.is_some());
}

async fn many_interrupts_leave_one_process(version: Version) {
    let bed = Bed::start(version).await;
    let mut last = None;
    for round in 1..=20 {
        let turn = bed.query("a", &format!("round {round}")).await;
        assert!(turn.text().starts_with(&format!("You said: \"round {round}\"")));
        if round > 1 {
            assert!(turn.text().contains("\"round 1\""), "{}", turn.text());
        }
        last = Some(turn);
        let mut slow = bed.open(query("a", "[[words 200 every 50]]")).await;
        slow.until_init().await;
        // Every fifth time the session leaves, and comes back.
        let report = bed.service.interrupt("a", round % 5 != 0).await;
        assert_eq!(report.outcome(), InterruptOutcome::Interrupted, "round {round}");
        slow.finish().await;
        assert!(slow.result().interrupted, "round {round}");
    }
    let turn = bed.query("a", "the end").await;
    assert_eq!(origin(&turn), TurnOrigin::Resumed);
    assert_ne!(turn.started().client_id, last.expect("rounds").started().client_id);
    assert_eq!(bed.service.processes(), [bed.pid("a").await]);
    bed.stop().await;
}
