//! What a CLI started is gone with it, also what has left its process group and what
//! ignores SIGTERM.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::support::{
    eventually, failure, processes,
    service::{Service, query, script},
    turn::Turn,
};

const CHILDREN: [&str; 3] = ["child group", "child setsid", "child nohup"];

/// A turn that starts one child of each kind and goes on.
async fn with_children(service: &Service, then: &[&str]) -> (Turn, Vec<u32>) {
    let lines: Vec<&str> = CHILDREN.iter().chain(then).copied().collect();
    let mut turn = service.open(query("a", &script(&lines))).await.expect("taken");
    turn.until_text("nohup").await;
    let pids: Vec<u32> =
        turn.text().lines().filter_map(|line| line.split_once(' ')?.1.parse().ok()).collect();
    assert_eq!(pids.len(), CHILDREN.len(), "{}", turn.text());
    assert!(pids.iter().all(|pid| processes::lives(*pid)), "{pids:?}");
    (turn, pids)
}

#[track_caller]
fn gone(service: &Service, pids: &[u32]) {
    assert_eq!(service.processes(), [0; 0]);
    assert!(pids.iter().all(|pid| !processes::lives(*pid)), "{pids:?}");
}

#[tokio::test]
async fn after_a_close_of_an_idle_session_its_children_are_gone() {
    let service = Service::start(|_| {}).await;
    let (mut turn, pids) = with_children(&service, &[]).await;
    turn.finish().await;
    turn.result();
    service.close("a", false).await.expect("closed");
    gone(&service, &pids);
    service.stop().await;
}

#[tokio::test]
async fn after_a_close_in_mid_turn_the_children_are_gone() {
    let service = Service::start(|_| {}).await;
    let (turn, pids) = with_children(&service, &["hang"]).await;
    assert!(service.close("a", false).await.expect("closed"));
    gone(&service, &pids);
    drop(turn);
    service.stop().await;
}

#[tokio::test]
async fn after_an_interrupt_that_ends_the_session_its_children_are_gone() {
    let service = Service::start(|_| {}).await;
    let (mut turn, pids) = with_children(&service, &["hang"]).await;
    assert!(service.interrupt("a", false).await.interrupted);
    gone(&service, &pids);
    turn.finish().await;
    service.stop().await;
}

#[tokio::test]
async fn after_an_interrupt_that_had_to_kill_the_children_are_gone() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(200);
    })
    .await;
    let (mut turn, pids) = with_children(&service, &["deaf", "ignore-term", "hang"]).await;
    assert!(!service.interrupt("a", true).await.interrupted);
    gone(&service, &pids);
    turn.finish().await;
    service.stop().await;
}

#[tokio::test]
async fn after_a_crash_of_the_cli_its_children_are_gone() {
    let service = Service::start(|_| {}).await;
    let (mut turn, pids) = with_children(&service, &["hang"]).await;
    processes::kill(service.session("a").await.expect("there").process_id);
    turn.finish().await;
    failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    eventually("they are gone", async || service.processes().is_empty().then_some(())).await;
    gone(&service, &pids);
    // Also when the CLI dies between turns.
    let (mut turn, pids) = with_children(&service, &[]).await;
    turn.finish().await;
    processes::kill(service.session("a").await.expect("there").process_id);
    eventually("they are gone", async || service.processes().is_empty().then_some(())).await;
    gone(&service, &pids);
    service.stop().await;
}

#[tokio::test]
async fn children_of_one_session_survive_the_end_of_another() {
    let service = Service::start(|_| {}).await;
    let (mut turn, pids) = with_children(&service, &[]).await;
    turn.finish().await;
    service.query("b", &script(&["child setsid"])).await.result();
    service.close("b", false).await.expect("closed");
    assert!(pids.iter().all(|pid| processes::lives(*pid)), "{pids:?}");
    assert_eq!(service.processes().len(), 1 + CHILDREN.len());
    service.stop().await;
}

#[tokio::test]
async fn a_child_that_holds_the_output_open_does_not_delay_the_news_of_a_death() {
    let service = Service::start(|_| {}).await;
    let began = Instant::now();
    let prompt = script(&["child stdout-holder", "say last words", "exit 4"]);
    let turn = service.query("a", &prompt).await;
    assert_eq!(failure(turn.error(), Code::Unavailable, "CLI_EXITED")["exit_code"], "4");
    assert!(turn.text().ends_with("last words"), "{}", turn.text());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    eventually("it is gone", async || service.processes().is_empty().then_some(())).await;
    service.stop().await;
}

#[tokio::test]
async fn a_stop_of_the_service_takes_all_children_along() {
    let service = Service::start(|_| {}).await;
    let (mut turn, pids) = with_children(&service, &[]).await;
    turn.finish().await;
    // `stop` fails the test if anything with the service's mark lives.
    assert!(service.stop().await);
    assert!(pids.iter().all(|pid| !processes::lives(*pid)), "{pids:?}");
}
