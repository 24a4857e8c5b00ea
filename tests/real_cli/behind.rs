//! What works behind the turns: subagents, commands in the background, timers. A session is more
//! than its turn.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use session_pool::proto::{
    BackgroundPolicy, InterruptOutcome, InterruptRequest, InterruptResponse, InterruptScope,
    PromptAllow, QueryRequest, Session, SessionOptions, SessionStatus, StopTaskRequest, TurnResult,
    respond_request::Decision, turn_event::Kind,
};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, init, kinds},
    support::{
        eventually, failure,
        follower::{Follower, from_start},
        service::query_with,
        turn::Turn,
    },
};

each_version!(within LONG:
    a_query_is_answered_while_three_subagents_work,
    a_task_is_stopped_by_its_id,
    an_interrupt_names_what_ends_with_the_turn_and_what_goes_on,
    an_interrupt_of_all_leaves_nothing_behind_the_turn,
    a_prompt_from_the_background_is_answered_while_a_query_runs,
    ; pinned:
    a_timer_keeps_its_process_and_then_is_ended_visibly,
    an_interrupt_stops_all_that_works_where_no_turn_runs,
    ; newest:
    a_subagent_is_no_stuck_turn,
    what_works_behind_the_turns_keeps_its_process_and_then_is_ended_visibly,
    a_timer_fires_in_an_idle_session,
    a_session_of_its_own_delivers_the_reports_of_its_subagents,
    a_turn_that_is_to_leave_nothing_behind_leaves_nothing,
    who_waits_for_too_long_is_told,
);

/// What a subagent's rounds run.
const STEP: &str = "sleep 0.7";

pub fn options() -> SessionOptions {
    let tools = ["Agent", "Task", "Bash", "CronCreate"];
    SessionOptions { allowed_tools: tools.map(str::to_owned).to_vec(), ..SessionOptions::default() }
}

/// A directive that starts a subagent behind the turn.
pub fn subagent(rounds: usize) -> String {
    let work = vec![format!("[[bash {STEP}]]"); rounds].join(" ");
    let input = serde_json::json!({"description": "work", "subagent_type": "general-purpose",
        "prompt": format!("{work} [[say seen]]"), "run_in_background": true});
    format!("[[tool Agent {input}]]")
}

/// Before some version below 2.1.197 the CLI does not end a turn before its subagents, though
/// they work in the background: there is nothing behind the turn.
fn ends_with_its_subagents(version: Version) -> bool {
    let patch = version.as_str().rsplit('.').next().and_then(|patch| patch.parse().ok());
    patch.unwrap_or(0) < 197
}

async fn tasks(bed: &Bed) -> Vec<String> {
    let session = bed.service.session("a").await.expect("there");
    session.background_tasks.into_iter().map(|task| task.kind).collect()
}

/// Joins the last turn of a session once it is one that the CLI began by itself, which may take
/// as long as the test may.
async fn background_turn(bed: &Bed) -> Turn {
    loop {
        if let Ok(mut turn) = bed.service.attach("a", "", 0).await {
            turn.next().await;
            if turn.started().background {
                turn.finish().await;
                return turn;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_query_is_answered_while_three_subagents_work(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = format!("{} {} {} [[say started]]", subagent(6), subagent(6), subagent(6));
    let first = bed.run(query_with("a", &prompt, options())).await;
    if ends_with_its_subagents(version) {
        assert_eq!(first.result().result, "Noted.");
        return bed.stop().await;
    }
    assert_eq!(first.result().result, "started");
    assert_eq!(tasks(&bed).await, ["local_agent", "local_agent", "local_agent"]);
    for number in 0..3 {
        let turn = bed.query("a", &format!("question {number}")).await;
        assert!(!turn.started().background);
        assert!(turn.result().result.starts_with(&format!("You said: \"question {number}\"")));
        assert_eq!(tasks(&bed).await.len(), 3, "it waited for none of them");
    }
    eventually("all reports", async || {
        let turn = background_turn(&bed).await;
        (tasks(&bed).await.is_empty() && turn.result().result == "Noted.").then_some(())
    })
    .await;
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn a_subagent_is_no_stuck_turn(version: Version) {
    let work = match ends_with_its_subagents(version) {
        true => "[[bash-background sleep 6.5]]".to_owned(),
        false => subagent(9),
    };
    let bed = Bed::with(version, |config| {
        config.pool.stuck_threshold = Duration::from_secs(5);
        config.pool.idle_threshold = Duration::from_secs(2);
        config.pool.session_ttl = Duration::from_secs(3);
        config.pool.hibernate_after = Duration::from_secs(1);
        config.pool.cleanup_interval = Duration::from_millis(200);
    })
    .await;
    let prompt = format!("{work} [[say on]]");
    let mut turn = bed.open(leaving(&prompt, BackgroundPolicy::Wait)).await;
    turn.finish().await;
    turn.result();
    let said: Vec<_> = results(&turn).iter().map(|result| result.result.as_str()).collect();
    assert_eq!(said, ["on", "Noted."]);
    let counters = bed.service.stats().await.counters.expect("counters");
    assert_eq!((counters.stuck, counters.background_work_ended), (0, 0));
    bed.stop().await;
}

async fn what_works_behind_the_turns_keeps_its_process_and_then_is_ended_visibly(version: Version) {
    let bed = Bed::with(version, |config| {
        config.pool.hibernate_after = Duration::from_millis(100);
        config.pool.background_max_age = Duration::from_secs(3);
    })
    .await;
    let prompt = "[[bash-background sleep 600]] [[say on]]";
    bed.run(query_with("a", prompt, options())).await.result();
    let session = bed.service.session("a").await.expect("there");
    assert_eq!(session.background_tasks[0].kind, "local_bash");
    assert!(session.background_tasks[0].start_time.is_some());
    let ended = hibernated(&bed).await;
    assert!(ended.last_error.contains("pool.background_max_age"), "{}", ended.last_error);
    assert!(ended.background_tasks.is_empty());
    assert!(bed.running("sleep 600").is_empty());
    let counters = bed.service.stats().await.counters.expect("counters");
    assert_eq!(counters.background_work_ended, 1);
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\""));
    bed.stop().await;
}

async fn a_timer_keeps_its_process_and_then_is_ended_visibly(version: Version) {
    let bed = Bed::with(version, |config| {
        config.pool.hibernate_after = Duration::from_millis(100);
        config.pool.background_max_age = Duration::from_secs(3);
    })
    .await;
    let input = r#"{"cron":"0 0 1 1 *","prompt":"[[say happy new year]]","recurring":true}"#;
    let prompt = format!("[[tool CronCreate {input}]] [[say set]]");
    let first = bed.run(query_with("a", &prompt, options())).await;
    if !is_scheduled(&first) {
        return bed.stop().await;
    }
    let timers = bed.service.session("a").await.expect("there").timers;
    assert_eq!((timers.len(), timers[0].schedule.as_str()), (1, "0 0 1 1 *"));
    let ended = hibernated(&bed).await;
    assert!(ended.last_error.contains("pool.background_max_age"), "{}", ended.last_error);
    assert!(ended.timers.is_empty());
    let counters = bed.service.stats().await.counters.expect("counters");
    assert_eq!(counters.background_work_ended, 1);
    bed.stop().await;
}

/// A timer of another session begins its turn between prompts that come one behind the other: each
/// is answered by its own result, and who follows sees the timer's turn by itself.
async fn meets_its_timer(bed: &Bed, prompt: &str) {
    bed.run(query_with("b", prompt, options())).await;
    let mut follower = Follower::open(&bed.service.client, from_start("b")).await.expect("taken");
    // Time tables are about full minutes. With many more prompts 2.1.110 compacts the conversation.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    tokio::time::sleep(Duration::from_secs(57_u64.saturating_sub(now.as_secs() % 60))).await;
    for asked in 1.. {
        let turn = bed.query("b", &format!("[[pause 80]] question {asked}")).await;
        let result = &turn.result().result;
        assert!(
            result.starts_with(&format!("You said: \"[[pause 80]] question {asked}\"")),
            "{result}"
        );
        assert_eq!(turn.text(), *result, "and nothing of the timer's");
        follower.until_result(&turn.started().turn_id).await;
        if follower.turns().len() > asked + 1 {
            break;
        }
    }
}

/// Whether the model was told that its timer is set, and not that it cannot be.
fn is_scheduled(turn: &Turn) -> bool {
    turn.events.iter().any(|event| format!("{event:?}").contains("Scheduled recurring job"))
}

async fn hibernated(bed: &Bed) -> Session {
    eventually("it is let go", async || {
        let session = bed.service.session("a").await.ok()?;
        (session.status() == SessionStatus::Hibernated).then_some(session)
    })
    .await
}

/// The shortest that a time table allows is a minute.
async fn a_timer_fires_in_an_idle_session(version: Version) {
    let bed = Bed::with(version, |config| {
        config.pool.hibernate_after = Duration::from_millis(100);
    })
    .await;
    let input = r#"{"cron":"* * * * *","prompt":"[[say the time has come]]","recurring":true}"#;
    let prompt = format!("[[tool CronCreate {input}]] [[say set]]");
    let first = bed.run(query_with("a", &prompt, options())).await;
    if !is_scheduled(&first) {
        // The model was told that it cannot.
        assert!(bed.service.session("a").await.expect("there").timers.is_empty());
        return bed.stop().await;
    }
    let timers = bed.service.session("a").await.expect("there").timers;
    assert_eq!((timers.len(), timers[0].schedule.as_str()), (1, "* * * * *"));
    let (fired, ()) = tokio::join!(background_turn(&bed), meets_its_timer(&bed, &prompt));
    assert_eq!(fired.result().result, "the time has come");
    assert_eq!(fired.started().client_id, first.started().client_id);
    bed.stop().await;
}

async fn interrupt(bed: &Bed, scope: InterruptScope) -> InterruptResponse {
    let request = InterruptRequest {
        session_id: "a".into(),
        keep_session: true,
        scope: scope.into(),
        ..InterruptRequest::default()
    };
    bed.service.client.clone().interrupt(request).await.expect("answered").into_inner()
}

fn kinds_of(tasks: &[session_pool::proto::BackgroundTask]) -> Vec<&str> {
    let mut kinds: Vec<_> = tasks.iter().map(|task| task.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds
}

/// Requests of subagents. The main conversation has the call that starts them in it.
fn rounds(bed: &Bed) -> usize {
    let asked = bed.api.requests();
    let messages = asked.iter().map(|request| request.body["messages"].to_string());
    messages.filter(|said| said.contains(STEP) && !said.contains("subagent_type")).count()
}

async fn a_task_is_stopped_by_its_id(version: Version) {
    let bed = Bed::start(version).await;
    bed.run(query_with("a", "[[bash-background sleep 601]] [[say on]]", options())).await;
    let session = bed.service.session("a").await.expect("there");
    let stop = async |task_id: &str| {
        let request = StopTaskRequest { session_id: "a".into(), task_id: task_id.into() };
        bed.service.client.clone().stop_task(request).await.map(drop)
    };
    failure(&stop("nothing").await.expect_err("unknown"), Code::NotFound, "TASK_NOT_FOUND");
    stop(&session.background_tasks[0].task_id).await.expect("stopped");
    assert!(tasks(&bed).await.is_empty());
    bed.until_ended("sleep 601").await;
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\""));
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn an_interrupt_stops_all_that_works_where_no_turn_runs(version: Version) {
    let (agents, kinds): (String, &[&str]) = match ends_with_its_subagents(version) {
        true => (String::new(), &["local_bash"]),
        // Three of them.
        false => (
            vec![subagent(20); 3].join(" "),
            &["local_agent", "local_agent", "local_agent", "local_bash"],
        ),
    };
    let bed = Bed::start(version).await;
    let prompt = format!("{agents} [[bash-background sleep 602]] [[say on]]");
    let first = bed.run(query_with("a", &prompt, options())).await;
    assert_eq!(first.result().result, "on");
    let none = interrupt(&bed, InterruptScope::Turn).await;
    assert_eq!(none.outcome(), InterruptOutcome::NoActiveTurn);
    assert_eq!(kinds_of(&none.still_running), kinds);
    assert_eq!(tasks(&bed).await.len(), kinds.len(), "nothing was stopped");

    let all = interrupt(&bed, InterruptScope::All).await;
    assert_eq!(all.outcome(), InterruptOutcome::NoActiveTurn);
    assert_eq!(kinds_of(&all.stopped), kinds);
    assert!(all.still_running.is_empty() && tasks(&bed).await.is_empty());
    let asked = rounds(&bed);
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\""));
    assert_eq!(next.started().client_id, first.started().client_id);
    // Longer than a round.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rounds(&bed), asked, "the subagent asks for nothing more");
    assert!(bed.running("sleep 602").is_empty());
    bed.stop().await;
}

async fn an_interrupt_names_what_ends_with_the_turn_and_what_goes_on(version: Version) {
    let bed = Bed::start(version).await;
    let behind = format!("{} [[bash-background sleep 603]]", subagent(20));
    let mut turn = bed
        .open(query_with("a", &format!("{behind} [[bash echo on; sleep 604]]"), options()))
        .await;
    bed.until_running("sleep 604").await;
    let report = interrupt(&bed, InterruptScope::Turn).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    assert_eq!(kinds_of(&report.still_running), ["local_bash"]);
    assert_eq!(kinds_of(&report.stopped), ["local_agent"]);
    assert_eq!(bed.running("sleep 603").len(), 1);
    bed.stop().await;
}

async fn an_interrupt_of_all_leaves_nothing_behind_the_turn(version: Version) {
    let bed = Bed::start(version).await;
    let behind = format!("{} [[bash-background sleep 605]]", subagent(20));
    let mut turn = bed
        .open(query_with("a", &format!("{behind} [[bash echo on; sleep 606]]"), options()))
        .await;
    bed.until_running("sleep 606").await;
    let report = interrupt(&bed, InterruptScope::All).await;
    turn.finish().await;
    assert_eq!(kinds_of(&report.stopped), ["local_agent", "local_bash"]);
    assert!(report.still_running.is_empty() && tasks(&bed).await.is_empty());
    bed.until_ended("sleep 605").await;
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\""));
    assert_eq!(next.started().client_id, turn.started().client_id);
    bed.stop().await;
}

fn results(turn: &Turn) -> Vec<&TurnResult> {
    kinds(turn)
        .filter_map(|kind| if let Kind::Result(it) = kind { Some(it) } else { None })
        .collect()
}

async fn a_session_of_its_own_delivers_the_reports_of_its_subagents(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = format!("{} {} [[say started]]", subagent(2), subagent(4));
    let mut turn = bed.open(query_with("", &prompt, options())).await;
    turn.finish().await;
    turn.result();
    let said: Vec<_> = results(&turn).iter().map(|result| result.result.as_str()).collect();
    assert_eq!(said.last(), Some(&"Noted."), "{said:?}");
    if !ends_with_its_subagents(version) {
        assert!(said.len() >= 2 && said[0] == "started", "{said:?}");
    }
    let begun = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::Started(started) => Some(started.background),
        _ => None,
    });
    let begun: Vec<_> = begun.collect();
    assert!(!begun[0] && begun[1..].iter().all(|background| *background), "{begun:?}");
    eventually("it is gone", async || bed.service.processes().is_empty().then_some(())).await;
    bed.stop().await;
}

fn leaving(prompt: &str, on_background: BackgroundPolicy) -> QueryRequest {
    QueryRequest { on_background: on_background.into(), ..query_with("a", prompt, options()) }
}

async fn a_turn_that_is_to_leave_nothing_behind_leaves_nothing(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = "[[bash-background sleep 607]] [[say on]]";
    bed.run(leaving(prompt, BackgroundPolicy::Stop)).await.result();
    bed.until_ended("sleep 607").await;
    eventually("nothing works", async || tasks(&bed).await.is_empty().then_some(())).await;
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\""));
    bed.stop().await;
}

async fn who_waits_for_too_long_is_told(version: Version) {
    let bed = Bed::with(version, |config| {
        config.pool.background_timeout = Duration::from_secs(1);
    })
    .await;
    let prompt = "[[bash-background sleep 608]] [[say on]]";
    let turn = bed.run(leaving(prompt, BackgroundPolicy::Wait)).await;
    assert_eq!(results(&turn).len(), 1);
    failure(turn.error(), Code::DeadlineExceeded, "BACKGROUND_TIMEOUT");
    assert_eq!(tasks(&bed).await, ["local_bash"], "it goes on");
    // Who does not wait any more stops nothing.
    let mut left = bed.open(leaving("hello", BackgroundPolicy::Wait)).await;
    left.until(|kind| matches!(kind, Kind::Result(_))).await;
    left.leave();
    assert_eq!(tasks(&bed).await, ["local_bash"]);
    bed.stop().await;
}

async fn a_prompt_from_the_background_is_answered_while_a_query_runs(version: Version) {
    if ends_with_its_subagents(version) {
        // What it asks is asked in the turn: `permissions`.
        return;
    }
    let bed = Bed::start(version).await;
    let input = serde_json::json!({"description": "work", "subagent_type": "general-purpose",
        "prompt": "[[bash sleep 1]] [[bash touch made]] [[say seen]]", "run_in_background": true});
    let prompt = format!("[[tool Agent {input}]] [[say started]]");
    let asks = SessionOptions {
        allowed_tools: vec!["Agent".into(), "Task".into()],
        ..SessionOptions::default()
    };
    bed.run(query_with("a", &prompt, asks)).await.result();
    let open = eventually("it asks", async || {
        bed.service.session("a").await.ok()?.open_prompts.into_iter().next()
    })
    .await;
    assert_eq!(bed.service.session("a").await.expect("there").running_turn_id, "");
    let mut turn =
        bed.open(query_with("a", "[[words 20 every 100]]", SessionOptions::default())).await;
    turn.until_init().await;
    let allow = Decision::Allow(PromptAllow::default());
    bed.respond("a", &open.prompt_id, allow.clone()).await.expect("taken");
    let again = bed.respond("a", &open.prompt_id, allow).await;
    failure(&again.expect_err("answered"), Code::NotFound, "PROMPT_NOT_FOUND");
    turn.finish().await;
    assert!(turn.result().result.contains("word20"), "{}", turn.result().result);
    let report = background_turn(&bed).await;
    assert_eq!(report.result().result, "Noted.");
    let made = std::path::Path::new(&init(&turn).cwd).join("made");
    assert!(made.exists(), "the tool has run");
    bed.stop().await;
}
