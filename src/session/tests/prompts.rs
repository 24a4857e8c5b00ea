//! What a CLI asks: who answers it, and for how long it can be answered.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{SECOND, Session, cause, read, request, settings};
use crate::{
    domain::{
        decision::Decision,
        failure::Cause,
        hook::{Hook, HookDecision, ToolVerdict},
        options::Options,
    },
    session::{CloseReason, Refusal, Settings, TurnRequest},
};

impl Session {
    fn open(&self) -> Vec<String> {
        self.handle.status().open_prompts.iter().map(|prompt| prompt.id.clone()).collect()
    }

    fn answers(&self) -> Vec<Value> {
        self.supply.answers.lock().expect("no panic").clone()
    }

    async fn respond(&self, prompt: &str, answer: &Value) -> Result<(), Refusal> {
        let answered =
            self.handle.respond(prompt.to_owned(), Decision::Raw(answer.to_string())).await;
        sleep(SECOND).await;
        answered
    }
}

#[track_caller]
fn assert_not_found(answered: Result<(), Refusal>) {
    let Err(Refusal::Failed(failure)) = answered else { panic!("{answered:?}") };
    assert!(matches!(failure.cause, Cause::PromptNotFound { .. }), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn what_is_open_when_its_turn_ends_is_answered_as_long_as_the_cli_waits() {
    let session = Session::start(settings());
    for settled in [false, true] {
        session.supply.answers.lock().expect("no panic").clear();
        assert!(read(session.run("a ask").await).await.end.is_ok());
        if settled {
            sleep(2 * SECOND).await;
        }
        assert_eq!(session.open(), ["p", "q"], "the turn is over, and they are not");
        session.respond("p", &json!({"a": 1})).await.expect("taken");
        assert_eq!(session.open(), ["q"]);
        let answer = json!({"subtype": "success", "request_id": "p", "response": {"a": 1}});
        assert_eq!(session.answers(), [answer]);
        assert_not_found(session.respond("p", &json!({})).await);
        // Another turn changes nothing about it.
        assert!(read(session.run("b ok").await).await.end.is_ok());
        assert_eq!(session.open(), ["q"]);
        session.respond("q", &json!({})).await.expect("taken");
        assert_eq!(session.open(), [""; 0]);
        assert_eq!(session.answers().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cli_withdraws_between_turns_is_open_no_longer() {
    let session = Session::start(settings());
    read(session.run("a ask").await).await;
    session.respond("q", &json!({"cancel": true})).await.expect("taken");
    assert_eq!(session.open(), [""; 0]);
    assert_not_found(session.respond("p", &json!({})).await);
}

#[tokio::test(start_paused = true)]
async fn what_a_process_asks_goes_with_the_process() {
    let session = Session::start(settings());
    read(session.run("a ask").await).await;
    session.supply.kill();
    sleep(SECOND).await;
    assert_eq!(session.open(), [""; 0]);
    assert_not_found(session.respond("p", &json!({})).await);
    assert!(read(session.run("b ok").await).await.end.is_ok());
    assert_eq!(session.open(), [""; 0]);
    assert_not_found(session.respond("p", &json!({})).await);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_nobody_registered_is_refused_at_once() {
    let session = Session::start(settings());
    let seen = read(session.run("a hook").await).await;
    assert!(seen.end.is_ok());
    assert_eq!(session.open(), ["q"]);
    let answers = session.answers();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // An error would let the tool run.
    assert_eq!(answers[0]["request_id"], "p");
    let output = &answers[0]["response"]["hookSpecificOutput"];
    assert_eq!(output["permissionDecision"], "deny", "{answers:?}");
}

/// A session with the hook that the CLI of these tests calls, and 5 s for each call.
async fn hooked(prompt: &str) -> Session {
    let session = Session::start(settings());
    let hook = Hook { event: "PreToolUse".into(), matcher: "Bash".into(), timeout: 5 * SECOND };
    let options = Options { hooks: vec![hook], ..Options::default() };
    let asked = session.handle.run(TurnRequest { options, ..request(prompt) }).await;
    assert!(read(asked.expect("taken")).await.end.is_ok());
    session
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_is_registered_is_held_until_it_is_answered_once() {
    let session = hooked("a hook").await;
    assert_eq!(session.open(), ["p", "q"]);
    let events: Vec<_> =
        session.handle.status().open_prompts.iter().map(|prompt| prompt.hook_event).collect();
    assert_eq!(events, ["PreToolUse", ""]);
    let deny = HookDecision { verdict: Some(ToolVerdict::Deny), ..HookDecision::default() };
    let say = |id: &str, decision| session.handle.respond(id.to_owned(), decision);
    for (id, decision, wanted) in [
        ("p", Decision::Deny { message: String::new(), interrupt: false }, "deny"),
        ("p", Decision::Hook(HookDecision { block: true, ..deny.clone() }.into()), "hook.block"),
        ("q", Decision::Hook(deny.clone().into()), "hook"),
    ] {
        let refused = say(id, decision).await;
        let Err(Refusal::Failed(failure)) = refused else { panic!("{refused:?}") };
        let Cause::InvalidAnswer { field, .. } = failure.cause else { panic!("{failure}") };
        assert_eq!(field, wanted);
    }
    assert_eq!((session.open().len(), session.answers().len()), (2, 0), "both are still open");
    say("p", Decision::Hook(deny.clone().into())).await.expect("taken");
    assert_not_found(say("p", Decision::Hook(deny.into())).await);
    sleep(SECOND).await;
    let output = &session.answers()[0]["response"]["hookSpecificOutput"];
    assert_eq!(output["permissionDecision"], "deny");
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_nobody_answers_has_its_own_time_and_refuses_the_tool() {
    let session = hooked("a hook").await;
    sleep(4 * SECOND).await;
    assert_eq!(session.open(), ["p", "q"]);
    sleep(2 * SECOND).await;
    assert_eq!(session.open(), ["q"], "the other has more time");
    let answers = session.answers();
    let output = &answers[0]["response"]["hookSpecificOutput"];
    assert_eq!(output["permissionDecision"], "deny");
    let why = output["permissionDecisionReason"].as_str().expect("a reason");
    assert!(why.contains("5s") && why.contains("hook"), "{why}");
    sleep(600 * SECOND).await;
    assert_eq!(session.answers().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_hook_guards_does_not_happen_when_its_process_ends() {
    let session = hooked("a hook").await;
    session.handle.close(CloseReason::Requested { forget: false }).await.expect("closed");
    let answers = session.answers();
    let output = &answers[0]["response"]["hookSpecificOutput"];
    assert_eq!((answers.len(), &output["permissionDecision"]), (1, &json!("deny")));
}

#[tokio::test(start_paused = true)]
async fn another_process_has_the_hooks_too() {
    let session = hooked("a ok").await;
    session.supply.kill();
    sleep(SECOND).await;
    read(session.run("b hook").await).await;
    assert_eq!(session.open(), ["p", "q"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_outside_of_a_turn_is_shown_and_answered() {
    let session = Session::start(settings());
    assert!(read(session.run("a ask-behind").await).await.end.is_ok());
    sleep(SECOND).await;
    assert_eq!(session.open(), ["p"]);
    session.respond("p", &json!({})).await.expect("taken");
    assert_eq!(session.open(), [""; 0]);
    assert_eq!(session.answers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_turn_left_open_excuses_no_silence() {
    let session = Session::start(settings());
    read(session.run("a ask").await).await;
    assert_eq!(session.open(), ["p", "q"]);
    let seen = read(session.run("b hang").await).await;
    assert!(matches!(cause(&seen), Cause::StreamStalled { .. }), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_answers_between_turns_is_refused_when_its_time_is_over() {
    let session = Session::start(settings());
    read(session.run("a ask").await).await;
    sleep(598 * SECOND).await;
    assert_eq!((session.open().len(), session.answers().len()), (2, 0));
    sleep(3 * SECOND).await;
    assert_eq!(session.open(), [""; 0]);
    let answers = session.answers();
    assert_eq!(answers.len(), 2, "{answers:?}");
    // Each kind in its own words: what is not known is told as an error.
    assert_eq!(answers[0]["response"]["behavior"], "deny");
    assert!(answers[1]["error"].as_str().is_some_and(|why| why.contains("10m")), "{answers:?}");
    assert!(read(session.run("b ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_a_prompt_waits_for_ever() {
    let session = Session::start(Settings { prompt_timeout: None, ..settings() });
    read(session.run("a ask").await).await;
    sleep(7 * 24 * 3600 * SECOND).await;
    assert_eq!(session.open().len(), 2);
}
