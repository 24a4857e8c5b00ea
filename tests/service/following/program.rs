//! `session-pool watch` as a person and a script use it.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::support::{
    follower::{Follower, of},
    processes,
    service::{Service, query, script},
};

const LIMIT: Duration = crate::support::PATIENCE;

fn command(service: &Service, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_session-pool"))
        .args([&["watch"], words].concat())
        .env("SESSION_POOL_ADDRESS", &service.address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program")
}

async fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        timeout(LIMIT, child.wait_with_output()).await.expect("it ends").expect("waited for");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn it_prints_turns_as_they_come_and_ends_with_the_session() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "first").await;
    let child = command(&service, &["a", "--from-start"]);
    let failed = service.query("a", &script(&["say half", "exit 3"])).await;
    let ask = script(&[r#"ask Bash {"command":"ls"}"#, "say done"]);
    let mut asked = service.open(query("a", &ask)).await.expect("taken");
    asked.until(|kind| matches!(kind, session_pool::proto::turn_event::Kind::Prompt(_))).await;
    service.interrupt("a", true).await;
    asked.finish().await;
    let behind = service.query("a", &script(&["say with background", "background-turn 50"])).await;
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    let background = "begun by the CLI itself";
    crate::support::eventually("the background turn", async || {
        let mut last = service.attach("a", "", 0).await.ok()?;
        last.finish().await;
        last.started().background.then_some(())
    })
    .await;
    service.close("a", false).await.expect("closed");
    follower.finish().await;
    let (code, stdout, stderr) = ended(child).await;
    assert_eq!(code, Some(0), "{stderr}");
    let said = ["echo: first\n", "half\n", "with background\n", "background task done\n"];
    let places: Vec<_> = said.iter().map(|text| stdout.find(text).expect(text)).collect();
    assert!(places.is_sorted(), "{stdout}");
    for turn in [&first, &failed, &asked, &behind] {
        let id = &turn.started().turn_id;
        assert_eq!(stderr.matches(&format!("turn {id}\n")).count(), 1, "{stderr}");
    }
    let failure = format!("turn {} failed: CLI_EXITED: ", failed.started().turn_id);
    assert!(stderr.contains(&failure), "{stderr}");
    assert!(stderr.contains("session-pool respond a "), "{stderr}");
    assert_eq!(stderr.matches(background).count(), 1, "{stderr}");
    service.stop().await;
}

#[tokio::test]
async fn it_goes_on_from_a_cursor_and_ctrl_c_is_its_usual_end() {
    let service = Service::start(|_| {}).await;
    service.query("a", "first").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    service.query("a", "second").await.result();
    let mut child = command(&service, &["a", "--cursor", &follower.cursor()]);
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut shown = String::new();
    while !shown.contains("echo: second\n") {
        let mut bytes = [0; 1024];
        let count = timeout(LIMIT, stdout.read(&mut bytes)).await.expect("in time").expect("read");
        assert!(count > 0, "it ended: {shown}");
        shown += &String::from_utf8_lossy(&bytes[..count]);
    }
    assert!(!shown.contains("first"), "{shown}");
    processes::signal(child.id().expect("it runs"), Signal::INT);
    let (code, _, stderr) = ended(child).await;
    assert_eq!(code, Some(0), "{stderr}");
    service.stop().await;
}

#[tokio::test]
async fn what_it_cannot_follow_it_says() {
    let service = Service::start(|_| {}).await;
    let (code, stdout, stderr) = ended(command(&service, &["nowhere"])).await;
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.starts_with("session-pool: NOT_FOUND SESSION_NOT_FOUND: "), "{stderr}");
    service.query("a", "first").await.result();
    let (code, _, stderr) = ended(command(&service, &["a", "--cursor", "x"])).await;
    assert_eq!(code, Some(7));
    assert!(stderr.contains("cursor must be a cursor"), "{stderr}");
    let (code, _, _) = ended(command(&service, &["a", "--cursor", "x", "--from-start"])).await;
    assert_eq!(code, Some(2));
    service.stop().await;
}
