//! What a CLI asks: who answers it, and for how long it can be answered.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{SECOND, Session, cause, read, settings};
use crate::{
    domain::{decision::Decision, failure::Cause},
    session::{Refusal, Settings},
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
    assert_eq!((&answers[0]["subtype"], &answers[0]["request_id"]), (&json!("error"), &json!("p")));
    assert!(answers[0]["error"].as_str().is_some_and(|why| why.contains("hook")), "{answers:?}");
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
