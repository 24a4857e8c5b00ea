//! The same with the real CLI, whose Bash tool starts what is hardest to find again.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use session_pool::proto::{QueryRequest, SessionOptions};

use crate::{
    bed::{Bed, MODES},
    support::{service::query_with, turn::Turn},
};

const VERSIONS: [&str; 2] = ["2.1.197", "2.1.330"];

const SESSIONS: usize = 10;

/// What each session has running: in the background, with a session of its own, deaf to
/// SIGTERM, without an environment.
fn strays(unique: &str) -> String {
    let quiet = ">/dev/null 2>&1";
    format!(
        "[[bash-background sleep {unique}]] \
         [[bash setsid sleep {unique} {quiet} & \
         (trap '' TERM; exec nohup sleep {unique} {quiet}) & \
         env -i setsid sleep {unique} {quiet} & echo started]]"
    )
}

fn with_bash(session: &str, prompt: &str) -> QueryRequest {
    let options =
        SessionOptions { allowed_tools: vec!["Bash".into()], ..SessionOptions::default() };
    query_with(session, prompt, options)
}

/// A session in mid-turn: five sleepers, one of them in the foreground.
async fn load(bed: &Bed, session: &str) -> Turn {
    let prompt = format!("{} [[bash echo x; sleep {}]]", strays(&bed.unique), bed.unique);
    bed.daemon.open(with_bash(session, &prompt)).await
}

#[tokio::test]
async fn kill_9_of_the_service_leaves_nothing_of_ten_sessions() {
    for version in VERSIONS {
        for mode in MODES {
            let settings = [("POOL__START_CONCURRENCY", "2")];
            let mut bed = Bed::real(mode, version, &settings).await;
            let mut turns = Vec::new();
            for session in 0..SESSIONS {
                turns.push(load(&bed, &format!("s{session}")).await);
            }
            bed.until_sleeping(5 * SESSIONS).await;
            bed.daemon.kill_service();
            let status = bed.daemon.ended().await;
            bed.gone().await;
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{version} in {mode}");
            bed.end_api().await;
        }
    }
}

#[tokio::test]
async fn kill_9_of_the_keeper_leaves_nothing() {
    for version in VERSIONS {
        let mut bed = Bed::real("process-tree", version, &[]).await;
        let _turns = [load(&bed, "a").await, load(&bed, "b").await];
        bed.until_sleeping(10).await;
        bed.daemon.signal(Signal::KILL);
        bed.daemon.ended().await;
        bed.gone().await;
        bed.end_api().await;
    }
}

#[tokio::test]
async fn a_close_an_interrupt_and_sigterm_leave_nothing() {
    for version in VERSIONS {
        for mode in MODES {
            let bed = Bed::real(mode, version, &[("SERVER__DRAIN_TIMEOUT", "100ms")]).await;
            let _closed = load(&bed, "closed").await;
            bed.until_sleeping(5).await;
            bed.close("closed").await;
            bed.gone().await;
            let _interrupted = load(&bed, "interrupted").await;
            bed.until_sleeping(5).await;
            bed.interrupt("interrupted").await;
            bed.gone().await;
            let _stopped = load(&bed, "stopped").await;
            bed.until_sleeping(5).await;
            bed.stop().await;
        }
    }
}

#[tokio::test]
async fn an_expired_session_leaves_nothing() {
    for version in VERSIONS {
        for mode in MODES {
            let settings = [("POOL__IDLE_THRESHOLD", "2s"), ("POOL__CLEANUP_INTERVAL", "200ms")];
            let bed = Bed::real(mode, version, &settings).await;
            let turn = bed.run(with_bash("a", &strays(&bed.unique))).await;
            assert!(!turn.result().is_error, "{:?}", turn.result());
            bed.until_sleeping(4).await;
            bed.until_gone().await;
            bed.stop().await;
        }
    }
}
