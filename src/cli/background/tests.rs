//! What is read of frames as two versions print them, cut to what matters.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn frame(line: &str) -> Frame {
    Frame::parse(Bytes::copy_from_slice(line.as_bytes())).expect("a frame")
}

fn started(id: &str, backgrounded: Option<bool>) -> String {
    let flag = backgrounded.map_or(String::new(), |it| format!(r#","is_backgrounded":{it}"#));
    format!(
        r#"{{"type":"system","subtype":"task_started","task_id":"{id}","tool_use_id":"toolu_1","description":"work","task_type":"local_agent"{flag}}}"#
    )
}

fn updated(id: &str, status: &str) -> String {
    format!(
        r#"{{"type":"system","subtype":"task_updated","task_id":"{id}","patch":{{"status":"{status}"}}}}"#
    )
}

fn listed(ids: &[&str]) -> String {
    let task =
        |id: &&str| format!(r#"{{"task_id":"{id}","task_type":"local_bash","description":"d"}}"#);
    let tasks = ids.iter().map(task).collect::<Vec<_>>().join(",");
    format!(r#"{{"type":"system","subtype":"background_tasks_changed","tasks":[{tasks}]}}"#)
}

fn ids(background: &Background) -> Vec<String> {
    background.shown().tasks.iter().map(|task| task.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_may_begin_a_turn_until_shortly_after_its_end() {
    let mut background = Background::default();
    assert_eq!(background.quiet_from(Instant::now()), Some(Instant::now()));
    background.note(&frame(&started("a", None)));
    assert_eq!(
        (background.quiet_from(Instant::now()), ids(&background)),
        (None, vec!["a".to_owned()])
    );
    // Of an unknown one it is told as well.
    for id in ["a", "unknown"] {
        background.note(&frame(&updated(id, "completed")));
        assert_eq!(background.quiet_from(Instant::now()), Some(Instant::now() + TASK_ECHO));
        tokio::time::advance(TASK_ECHO).await;
        assert_eq!(background.quiet_from(Instant::now()), Some(Instant::now()));
    }
    assert!(background.shown().is_empty() && background.take_stopped().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_task_says_what_it_is_and_when_it_began() {
    let mut background = Background::default();
    tokio::time::advance(Duration::from_secs(5)).await;
    background.note(&frame(&started("a", Some(true))));
    let shown = background.shown();
    let task = &shown.tasks[0];
    assert_eq!((task.kind.as_str(), task.description.as_str()), ("local_agent", "work"));
    assert_eq!(task.began, Instant::now());
    let age = Duration::from_secs(60);
    assert_eq!(background.is_of_age_at(age), Some(Instant::now() + age));
}

#[test]
fn a_task_that_a_turn_waits_for_is_not_behind_the_turns_until_the_cli_lists_it() {
    let mut background = Background::default();
    background.note(&frame(&started("a", Some(false))));
    assert!(background.has_task("a") && !background.has_tasks() && ids(&background).is_empty());
    background.note(&frame(&listed(&["a"])));
    assert!(background.has_tasks());
    assert_eq!(ids(&background), ["a"]);
}

#[test]
fn a_list_tells_of_tasks_that_nothing_else_told_of() {
    let mut background = Background::default();
    // 2.1.332 lists a task before it says that it began.
    background.note(&frame(&listed(&["a"])));
    background.note(&frame(&started("a", Some(true))));
    background.note(&frame(&started("b", None)));
    assert_eq!(ids(&background), ["a", "b"]);
    background.note(&frame(&listed(&["c"])));
    assert_eq!(ids(&background), ["b", "c"], "one that was never listed may be of another kind");
}

#[test]
fn tasks_that_were_stopped_are_named_once() {
    let mut background = Background::default();
    for id in ["a", "b", "c"] {
        background.note(&frame(&started(id, None)));
    }
    let from = background.number();
    background.note(&frame(&started("d", None)));
    assert_eq!(background.since(from), ["d"]);
    background.note(&frame(&updated("a", "killed")));
    background.note(&frame(&updated("b", "completed")));
    let notification =
        r#"{"type":"system","subtype":"task_notification","task_id":"c","status":"stopped"}"#;
    background.note(&frame(notification));
    let stopped: Vec<_> = background.take_stopped().iter().map(|task| task.id.clone()).collect();
    assert_eq!(stopped, ["a", "c"]);
    assert!(background.take_stopped().is_empty());
}

/// A task that begins by this call, as far as the version says so by this parent.
fn begun(id: &str, call: &str, parent: &str) -> String {
    let parent = match parent {
        "" => String::new(),
        parent => format!(r#","parent_task_id":"{parent}""#),
    };
    format!(
        r#"{{"type":"system","subtype":"task_started","task_id":"{id}","tool_use_id":"{call}"{parent}}}"#
    )
}

fn called(call: &str, by: &str) -> String {
    format!(
        r#"{{"type":"assistant","message":{{"content":[{{"type":"tool_use","id":"{call}","name":"Bash"}}]}},"parent_tool_use_id":{by}}}"#
    )
}

#[test]
fn what_a_subagent_begins_is_of_the_turn_that_began_the_subagent() {
    let mut background = Background::default();
    background.note(&frame(&begun("agent", "t1", "")));
    let of_agent = background.families(&["agent".to_owned()]);
    // Another turn runs by now.
    let from = background.number();
    // 2.1.332 says so, in its list as well.
    background.note(&frame(
        r#"{"type":"system","subtype":"background_tasks_changed","tasks":[{"task_id":"agent"},{"task_id":"listed","parent_task_id":"agent"}]}"#,
    ));
    background.note(&frame(&begun("named", "t2", "agent")));
    // 2.1.197 says by which call each began, and who made it.
    background.note(&frame(&called("t3", "\"t1\"")));
    background.note(&frame(&begun("by call", "t3", "")));
    background.note(&frame(&called("t4", "\"t3\"")));
    background.note(&frame(&begun("by its own", "t4", "")));
    assert_eq!(background.since(from), [""; 0]);
    // What the turn itself calls is its own, and so is what nobody knows.
    background.note(&frame(&called("t5", "null")));
    for (id, call, parent) in [("own", "t5", ""), ("odd", "", "gone"), ("self", "t6", "self")] {
        background.note(&frame(&begun(id, call, parent)));
    }
    assert_eq!(background.since(from), ["own", "odd", "self"]);
    background.note(&frame(&updated("agent", "completed")));
    assert!(background.has_family(&of_agent), "its tasks go on");
    for id in ["listed", "named", "by call", "by its own"] {
        background.note(&frame(&updated(id, "completed")));
    }
    assert!(!background.has_family(&of_agent));
}

#[test]
fn calls_of_subagents_have_a_bound() {
    let mut background = Background::default();
    for number in 0..5000 {
        background.note(&frame(&called(&format!("c{number}"), "\"t1\"")));
    }
    background.note(&frame(&called("x", &format!("\"{}\"", "t".repeat(1000)))));
    background.note(&frame(&begun("agent", "t1", "")));
    let from = background.number();
    background.note(&frame(&begun("late", "c4999", "")));
    background.note(&frame(&begun("forgotten", "c0", "")));
    assert_eq!(background.since(from), ["forgotten"]);
}

#[test]
fn a_flood_has_a_bound() {
    let mut background = Background::default();
    for id in 0..2 * MOST_TASKS {
        background.note(&frame(&started(&id.to_string(), None)));
    }
    background.note(&frame(&started(&"x".repeat(1000), None)));
    assert_eq!(background.tasks.len(), MOST_TASKS);
    for id in 0..MOST_TASKS {
        background.note(&frame(&updated(&id.to_string(), "killed")));
    }
    assert_eq!(background.take_stopped().len(), MOST_SHOWN);
}

proptest! {
    #[test]
    fn what_is_shown_changes_only_with_its_version(
        steps in prop::collection::vec((0_usize..4, 0_usize..5), 0..60),
    ) {
        let mut background = Background::default();
        let names = ["a", "b", "c", "d", "e"];
        for (step, which) in steps {
            let before = (background.version(), background.shown());
            background.note(&frame(&match step {
                0 => started(names[which], None),
                1 => started(names[which], Some(false)),
                2 => updated(names[which], "completed"),
                _ => listed(&names[..which]),
            }));
            let changed = background.shown() != before.1;
            prop_assert!(!changed || background.version() > before.0);
            prop_assert_eq!(background.has_tasks(), !background.shown().tasks.is_empty());
        }
    }
}
