//! `cli.max_tasks`: a process tree that has too many processes and threads is replaced, and the
//! turn says why.

use std::{fs, time::Duration};

use session_pool::proto::{SessionOptions, TurnOrigin};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    bed::{Bed, MODES},
    support::{
        failure,
        service::{query, query_with, script},
    },
    view::bash,
};

const VERSION: &str = "2.1.332";

#[tokio::test]
async fn b2_a_session_with_too_many_processes_ends_with_the_reason_and_no_other_does() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[("CLI__MAX_TASKS", "64")]).await;
        let neighbour = bed.run(query("b", "remember me, too")).await;
        bed.run(query("a", "remember me")).await.result();
        let many = [&["say word"][..], &["child bare"; 80], &["hang"]].concat();
        let turn = bed.run(query("a", &script(&many))).await;
        let metadata = failure(turn.error(), Code::ResourceExhausted, "TASK_LIMIT_EXCEEDED");
        assert_eq!(metadata["limit"], "64", "{mode}");
        let used: u64 = metadata["used"].parse().expect("a number");
        assert!(used > 64, "{used}");
        assert!(turn.error().message().contains("(cli.max_tasks)"), "{}", turn.error().message());
        assert_eq!(bed.daemon.logged("task_limit").len(), 1, "{mode}");
        bed.gone_of("--be-the-child").await;
        let next = bed.run(query("b", &script(&["recite"]))).await;
        assert_eq!(next.started().client_id, neighbour.started().client_id, "{mode}");
        let next = bed.run(query("a", &script(&["recite"]))).await;
        assert_eq!(next.started().origin(), TurnOrigin::Resumed);
        assert!(next.text().contains("remember me"), "{}", next.text());
        bed.stop().await;
    }
}

/// A shell that forks without end would; this one ends by itself.
const FLOOD: &str = "flood() { [ $1 -gt 0 ] || exec sleep LONG; flood $(($1 - 1)) & flood $(($1 - 1)) & wait; }; flood 9";

#[tokio::test]
async fn b2_what_doubles_itself_is_ended_soon_and_leaves_nothing() {
    for mode in MODES {
        let bed = Bed::real(mode, VERSION, &[("CLI__MAX_TASKS", "300")]).await;
        bash(&bed, "b", "true").await;
        let options = SessionOptions {
            allowed_tools: vec!["Bash".into()],
            permission_mode: Some("dontAsk".into()),
            ..SessionOptions::default()
        };
        let flood = FLOOD.replace("LONG", &bed.unique);
        let turn = bed.run(query_with("a", &format!("[[bash {flood}]]"), options)).await;
        failure(turn.error(), Code::ResourceExhausted, "TASK_LIMIT_EXCEEDED");
        bed.gone_of(&bed.unique).await;
        let said = bash(&bed, "b", "echo still here").await;
        assert!(said.contains("still here"), "{mode}: {said}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn b2_an_idle_session_with_too_many_processes_is_replaced() {
    let bed = Bed::real("bubblewrap", VERSION, &[("CLI__MAX_TASKS", "200")]).await;
    let later = format!(
        "(sleep 1; for i in $(seq 300); do sleep {} & done; wait) >/dev/null 2>&1 & echo left",
        bed.unique
    );
    let before = Instant::now();
    let said = bash(&bed, "a", &later).await;
    assert!(said.contains("left"), "{said}");
    bed.until_gone().await;
    assert!(before.elapsed() < Duration::from_secs(60));
    let said = bash(&bed, "a", "echo again").await;
    assert!(said.contains("again"), "{said}");
    bed.stop().await;
}

/// A limit of a process, as `/proc` shows it: the soft and the hard one.
fn limit(pid: u32, name: &str) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
    let mut values = line.split_whitespace().map(str::to_owned);
    (values.next().expect("soft"), values.next().expect("hard"))
}

#[tokio::test]
async fn b2_the_kernel_bounds_what_it_counts_for_each_sandbox() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[("CLI__MAX_TASKS", "1000")]).await;
        let turn = bed.hang("a", &[]).await;
        let own = |name| limit(bed.daemon.started(), name);
        let children: Vec<u32> = bed
            .alive()
            .into_iter()
            .filter_map(|(pid, line)| line.contains("--be-the-child").then_some(pid))
            .collect();
        assert_eq!(children.len(), 4);
        for child in children {
            let both = |limit: &str| (limit.to_owned(), limit.to_owned());
            assert_eq!(limit(child, "Max core file size"), both("0"));
            // Without a user namespace of its own, others would count, too.
            let (tasks, signals, queues) = match mode {
                "bubblewrap" => (both("1250"), both("8192"), both("204800")),
                _ => (own("Max processes"), own("Max pending signals"), own("Max msgqueue size")),
            };
            assert_eq!(limit(child, "Max processes"), tasks, "{mode}");
            assert_eq!(limit(child, "Max pending signals"), signals, "{mode}");
            assert_eq!(limit(child, "Max msgqueue size"), queues, "{mode}");
        }
        drop(turn);
        bed.stop().await;
    }
}
