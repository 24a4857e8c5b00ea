//! The same with the real CLI, whose Bash tool starts what is hardest to find again.

use std::{ops::Range, os::unix::process::ExitStatusExt as _};

use rustix::process::{Signal, kill_process};
use session_pool::{
    internals::os::procfs::pid,
    proto::{self, QueryRequest, SessionOptions},
};

use crate::{
    bed::{Bed, MODES},
    support::{eventually, service::query_with, turn::Turn},
};

const VERSIONS: [&str; 2] = ["2.1.197", "2.1.332"];

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

/// Ten sessions in mid-turn, each with five sleepers, one of them in the foreground, that are
/// told from all others by their time.
struct Loaded {
    bed: Bed,
    turns: Vec<Turn>,
}

impl Loaded {
    async fn start(mode: &str, version: &str, settings: &[(&str, &str)]) -> Self {
        let settings = [&[("POOL__START_CONCURRENCY", "2")], settings].concat();
        let bed = Bed::real(mode, version, &settings).await;
        let mut turns = Vec::new();
        for number in 0..SESSIONS {
            let own = format!("{}{number}", bed.unique);
            let prompt = format!("{} [[bash echo x; sleep {own}]]", strays(&own));
            turns.push(bed.daemon.open(with_bash(&format!("s{number}"), &prompt)).await);
        }
        let loaded = Self { bed, turns };
        for number in 0..SESSIONS {
            loaded.until_sleeping(number, 5).await;
        }
        loaded
    }

    fn sleeping(&self, number: usize) -> usize {
        let wanted = format!("sleep {}{number}", self.bed.unique);
        self.bed.alive().into_iter().filter(|(_, line)| *line == wanted).count()
    }

    async fn until_sleeping(&self, number: usize, count: usize) {
        self.bed.until_sleeping_as(&format!("{}{number}", self.bed.unique), count).await;
    }

    /// Checks that nothing is left of these, and all of those after them.
    async fn ended(&self, numbers: Range<usize>) {
        for number in numbers.clone() {
            self.bed.gone_of(&format!("{}{number}", self.bed.unique)).await;
        }
        let others: Vec<usize> =
            (numbers.end..SESSIONS).map(|number| self.sleeping(number)).collect();
        assert_eq!(others, vec![5; SESSIONS - numbers.end]);
    }

    async fn process(&self, number: usize) -> Option<u32> {
        let request = proto::GetSessionRequest { session_id: format!("s{number}") };
        let answer = self.bed.daemon.client.clone().get_session(request).await.ok()?;
        Some(answer.into_inner().session?.process_id)
    }
}

#[tokio::test]
async fn kill_9_of_the_service_leaves_nothing_of_ten_sessions() {
    for version in VERSIONS {
        for mode in MODES {
            let Loaded { mut bed, turns } = Loaded::start(mode, version, &[]).await;
            bed.daemon.kill_service();
            let status = bed.daemon.ended().await;
            bed.gone().await;
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{version} in {mode}");
            bed.end_api().await;
            drop(turns);
        }
    }
}

/// A close, an interrupt that the CLI does not answer, the end of its time to live, and
/// SIGTERM: each ends some of ten sessions, and nothing of the others.
#[tokio::test]
async fn every_other_end_leaves_nothing_of_ten_sessions_either() {
    let settings = [
        ("SERVER__DRAIN_TIMEOUT", "100ms"),
        ("POOL__STREAM_INTERRUPT_TIMEOUT", "500ms"),
        ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "15s"),
        ("POOL__STREAM_ONGOING_TIMEOUT", "16s"),
        ("POOL__SESSION_TTL", "17s"),
        ("POOL__HIBERNATE_AFTER", "1s"),
        ("POOL__BACKGROUND_MAX_AGE", "5s"),
        ("POOL__CLEANUP_INTERVAL", "200ms"),
    ];
    for version in VERSIONS {
        for mode in MODES {
            let mut loaded = Loaded::start(mode, version, &settings).await;
            for number in 0..2 {
                loaded.bed.close(&format!("s{number}")).await;
                loaded.ended(0..number + 1).await;
            }
            for number in 2..4 {
                let cli = loaded.process(number).await.expect("a session");
                kill_process(pid(cli).expect("an id"), Signal::STOP).expect("stopped");
                loaded.bed.interrupt(&format!("s{number}")).await;
                loaded.ended(0..number + 1).await;
            }
            // A session that is busy outlives its time; one that is done does not, although
            // it has something in the background, once that is past its own.
            for number in 4..6 {
                let foreground = format!("sleep {}{number}", loaded.bed.unique);
                loaded.bed.end_foreground(&foreground);
                loaded.turns[number].finish().await;
                eventually("the end of its time", async || {
                    loaded.process(number).await.is_none().then_some(())
                })
                .await;
                loaded.ended(0..number + 1).await;
            }
            loaded.bed.stop().await;
        }
    }
}

#[tokio::test]
async fn kill_9_of_the_supervisor_leaves_nothing_of_ten_sessions() {
    for version in VERSIONS {
        let Loaded { mut bed, turns } = Loaded::start("process-tree", version, &[]).await;
        bed.daemon.signal(Signal::KILL);
        bed.daemon.ended().await;
        bed.gone().await;
        bed.end_api().await;
        drop(turns);
    }
}
