//! Calls and results as 2.1.197 and 2.1.332 print them.

use bytes::Bytes;

use super::*;

fn frame(value: &serde_json::Value) -> Frame {
    Frame::parse(Bytes::from(value.to_string())).expect("a frame")
}

fn call(id: &str, name: &str, input: serde_json::Value) -> Frame {
    let block = serde_json::json!({"type": "tool_use", "id": id, "name": name, "input": input});
    frame(&serde_json::json!({"type": "assistant", "message": {"content": [block]}}))
}

fn result(id: &str, text: serde_json::Value) -> Frame {
    let block = serde_json::json!({"type": "tool_result", "tool_use_id": id, "content": text});
    frame(&serde_json::json!({"type": "user", "message": {"role": "user", "content": [block]}}))
}

fn cron() -> serde_json::Value {
    serde_json::json!({"cron": "* * * * *", "prompt": "look", "recurring": true})
}

const EVERY_MINUTE: &str =
    "Scheduled recurring job dbaa00bf (Every minute). Next run: Nov 29 8:02am. Session-only.";

fn ids(timers: &Timers) -> Vec<String> {
    timers.shown().iter().map(|timer| timer.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_time_table_is_set_by_its_result_and_taken_back_by_its_id() {
    let mut timers = Timers::default();
    assert!(!timers.note(&call("t1", "CronCreate", cron())));
    assert!(
        ids(&timers).is_empty() && timers.over_from(Instant::now()).is_some(),
        "nobody has set it yet"
    );
    assert!(timers.note(&result("t1", EVERY_MINUTE.into())));
    let shown = timers.shown();
    assert_eq!(shown[0].id, "dbaa00bf");
    assert_eq!((shown[0].schedule.as_str(), shown[0].prompt.as_str()), ("* * * * *", "look"));
    assert_eq!((timers.over_from(Instant::now()), timers.began().count()), (None, 1));
    assert!(!timers.note(&call("t2", "CronDelete", serde_json::json!({"id": "other"}))));
    assert!(timers.note(&call("t3", "CronDelete", serde_json::json!({"id": "dbaa00bf"}))));
    assert!(ids(&timers).is_empty() && timers.over_from(Instant::now()).is_some());
}

#[test]
fn the_form_of_a_result_does_not_matter_but_what_it_says() {
    let blocks = serde_json::json!([{"type": "text", "text": "Scheduled one-shot task f4d8fef9 (58 23 24 12 *)."}]);
    for (text, set) in [
        (blocks, true),
        (serde_json::json!("<tool_use_error>no such cron</tool_use_error>"), false),
        (serde_json::json!("Scheduled recurring job"), false),
        (serde_json::Value::Null, false),
    ] {
        let mut timers = Timers::default();
        timers.note(&call("t1", "CronCreate", cron()));
        assert_eq!(timers.note(&result("t1", text.clone())), set, "{text}");
        assert_eq!(timers.shown().len(), usize::from(set));
    }
}

/// What is added to the transcript when a timer fires, or a caller sends this.
fn transcript(prompt: &str, is_meta: bool, file: &str) -> Frame {
    let path = format!("/home/projects/p/94eb55ee-5fb6-4a47-8ae6-e891d9752ba8{file}.jsonl");
    let mut entry =
        serde_json::json!({"type": "user", "message": {"role": "user", "content": prompt}});
    if is_meta {
        entry["isMeta"] = true.into();
    }
    let enqueued =
        serde_json::json!({"type": "queue-operation", "operation": "enqueue", "content": prompt});
    frame(
        &serde_json::json!({"type": "transcript_mirror", "filePath": path, "entries": [enqueued, entry]}),
    )
}

#[test]
fn one_that_fires_once_is_over_when_it_has_fired() {
    let mut timers = Timers::default();
    let long = "long ".repeat(100);
    for (call_id, kind, prompt) in [
        ("t1", "one-shot task", "look"),
        ("t2", "one-shot task", "look"),
        ("t3", "recurring job", "look"),
        ("t4", "one-shot task", long.as_str()),
    ] {
        let recurring = kind != "one-shot task";
        let input =
            serde_json::json!({"cron": "25 12 29 11 *", "prompt": prompt, "recurring": recurring});
        timers.note(&call(call_id, "CronCreate", input));
        timers
            .note(&result(call_id, format!("Scheduled {kind} {call_id} (25 12 29 11 *).").into()));
    }
    // A caller's prompt is none, nor is what a subagent is told, nor another.
    for other in [
        transcript("look", false, ""),
        transcript("look", true, "/subagents/agent-1"),
        transcript("look there", true, ""),
        transcript("", true, ""),
    ] {
        assert!(!timers.note(&other));
    }
    for left in [vec!["t2", "t3", "t4"], vec!["t3", "t4"]] {
        assert!(timers.note(&transcript("look", true, "")));
        assert_eq!(ids(&timers), left);
    }
    assert!(!timers.note(&transcript("look", true, "")), "that is the recurring one");
    assert!(timers.note(&transcript(&long, true, "")));
    assert_eq!(ids(&timers), ["t3"]);
}

#[tokio::test(start_paused = true)]
async fn there_is_one_wake_up_and_it_passes() {
    let mut timers = Timers::default();
    for id in ["t1", "t2"] {
        let input = serde_json::json!({"delaySeconds": 60, "reason": "look", "prompt": "wake up"});
        timers.note(&call(id, "ScheduleWakeup", input));
        timers.note(&result(id, "Next wakeup scheduled for 08:04:00 (in 93s).".into()));
    }
    assert_eq!(ids(&timers), ["t2"]);
    assert_eq!(timers.shown()[0].schedule, "60s");
    let over = Instant::now() + Duration::from_secs(60) + LATE;
    assert_eq!(timers.over_from(Instant::now()), Some(over));
    tokio::time::advance(Duration::from_secs(60) + LATE).await;
    assert!(ids(&timers).is_empty() && timers.began().next().is_none());
    assert_eq!(timers.over_from(Instant::now()), Some(Instant::now()));
}

#[test]
fn one_that_is_not_set_is_none() {
    let mut timers = Timers::default();
    timers.note(&call("t1", "ScheduleWakeup", serde_json::json!({"delaySeconds": "soon"})));
    assert!(!timers.note(&result("t1", "Wakeup not scheduled. Either the loop".into())));
    assert!(ids(&timers).is_empty());
}

#[test]
fn a_flood_has_a_bound() {
    let mut timers = Timers::default();
    for number in 0..3 * MOST {
        let id = format!("t{number}");
        timers.note(&call(&id, "CronCreate", cron()));
        if number % 2 == 0 {
            timers.note(&result(&id, format!("Scheduled recurring job j{number} (x).").into()));
        }
    }
    assert!(timers.shown().len() == MOST && timers.asked.len() <= MOST);
}
