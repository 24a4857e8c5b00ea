//! `cli.memory_limit`: a process tree that swells is replaced, and the turn says why.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use session_pool::{internals::os::procfs::pid, proto::TurnOrigin};
use tokio::time::sleep;
use tonic::Code;

use crate::{
    bed::{Bed, MODES},
    support::{
        failure,
        processes::is_supervisor,
        service::{query, script},
    },
};

const LIMIT: (&str, &str) = ("CLI__MEMORY_LIMIT", "200 MiB");

#[tokio::test]
async fn a_turn_whose_processes_hold_too_much_ends_with_the_reason() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[LIMIT]).await;
        for what in ["allocate 300", "child hog"] {
            let first = bed.run(query("a", "remember me")).await;
            assert!(!first.result().is_error);
            let lines = ["child bare", "say word", what, "hang"];
            let turn = bed.run(query("a", &script(&lines))).await;
            let metadata = failure(turn.error(), Code::ResourceExhausted, "MEMORY_LIMIT");
            assert_eq!(metadata["limit"], (200_u64 << 20).to_string(), "{what} in {mode}");
            let used: u64 = metadata["used"].parse().expect("bytes");
            assert!(used > 200 << 20, "{used}");
            bed.gone().await;
            let next = bed.run(query("a", &script(&["recite"]))).await;
            assert_eq!(next.started().origin(), TurnOrigin::Resumed);
            assert!(next.text().contains("remember me"), "{}", next.text());
        }
        bed.stop().await;
    }
}

#[tokio::test]
async fn an_idle_process_over_the_limit_is_replaced() {
    let bed = Bed::fake("process-tree", &[LIMIT]).await;
    // On a slow machine the turn may still run when the process is looked at.
    let mut tries = (0..20).map(|number| format!("s{number}"));
    let (session, first) = loop {
        let session = tries.next().expect("a turn that is not noticed");
        let turn = bed.run(query(&session, &script(&["allocate 300", "say done"]))).await;
        match &turn.end {
            Some(Err(status)) => drop(failure(status, Code::ResourceExhausted, "MEMORY_LIMIT")),
            _ => break (session, turn),
        }
    };
    assert!(!first.result().is_error);
    bed.until_gone().await;
    let next = bed.run(query(&session, "hello")).await;
    assert_eq!(next.started().origin(), TurnOrigin::Resumed);
    assert_ne!(next.started().client_id, first.started().client_id);
    let told = bed.daemon.logged("memory_limit");
    assert!(told.iter().any(|line| line["session_id"] == *session), "{told:?}");
    bed.stop().await;
}

#[tokio::test]
async fn a_session_that_stops_its_own_supervisor_is_bounded_all_the_same() {
    let bed = Bed::fake("process-tree", &[LIMIT]).await;
    bed.run(query("a", "remember me")).await.result();
    let supervisor =
        bed.alive().into_iter().find(|(pid, _)| is_supervisor(*pid)).expect("a supervisor").0;
    // Again and again, and it talks meanwhile.
    let stopping = async {
        while kill_process(pid(supervisor).expect("an id"), Signal::STOP).is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let talk = ["say on and on", "sleep 300"].repeat(40);
    let prompt = script(&[&["child bare", "child hog"][..], &talk].concat());
    let (turn, ()) = tokio::join!(bed.run(query("a", &prompt)), stopping);
    failure(turn.error(), Code::ResourceExhausted, "MEMORY_LIMIT");
    bed.gone().await;
    bed.stop().await;
}

#[tokio::test]
async fn a_start_that_holds_too_much_ends_with_the_reason() {
    for mode in MODES {
        let settings = [("CLI__MEMORY_LIMIT", "100 KiB"), ("CLI__ENV__FAKE_CLAUDE", "boot=60000")];
        let bed = Bed::fake(mode, &settings).await;
        let turn = bed.run(query("a", "hello")).await;
        let metadata = failure(turn.error(), Code::ResourceExhausted, "MEMORY_LIMIT");
        assert_eq!(metadata["limit"], (100 << 10).to_string(), "{mode}");
        assert!(metadata.contains_key("client_id"), "{metadata:?}");
        bed.gone().await;
        bed.stop().await;
    }
}
