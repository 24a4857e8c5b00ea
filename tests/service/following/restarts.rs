//! The service is killed and started again: who follows a session goes on with its last cursor.

use session_pool::{
    internals::tasks::spawn_owned,
    proto::{CloseSessionRequest, turn_event::Kind},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::support::{
    daemon::Daemon,
    follower::{Follower, Told, from, from_start, of},
    service::{query, script},
};

#[tokio::test]
async fn a_cursor_of_a_service_that_was_killed_is_a_gap_and_what_follows_is_told_once() {
    let daemon = Daemon::start(&[]).await;
    daemon.run("a", "first").await.result();
    let mut follower = Follower::open(&daemon.client, from_start("a")).await.expect("taken");
    follower.until_live().await;
    let mut cut = daemon.open(query("a", &script(&["say half", "hang"]))).await;
    cut.until_text("half").await;
    let id = cut.started().turn_id.clone();
    follower
        .until(|told| matches!(told, Told::Event(turn, event) if *turn == id && event.sequence > 1))
        .await;
    let cursor = follower.cursor();
    let state = daemon.killed().await;
    follower.finish().await;
    assert!(matches!(follower.end, Some(Err(_))), "{:?}", follower.end);

    let daemon = Daemon::start_in(state, &[]).await;
    // Before the session has a task again, and after a turn that nobody followed.
    let mut early = Follower::open(&daemon.client, from("a", &cursor)).await.expect("taken");
    early.until_live().await;
    let second = daemon.run("a", "second").await;
    let mut late = Follower::open(&daemon.client, from("a", &cursor)).await.expect("taken");
    late.until_live().await;
    let third = daemon.run("a", "third").await;
    for follower in [&mut early, &mut late] {
        follower.until_result(&third.started().turn_id).await;
        let [gap] = &follower.gaps()[..] else { panic!("{:?}", follower.gaps()) };
        assert_eq!(gap.after, cursor);
        assert!(matches!(follower.told[1].0, Told::Gap(_)), "right behind REPLAY");
        let turns = [&second, &third].map(|turn| turn.started().turn_id.clone());
        assert_eq!(follower.turns(), turns);
        for turn in [&second, &third] {
            assert_eq!(follower.of_turn(&turn.started().turn_id), turn.events);
        }
        let gap = follower.gaps().remove(0);
        let mut again = Follower::open(&daemon.client, from("a", &gap.before)).await.expect("kept");
        again.until_result(&third.started().turn_id).await;
        assert_eq!(again.gaps(), []);
        assert_eq!(again.turns(), turns);
    }
    drop(daemon.killed().await);
}

#[tokio::test]
async fn the_program_follows_a_session_over_a_restart_to_its_end() {
    let daemon = Daemon::start(&[]).await;
    daemon.run("a", "first").await.result();
    let address = daemon.address.clone();
    let mut child = Command::new(env!("CARGO_BIN_EXE_session-pool"))
        .args(["watch", "a", "--from-start", "--json", "--address", &address])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut printed = Vec::new();
    let mut until = async |wanted: &str, printed: &mut Vec<serde_json::Value>| {
        loop {
            let line = lines.next_line().await.expect("text").expect("it goes on");
            let found = line.contains(wanted);
            printed.push(serde_json::from_str(&line).expect("JSON"));
            if found {
                return;
            }
        }
    };
    until("WATCH_PHASE_LIVE", &mut printed).await;
    let state = daemon.killed().await;
    let listen = address.trim_start_matches("http://");
    let daemon = Daemon::start_in(state, &[("SERVER__LISTEN", listen)]).await;
    until("WATCH_PHASE_LIVE", &mut printed).await;
    let second = daemon.run("a", "second").await;
    until("echo: second", &mut printed).await;
    let close = CloseSessionRequest { session_id: "a".into(), forget: false };
    daemon.client.clone().close_session(close).await.expect("closed");
    let reading = spawn_owned(async move {
        while let Some(line) = lines.next_line().await.expect("text") {
            printed.push(serde_json::from_str(&line).expect("JSON"));
        }
        printed
    });
    assert_eq!(child.wait().await.expect("it ends").code(), Some(0));
    let printed = reading.await.expect("no panic");
    let gaps = printed.iter().filter(|line| line.get("gap").is_some()).count();
    assert_eq!(gaps, 1, "{printed:?}");
    let of_second = printed
        .iter()
        .filter(|line| line["event"]["turnId"].as_str() == Some(second.started().turn_id.as_str()));
    assert_eq!(of_second.count(), second.events.len());
    drop(daemon.killed().await);
}

#[tokio::test]
async fn events_are_followed_in_order_however_often_the_service_is_killed() {
    let mut state = tempfile::TempDir::new().expect("a folder");
    let mut cursor = None;
    for life in 0..3 {
        let daemon = Daemon::start_in(state, &[]).await;
        daemon.run("a", &format!("life {life}")).await.result();
        let request = cursor.as_ref().map_or_else(|| of("a"), |cursor: &String| from("a", cursor));
        let mut follower = Follower::open(&daemon.client, request).await.expect("taken");
        follower.until_live().await;
        assert_eq!(follower.gaps().len(), usize::from(life > 0));
        let turn = daemon.run("a", &format!("in life {life}")).await;
        follower.until_result(&turn.started().turn_id).await;
        let said = follower.told.iter().filter_map(|(told, _)| match told {
            Told::Event(_, event) => match &event.kind {
                Some(Kind::Result(result)) => Some(result.result.clone()),
                _ => None,
            },
            _ => None,
        });
        let mut wanted = vec![format!("echo: life {life}"), format!("echo: in life {life}")];
        if life == 0 {
            wanted.remove(0);
        }
        assert_eq!(said.collect::<Vec<_>>(), wanted);
        cursor = Some(follower.cursor());
        state = daemon.killed().await;
    }
}
