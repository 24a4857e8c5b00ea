//! Spares: they end with the service like everything else, and whoever takes one is
//! enclosed with its own folders only.

use std::fs;

use rustix::process::Signal;
use session_pool::proto::{GetStatsRequest, SessionOptions, TurnOrigin};

use crate::{
    bed::{Bed, MODES},
    support::{
        eventually,
        service::{query, query_with},
    },
};

async fn ready(bed: &Bed, count: u32) {
    eventually("spares", async || {
        let stats = bed.daemon.client.clone().get_stats(GetStatsRequest::default()).await;
        (stats.expect("answered").into_inner().spares == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn kill_9_of_the_service_leaves_no_spare() {
    for mode in MODES {
        let mut bed = Bed::fake(mode, &[("POOL__SPARES", "4")]).await;
        ready(&bed, 4).await;
        assert!(bed.alive().len() >= 4, "{:#?}", bed.alive());
        bed.daemon.kill_service();
        bed.daemon.ended().await;
        bed.gone().await;
    }
}

#[tokio::test]
async fn kill_9_of_the_supervisor_leaves_no_spare() {
    let mut bed = Bed::fake("process-tree", &[("POOL__SPARES", "4")]).await;
    ready(&bed, 4).await;
    bed.daemon.signal(Signal::KILL);
    bed.daemon.ended().await;
    bed.gone().await;
}

#[tokio::test]
async fn sigterm_leaves_no_spare() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[("POOL__SPARES", "4")]).await;
        ready(&bed, 4).await;
        assert_eq!(bed.stop().await.code(), Some(0), "{mode}");
    }
}

/// Runs a command in a session.
async fn bash(bed: &Bed, session: &str, command: &str) -> (TurnOrigin, String) {
    let options = SessionOptions {
        permission_mode: Some("dontAsk".into()),
        model: Some("claude-haiku-4-5".into()),
        allowed_tools: vec!["Bash".into()],
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with(session, &format!("[[bash {command}]]"), options)).await;
    (turn.started().origin(), turn.result().result.clone())
}

#[tokio::test]
async fn a_session_on_a_spare_is_enclosed_with_its_own_folders() {
    for version in ["2.1.197", "2.1.332"] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pool.toml");
        fs::write(&file, "[[spare]]\ncount = 2\nallowed_tools = [\"Bash\"]\n").expect("written");
        let file = file.display().to_string();
        let bed = Bed::configured("bubblewrap", version, &file).await;
        ready(&bed, 2).await;
        let (origin, own) = bash(&bed, "a", "pwd; echo mine > file; cat file").await;
        assert_eq!(origin, TurnOrigin::CreatedFromSpare, "{version}");
        assert!(own.contains("mine"), "{own}");
        ready(&bed, 2).await;
        let work = bed.daemon.state.path().join("tenants/default/work");
        let real = fs::canonicalize(work.join("s-a")).expect("a link");
        assert!(own.contains(&real.display().to_string()), "{own} in {real:?}");
        assert_eq!(fs::read_to_string(real.join("file")).expect("written"), "mine\n");

        let (origin, other) =
            bash(&bed, "b", &format!("cat {0}/file || echo x > {0}/b", real.display())).await;
        assert_eq!(origin, TurnOrigin::CreatedFromSpare, "{version}");
        assert!(!other.contains("mine") && !real.join("b").exists(), "{other}");
        bed.run(query("a", "hello")).await.result();
        bed.stop().await;
    }
}
