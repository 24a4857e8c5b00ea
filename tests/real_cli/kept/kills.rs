//! The CLI, or the whole service, is killed at the instant in which the caller has its
//! result. The CLI writes its transcript only afterwards, if it still can.

use std::rc::Rc;

use session_pool::proto::turn_event::Kind;
use tempfile::TempDir;
use tokio::task::{JoinSet, LocalSet};

use super::{answer, shows};
use crate::{
    bed::{Bed, Version, each_version},
    stand_in::StandIn,
    support::{daemon::Daemon, eventually, processes::kill, service::query},
};

each_version!(within LONG: newest: the_cli_is_killed_at_its_result, the_service_is_killed_at_a_result);

/// Kills for each version.
const KILLS: usize = 15;

async fn the_cli_is_killed_at_its_result(version: Version) {
    const SESSIONS: usize = 5;
    let bed = Rc::new(Bed::start(version).await);
    let all = async {
        let mut sessions = JoinSet::new();
        for number in 0..SESSIONS {
            let bed = Rc::clone(&bed);
            sessions
                .spawn_local(async move { killed_again_and_again(&bed, number, SESSIONS).await });
        }
        while let Some(session) = sessions.join_next().await {
            session.expect("every turn had the whole conversation");
        }
    };
    LocalSet::new().run_until(all).await;
    Rc::into_inner(bed).expect("all have ended").stop().await;
}

async fn killed_again_and_again(bed: &Bed, number: usize, sessions: usize) {
    let session = format!("s{number}");
    let mut said = Vec::new();
    for round in 0..=KILLS / sessions {
        let prompt = format!("word {round} of {session}");
        let mut turn = bed.open(query(&session, &prompt)).await;
        turn.until_init().await;
        let pid = bed.pid(&session).await;
        turn.until(|kind| matches!(kind, Kind::Result(_))).await;
        // Whether it has written anything by now is its own affair.
        kill(pid);
        turn.finish().await;
        assert_eq!(turn.result().result, answer(&prompt, &said));
        shows(&bed.last_request(&turn.result().cli_session_id), &said);
        said.push(prompt);
        let noticed = async || (bed.pid(&session).await != pid).then_some(());
        eventually("the loss is noticed", noticed).await;
    }
}

async fn the_service_is_killed_at_a_result(version: Version) {
    let api = StandIn::start().await.expect("a stand-in");
    let (path, url) = (version.executable().display().to_string(), api.url());
    let settings = [
        ("CLI__PATH", path.as_str()),
        ("CLI__ENV__ANTHROPIC_BASE_URL", &url),
        ("CLI__ENV__ANTHROPIC_API_KEY", "sk-ant-dummy"),
        ("CLI__ENV__CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "30s"),
    ];
    let mut state = TempDir::new().expect("a folder");
    let mut said = Vec::new();
    for round in 0..=KILLS {
        let mut daemon = Daemon::start_in(state, &settings).await;
        let prompt = format!("word {round}");
        let mut turn = daemon.open(query("s", &prompt)).await;
        let told = turn.until(|kind| matches!(kind, Kind::Result(_))).await;
        daemon.kill_service();
        let Some(Kind::Result(result)) = told.kind else { unreachable!("a result") };
        assert_eq!(result.result, answer(&prompt, &said));
        let mut requests = api.requests_of(&result.cli_session_id);
        requests.retain(|request| request.path == "/v1/messages");
        shows(requests.last().expect("it asked the API"), &said);
        said.push(prompt);
        daemon.ended().await;
        state = daemon.state;
    }
    assert_eq!(api.refused(), [] as [&str; 0]);
    // Connections of killed CLIs are closed by now, or soon.
    drop(tokio::time::timeout(std::time::Duration::from_secs(5), api.shutdown()).await);
}
