//! Options of a living session.

use tokio::time::Instant;

use super::{Session, cause, read, request, settings};
use crate::{
    domain::{
        failure::{Cause, Remedy},
        options::Options,
    },
    session::{MismatchPolicy, Refusal},
};

#[tokio::test(start_paused = true)]
async fn options_are_changed_live_refused_or_bring_another_process() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let with = |options, on_mismatch| {
        let mut asked = request("b ok");
        (asked.options, asked.on_mismatch) = (options, on_mismatch);
        session.handle.run(asked)
    };
    let model = Options { model: Some("other".into()), ..Options::default() };
    assert!(read(with(model, MismatchPolicy::Fail).await.expect("taken")).await.end.is_ok());
    assert_eq!(session.handle.status().options.model.as_deref(), Some("other"));

    let prompt = Options { system_prompt: Some("new".into()), ..Options::default() };
    let seen = read(with(prompt.clone(), MismatchPolicy::Fail).await.expect("taken")).await;
    let Cause::OptionsMismatch { options, remedy, .. } = cause(&seen) else { panic!("{seen:?}") };
    assert_eq!((options.as_slice(), remedy), (&["system_prompt".to_owned()][..], Remedy::Restart));
    let refused = session.handle.update(prompt.clone()).await.expect_err("refused");
    let Refusal::Failed(failure) = refused else { panic!("closed") };
    let told = failure.to_string();
    assert!(told.contains("system_prompt; UpdateSession changes them only while"), "{told}");
    assert!(told.contains("a Query with on_options_mismatch = RESTART"), "{told}");

    let client = session.handle.status().client_id;
    assert!(read(with(prompt, MismatchPolicy::Restart).await.expect("taken")).await.end.is_ok());
    assert_ne!(session.handle.status().client_id, client);
    assert_eq!(session.supply.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_conversation_has_another_id() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let before = session.handle.status().cli_session_id;
    let mut asked = request("b ok");
    asked.new_conversation = true;
    assert!(read(session.handle.run(asked).await.expect("taken")).await.end.is_ok());
    assert_ne!(session.handle.status().cli_session_id, before);
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_of_a_change_holds_although_the_rest_was_refused() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let wanted = Options {
        model: Some("other".into()),
        permission_mode: Some("refused".into()),
        ..Options::default()
    };
    let refused = session.handle.update(wanted).await.expect_err("refused");
    let Refusal::Failed(failure) = refused else { panic!("closed") };
    let Cause::OptionsMismatch { options, remedy, detail } = failure.cause else {
        panic!("{failure}")
    };
    assert_eq!((options, remedy), (vec!["permission_mode".to_owned()], Remedy::OtherValue));
    assert_eq!(detail.as_deref(), Some("no such mode"));
    let options = session.handle.status().options.clone();
    assert_eq!(options.model.as_deref(), Some("other"));
    assert_eq!(options.permission_mode, None);
}

#[tokio::test(start_paused = true)]
async fn a_cli_that_does_not_answer_a_change_is_ended_in_the_time_of_an_interrupt() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let began = Instant::now();
    let mut asked = request("b ok");
    asked.options.model = Some("mute".into());
    let seen = read(session.handle.run(asked).await.expect("taken")).await;
    let cause = cause(&seen);
    assert!(matches!(cause, Cause::OptionsMismatch { remedy: Remedy::Retry, .. }), "{seen:?}");
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(read(session.run("c ok").await).await.end.is_ok());
    assert_eq!(session.tenant.counters.sessions_resumed.get(), 1);
    assert_eq!(session.supply.alive(), 1);
}
