//! Sessions let their processes go, and the next turn knows what was said.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::{SessionStatus, TurnOrigin};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    bed::{Bed, Version, each_version, origin},
    support::eventually,
};

each_version!(within LONG:
    a_background_task_keeps_the_process_and_its_end_lets_it_go,
    a_hibernated_session_goes_on,
    a_session_whose_tools_were_interrupted_hibernates,
    ; newest:
    thirty_sessions_share_four_processes,
);

async fn sleepy(version: Version) -> Bed {
    Bed::with(version, |config| config.pool.hibernate_after = Duration::from_millis(100)).await
}

async fn hibernated(bed: &Bed, session: &str) {
    eventually("hibernation", async || {
        let session = bed.service.session(session).await.expect("in the pool");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
}

async fn a_hibernated_session_goes_on(version: Version) {
    let bed = sleepy(version).await;
    let first = bed.query("a", "one").await;
    hibernated(&bed, "a").await;
    assert_eq!(bed.service.processes(), [0; 0]);
    let second = bed.query("a", "two").await;
    assert_eq!(origin(&second), TurnOrigin::Resumed);
    assert_eq!(second.started().cli_session_id, first.started().cli_session_id);
    let memory = "Earlier in this conversation you said: \"one\".";
    assert_eq!(second.text(), format!("You said: \"two\". {memory}"));
    bed.stop().await;
}

async fn a_background_task_keeps_the_process_and_its_end_lets_it_go(version: Version) {
    let bed = sleepy(version).await;
    let first = bed.query("a", "[[bash-background sleep 1; echo done]] [[say started]]").await;
    let background = eventually("the background turn", async || {
        let mut turn = bed.service.attach("a", "", 0).await.ok()?;
        turn.next().await;
        turn.finish().await;
        turn.started().background.then_some(turn)
    })
    .await;
    assert_eq!(background.result().result, "Noted.");
    assert_eq!(background.started().client_id, first.started().client_id);
    hibernated(&bed, "a").await;
    bed.stop().await;
}

/// A tool that was stopped leaves nothing that the session would wait for.
async fn a_session_whose_tools_were_interrupted_hibernates(version: Version) {
    let bed = sleepy(version).await;
    let mut turn =
        bed.open(crate::support::service::query("a", "[[bash echo on; sleep 300]]")).await;
    turn.until(|kind| matches!(kind, session_pool::proto::turn_event::Kind::Assistant(_))).await;
    assert!(bed.service.interrupt("a", true).await.interrupted);
    turn.finish().await;
    hibernated(&bed, "a").await;
    bed.stop().await;
}

async fn thirty_sessions_share_four_processes(version: Version) {
    const SESSIONS: usize = 30;
    let bed = Bed::with(version, |config| config.pool.max_processes = 4).await;
    // Two turns each, in random order, by four callers.
    let mut order: Vec<usize> = (0..SESSIONS).chain(0..SESSIONS).collect();
    Rng::new().shuffle(&mut order);
    let bed = Arc::new(bed);
    let order = Arc::new(tokio::sync::Mutex::new(order));
    let sessions: Arc<Vec<_>> =
        Arc::new((0..SESSIONS).map(|_| tokio::sync::Mutex::new(false)).collect());
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (bed, order, sessions) = (Arc::clone(&bed), Arc::clone(&order), Arc::clone(&sessions));
        callers.spawn(async move {
            loop {
                let Some(number) = order.lock().await.pop() else { break };
                let mut spoken = sessions[number].lock().await;
                let word = if *spoken { "second" } else { "first" };
                let turn = bed.query(&format!("s{number}"), &format!("{word} of {number}")).await;
                let memory =
                    format!(" Earlier in this conversation you said: \"first of {number}\".");
                let memory = if *spoken { memory.as_str() } else { "" };
                assert_eq!(turn.text(), format!("You said: \"{word} of {number}\".{memory}"));
                *spoken = true;
            }
        });
    }
    let mut most = 0;
    loop {
        tokio::select! {
            ended = callers.join_next() => match ended {
                Some(ended) => ended.expect("every turn is answered from its own conversation"),
                None => break,
            },
            () = sleep(Duration::from_millis(20)) => {
                let stats = bed.service.stats().await;
                most = most.max(stats.processes);
            }
        }
    }
    assert!((1..=4).contains(&most), "{most} processes");
    let counters = bed.service.stats().await.counters.expect("counters");
    assert_eq!(counters.turns_completed, 2 * SESSIONS as u64);
    assert!(counters.hibernations_under_pressure >= SESSIONS as u64, "{counters:?}");
    Arc::into_inner(bed).expect("all callers have ended").stop().await;
}
