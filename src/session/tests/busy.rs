//! A session answers whatever it is busy with: a process that ends, a change of options, the
//! store, the disk.

use std::{future::Future, sync::atomic::Ordering};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{SECOND, Seen, Session, cause, gated_store::Gate, read, request, settings, text};
use crate::{
    domain::{decision::Decision, failure::Cause, ids::TurnId, options::Options},
    session::{
        BusyPolicy, CloseReason, HibernateReason, InterruptOutcome, InterruptReport, Refusal,
    },
    tasks::spawn_owned,
};

const CLOSE: CloseReason = CloseReason::Requested { forget: false };

impl Session {
    /// A session that has had a turn.
    async fn used() -> Self {
        let session = Self::start(settings());
        assert!(read(session.run("first ok").await).await.end.is_ok());
        sleep(SECOND).await;
        session
    }

    /// A process of it that is about to end takes its time from here on.
    fn be_stubborn(&self) {
        self.supply.stubborn.store(true, Ordering::SeqCst);
    }

    async fn interrupted(&self) -> InterruptReport {
        at_once(self.handle.interrupt(true)).await.expect("answered")
    }

    /// A turn that is asked for now.
    async fn queued(&self, prompt: &str) -> JoinHandle<Seen> {
        let listener = at_once(self.handle.run(request(prompt))).await.expect("taken");
        spawn_owned(read(listener))
    }

    /// Whatever it is busy with, it answers, and a turn that is asked for meanwhile runs.
    async fn answers_with_nothing_to_stop(&self) {
        let report = self.interrupted().await;
        assert_eq!(report.outcome, InterruptOutcome::NoActiveTurn);
        let answer = self.handle.respond("p".into(), Decision::Raw("{}".into()));
        let Err(Refusal::Failed(failure)) = at_once(answer).await else { panic!("answered") };
        assert!(matches!(failure.cause, Cause::PromptNotFound { .. }), "{failure}");
        assert!(!at_once(self.handle.hibernate(HibernateReason::Pressure)).await);
        let turn = self.queued("a ok").await;
        assert!(!turn.is_finished());
        // By now there is one, which has not begun.
        let mut asked = request("b ok");
        asked.on_busy = BusyPolicy::Reject;
        let Err(Refusal::Failed(failure)) = at_once(self.handle.run(asked)).await else {
            panic!("it is busy")
        };
        assert!(matches!(failure.cause, Cause::SessionBusy), "{failure}");
        let seen = turn.await.expect("no panic");
        assert!(seen.end.is_ok() && text(&seen).contains("a ok #2"), "{seen:?}");
    }
}

/// Within a few milliseconds.
async fn at_once<T>(answer: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = answer.await;
    assert!(began.elapsed().as_millis() < 10, "{:?}", began.elapsed());
    answer
}

#[tokio::test(start_paused = true)]
async fn while_an_idle_process_ends() {
    let session = Session::used().await;
    session.be_stubborn();
    let handle = session.handle.clone();
    let gone = spawn_owned(async move { handle.hibernate(HibernateReason::Pressure).await });
    sleep(SECOND).await;
    assert_eq!(session.supply.alive(), 1, "it takes its time");
    session.answers_with_nothing_to_stop().await;
    assert!(gone.await.expect("no panic"));
    assert_eq!(session.supply.most_alive(), 1, "one after the other");
}

#[tokio::test(start_paused = true)]
async fn while_the_process_of_a_stopped_turn_ends() {
    let session = Session::used().await;
    session.be_stubborn();
    let turn = session.queued("x deaf").await;
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let stopped = spawn_owned(async move { handle.interrupt(true).await });
    sleep(settings().interrupt_timeout + SECOND / 10).await;
    assert_eq!(cause(&turn.await.expect("no panic")), Cause::TurnInterrupted);
    assert_eq!(session.supply.alive(), 1, "it takes its time");
    session.answers_with_nothing_to_stop().await;
    let report = stopped.await.expect("no panic").expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Terminated);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_comes_while_a_process_ends_ends_the_session_behind_it() {
    let session = Session::used().await;
    session.be_stubborn();
    let handle = session.handle.clone();
    drop(spawn_owned(async move { handle.hibernate(HibernateReason::Pressure).await }));
    sleep(SECOND).await;
    let turn = session.queued("a ok").await;
    let handle = session.handle.clone();
    let closed = spawn_owned(async move { handle.close(CLOSE).await });
    sleep(SECOND / 100).await;
    assert_eq!(cause(&turn.await.expect("no panic")), Cause::TurnInterrupted);
    let refused = at_once(session.handle.run(request("b ok"))).await;
    assert!(matches!(refused, Err(Refusal::Closed)), "it leaves");
    assert!(closed.await.expect("no panic").expect("answered").closed);
    assert_eq!(session.supply.alive(), 0);
    session.handle.ended().await;
}

#[tokio::test(start_paused = true)]
async fn while_options_change() {
    let session = Session::used().await;
    let (handle, options) = (session.handle.clone(), Options::default());
    let mute = Options { model: Some("mute".into()), ..options };
    let update = spawn_owned(async move { handle.update(mute).await });
    sleep(SECOND).await;
    session.answers_with_nothing_to_stop().await;
    assert!(update.await.expect("no panic").is_err(), "the CLI did not answer");
}

/// The CLI asks something between turns, and is asked for a change that it refuses.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_while_a_change_is_refused_is_delivered_behind_it() {
    let session = Session::used().await;
    assert!(session.queued("x ask").await.await.expect("no panic").end.is_ok());
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let refused = Options { permission_mode: Some("refused-late".into()), ..Options::default() };
    let update = spawn_owned(async move { handle.update(refused).await });
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let answer =
        spawn_owned(async move { handle.respond("p".into(), Decision::Raw("{}".into())).await });
    assert!(update.await.expect("no panic").is_err(), "refused");
    sleep(SECOND / 10).await;
    assert!(answer.is_finished(), "nobody else has to wake the session");
    answer.await.expect("no panic").expect("delivered");
}

#[tokio::test(start_paused = true)]
async fn a_turn_whose_caller_leaves_while_options_change_for_it_does_not_begin() {
    let session = Session::used().await;
    let mut asked = request("x ok");
    asked.options.model = Some("mute".into());
    let listener = at_once(session.handle.run(asked)).await.expect("taken");
    sleep(SECOND).await;
    drop(listener);
    let began = Instant::now();
    let seen = session.queued("b ok").await.await.expect("no panic");
    assert!(seen.end.is_ok() && text(&seen).contains("b ok #2"), "{seen:?}");
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_a_change_of_options() {
    let session = Session::used().await;
    let handle = session.handle.clone();
    let mute = Options { model: Some("mute".into()), ..Options::default() };
    let update = spawn_owned(async move { handle.update(mute).await });
    sleep(SECOND).await;
    let report = at_once(session.handle.close(CLOSE)).await.expect("answered");
    assert!(report.closed && session.supply.alive() == 0);
    assert!(matches!(update.await.expect("no panic"), Err(Refusal::Closed)));
}

/// What becomes of a turn that is stopped before it begins, and of the one behind it.
async fn assert_not_begun(session: &Session, turn: JoinHandle<Seen>) {
    let next = session.queued("c ok").await;
    let report = session.interrupted().await;
    assert_eq!((report.outcome, report.had_active_turn), (InterruptOutcome::Interrupted, true));
    let seen = at_once(turn).await.expect("no panic");
    assert_eq!(cause(&seen), Cause::TurnInterrupted);
    assert!(seen.started.is_empty(), "{seen:?}");
    session.store.let_reads_wait(false);
    assert!(next.await.expect("no panic").end.is_ok(), "the next one runs");
    let heard = session.supply.heard();
    assert!(heard.iter().flatten().all(|prompt| !prompt.starts_with("b ")), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn while_a_process_is_fitted_to_a_turn() {
    let session = Session::used().await;
    let mut asked = request("b ok");
    asked.options.model = Some("mute".into());
    let turn = spawn_owned(read(session.handle.run(asked).await.expect("taken")));
    sleep(SECOND).await;
    let client = session.handle.status().client_id;
    assert_not_begun(&session, turn).await;
    assert_ne!(session.handle.status().client_id, client, "nobody knows what that one is");
    assert_eq!(session.handle.status().options.model, None);
}

#[tokio::test(start_paused = true)]
async fn while_the_folders_of_a_process_are_looked_at() {
    let session = Session::used().await;
    *session.supply.recheck_time.lock().expect("no panic") = 5 * SECOND;
    let turn = session.queued("b ok").await;
    sleep(SECOND).await;
    let client = session.handle.status().client_id;
    assert_not_begun(&session, turn).await;
    assert_eq!(session.handle.status().client_id, client, "it stays");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_while_the_session_is_busy_is_given_behind_that() {
    let session = Session::used().await;
    assert!(read(session.run("x ask").await).await.end.is_ok());
    *session.supply.recheck_time.lock().expect("no panic") = 5 * SECOND;
    let turn = session.queued("b ok").await;
    sleep(SECOND).await;
    let answered = session.handle.respond("p".into(), Decision::Raw("{}".into())).await;
    assert!(answered.is_ok(), "{answered:?}");
    assert!(turn.await.expect("no panic").end.is_ok());
    sleep(SECOND).await;
    assert_eq!(session.supply.answers.lock().expect("no panic").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_a_process_is_replaced_for_a_turn() {
    let session = Session::used().await;
    session.be_stubborn();
    let mut asked = request("b ok");
    asked.new_conversation = true;
    let turn = spawn_owned(read(session.handle.run(asked).await.expect("taken")));
    sleep(SECOND).await;
    assert_not_begun(&session, turn).await;
    assert_eq!(session.supply.most_alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_a_conversation_is_taken_up() {
    let session = Session::used().await;
    session.supply.kill();
    sleep(SECOND).await;
    session.store.let_reads_wait(true);
    let turn = session.queued("b ok").await;
    sleep(SECOND).await;
    assert_not_begun(&session, turn).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_asked_what_it_knows() {
    for closes in [false, true] {
        let (task, session) = Session::task(settings());
        session.store.let_reads_wait(true);
        drop(spawn_owned(async move { Box::new(task).run().await.send() }));
        let mut asked = request("b ok");
        asked.turn_id = TurnId::parse("b").ok();
        let turn = at_once(session.handle.run(asked.clone())).await.expect("taken");
        let again = at_once(session.handle.run(asked)).await.expect("joined");
        let (turn, again) = (spawn_owned(read(turn)), spawn_owned(read(again)));
        if closes {
            at_once(session.handle.close(CLOSE)).await.expect("answered");
            session.handle.ended().await;
            assert_eq!(cause(&turn.await.expect("no panic")), Cause::TurnInterrupted);
        } else {
            assert_not_begun(&session, turn).await;
        }
        assert_eq!(cause(&again.await.expect("no panic")), Cause::TurnInterrupted);
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_is_asked_whose_a_conversation_is_that_the_cli_has_moved_to() {
    let session = Session::used().await;
    let before = session.handle.status().cli_session_id;
    session.store.let_reads_wait(true);
    let turn = session.queued("b move").await;
    sleep(SECOND).await;
    assert!(!turn.is_finished(), "it is told when it is kept");
    let began = Instant::now();
    let report = session.handle.interrupt(true).await.expect("answered");
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(report.outcome, InterruptOutcome::TurnEnded);
    let next = session.queued("c ok").await;
    sleep(SECOND).await;
    assert!(!next.is_finished());
    session.store.let_reads_wait(false);
    assert!(turn.await.expect("no panic").end.is_ok());
    let next = next.await.expect("no panic");
    assert!(next.end.is_ok());
    assert_ne!(next.started[0].cli_session_id, before);
}

#[tokio::test(start_paused = true)]
async fn a_turn_whose_caller_leaves_while_the_session_is_busy_does_not_run() {
    let session = Session::used().await;
    *session.supply.recheck_time.lock().expect("no panic") = 5 * SECOND;
    let left = session.handle.run(request("b ok")).await.expect("taken");
    sleep(SECOND).await;
    drop(left);
    sleep(10 * SECOND).await;
    assert!(!session.handle.status().is_busy());
    assert_eq!(session.supply.heard(), [["first ok"]]);
}

#[tokio::test(start_paused = true)]
async fn while_what_an_answer_grants_is_kept() {
    for kept in [true, false] {
        let session = Session::used().await;
        assert!(read(session.run("x ask").await).await.end.is_ok());
        session.store.set(Gate::Locked);
        let rules = r#"[{"type":"addRules","rules":[{"toolName":"Bash"}],"behavior":"allow","destination":"session"}]"#;
        let respond = |decision| {
            let handle = session.handle.clone();
            spawn_owned(async move { handle.respond("p".into(), decision).await })
        };
        let allow = respond(Decision::Allow {
            updated_input: None,
            updated_permissions: Some(rules.to_owned()),
        });
        sleep(SECOND).await;
        let deny = respond(Decision::Deny { message: "no".to_owned(), interrupt: false });
        sleep(SECOND).await;
        assert!(!allow.is_finished() && !deny.is_finished(), "one behind the other");
        let began = Instant::now();
        let report = session.handle.interrupt(true).await.expect("answered");
        assert_eq!(report.outcome, InterruptOutcome::NoActiveTurn);
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        let next = session.queued("a ok").await;
        if kept {
            session.store.set(Gate::Open);
        }
        let (allow, deny) = (allow.await.expect("no panic"), deny.await.expect("no panic"));
        let not_found = |answered: Result<(), Refusal>| {
            let Err(Refusal::Failed(failure)) = answered else { return false };
            matches!(failure.cause, Cause::PromptNotFound { .. })
        };
        if kept {
            assert!(allow.is_ok() && not_found(deny), "the first answer counts");
        } else {
            let Err(Refusal::Failed(failure)) = allow else { panic!("{allow:?}") };
            assert!(matches!(failure.cause, Cause::StoreUnavailable { .. }), "{failure}");
            deny.expect("the prompt waited for it");
        }
        sleep(SECOND).await;
        let answers = session.supply.answers.lock().expect("no panic").clone();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let behaviour = if kept { "allow" } else { "deny" };
        assert_eq!(answers[0]["response"]["behavior"], behaviour);
        let grants = session.handle.status().acquired.grants.clone();
        assert_eq!(grants.allow, if kept { vec!["Bash".to_owned()] } else { Vec::new() });
        session.store.set(Gate::Open);
        assert!(next.await.expect("no panic").end.is_ok());
    }
}
