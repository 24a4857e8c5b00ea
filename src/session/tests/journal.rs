//! The journal by itself: what is not kept yet, what is on its way, and what a store that
//! fails leaves behind.

use std::time::SystemTime;

use super::{
    Session, SessionTask,
    gated_store::{Gate, has_turn},
    settings,
};
use crate::{
    cli::mirror::Mirrored,
    domain::{
        failure::Cause,
        ids::{CliSessionId, ClientId, SessionId, SessionKey, TurnId},
    },
    session::{
        commits::{Outcome, Stir},
        journal::{Journal, Snapshot},
        ownership::Ownership,
        undone::Undone,
    },
    store::{KeptEnding, KeptTurn},
};

/// A session whose task does not run, but whose journal is used.
fn session() -> (SessionTask, Session) {
    Session::task(settings())
}

fn added(conversation: CliSessionId, text: &str) -> Mirrored {
    Mirrored { conversation, subpath: "".into(), entries: vec![(None, format!("{text:?}"))] }
}

fn snapshot(task: &SessionTask) -> Option<Snapshot> {
    task.journal.has_unkept().then(|| Snapshot { record: task.record(), held: Vec::new() })
}

/// Begins a commit and waits for what becomes of it.
async fn commit(task: &mut SessionTask) -> Outcome {
    let snapshot = snapshot(task);
    assert!(task.journal.commits.claim());
    match task.journal.begin(snapshot, false) {
        Some(outcome) => outcome,
        None => answer(&mut task.journal).await,
    }
}

async fn answer(journal: &mut Journal) -> Outcome {
    let Stir::Answered(answer) = journal.commits.stir().await else { panic!("no answer") };
    journal.answered(answer).expect("a commit is under way")
}

fn turn(name: &str, conversation: CliSessionId) -> KeptTurn {
    let now = SystemTime::now();
    KeptTurn {
        turn_id: TurnId::parse(name).expect("a name"),
        client_id: ClientId::fresh(),
        cli_session_id: conversation,
        start_time: now,
        end_time: now,
        expire_time: now + settings().named_turn_retention,
        ending: KeptEnding::Complete,
        result: "{}".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_take_goes_with_the_next_commit_in_its_order() {
    let (mut task, session) = session();
    let conversation = task.ownership.current().id();
    session.store.set(Gate::Broken);
    task.journal.hear(added(conversation, "first"));
    let outcome = commit(&mut task).await;
    assert!(outcome.result.is_err() && outcome.kept.is_none());
    assert!(!task.journal.is_known() && task.journal.has_unkept());
    session.store.set(Gate::Open);
    task.journal.hear(added(conversation, "second"));
    let outcome = commit(&mut task).await;
    assert_eq!(outcome.result, Ok(()));
    let lines = outcome.kept.expect("it is kept").lines;
    let texts: Vec<_> = lines.iter().map(|line| line.json.as_str()).collect();
    assert_eq!(texts, ["\"first\"", "\"second\""]);
    assert!(task.journal.is_known() && task.journal.is_kept());
    assert_eq!(session.lines(conversation).await, 2);
}

#[tokio::test(start_paused = true)]
async fn with_nothing_to_keep_those_who_wait_are_told_at_once_unless_the_store_is_tried() {
    let (mut task, _session) = session();
    assert!(task.journal.commits.claim());
    let outcome = task.journal.begin(None, false).expect("nothing to wait for");
    assert_eq!(outcome.result, Ok(()));
    assert!(task.journal.commits.claim());
    assert!(task.journal.begin(None, true).is_none(), "the store is asked");
    assert!(answer(&mut task.journal).await.is_trial);
    assert!(task.journal.commits.take_trust());
    assert!(!task.journal.commits.take_trust(), "for one turn");
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_the_one_that_is_under_way() {
    let (mut task, _session) = session();
    task.journal.remember_soon();
    let snapshot = snapshot(&task);
    assert!(task.journal.commits.claim());
    assert!(task.journal.begin(snapshot, false).is_none());
    assert!(!task.journal.take_due(), "not now");
    assert!(!task.journal.commits.claim());
    assert!(task.journal.commits.wants_another());
    assert_eq!(answer(&mut task.journal).await.result, Ok(()));
    assert!(task.journal.take_due());
    assert!(!task.journal.take_due(), "said once");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_counts_for_what_waits() {
    let (mut task, session) = session();
    let conversation = task.ownership.current().id();
    session.store.set(Gate::Locked);
    let much = "x".repeat(2 << 20);
    task.journal.hear(added(conversation, &much));
    assert!(task.journal.holds_much() && !task.journal.holds_too_much());
    let snapshot = snapshot(&task);
    assert!(task.journal.commits.claim());
    assert!(task.journal.begin(snapshot, false).is_none());
    assert!(!task.journal.holds_much(), "it is on its way");
    for _ in 0..15 {
        task.journal.hear(added(conversation, &much));
    }
    assert!(task.journal.holds_too_much());
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_turn_goes_with_one_commit_and_not_with_its_failure() {
    let (mut task, session) = session();
    let conversation = task.ownership.current().id();
    let kept = async |session: &Session, name: &str| {
        has_turn(&session.store, &TurnId::parse(name).expect("a name")).await
    };
    task.journal.keep_turn(turn("lost", conversation));
    let conflict = Cause::TurnInterrupted;
    assert!(task.journal.fail(conflict, false).result.is_err());
    task.journal.remember();
    assert_eq!(commit(&mut task).await.result, Ok(()));
    assert!(!kept(&session, "lost").await);
    task.journal.keep_turn(turn("kept", conversation));
    task.journal.remember();
    assert_eq!(commit(&mut task).await.result, Ok(()));
    assert!(kept(&session, "kept").await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_forgotten_has_nothing_to_keep() {
    let (mut task, session) = session();
    let conversation = task.ownership.current().id();
    task.journal.hear(added(conversation, "said"));
    assert_eq!(commit(&mut task).await.result, Ok(()));
    task.journal.hear(added(conversation, "more"));
    let until = tokio::time::Instant::now() + settings().commit_timeout;
    let never_kept = task.ownership.forget().into_iter().collect();
    assert_eq!(task.journal.forget(never_kept, until).await, Ok(()));
    assert!(!task.journal.has_unkept() && !task.journal.is_known());
    assert_eq!(session.lines(conversation).await, 0);
    assert!(task.journal.ask().is_none(), "not asked again");
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_another_session_holds_is_not_taken_up() {
    let (mut task, _session) = session();
    let (mut other, _) = sharing(&task);
    let id = other.fresh().expect("nobody has it");
    let refused = task.take_up(id).await;
    assert!(matches!(refused, Err(Undone::Failed(Cause::SessionConflict { .. }))));
    assert!(!task.ownership.may_add_to(id) && other.may_add_to(id));
    drop(other);
    assert_eq!(task.take_up(id).await, Ok(()));
    assert_eq!(task.ownership.held(), [id]);
}

#[tokio::test(start_paused = true)]
async fn a_cli_that_moves_on_while_the_store_is_asked_is_followed_to_where_it_is() {
    let (mut task, _session) = session();
    let [first, second] = [CliSessionId::fresh(), CliSessionId::fresh()];
    task.ownership.follow(&first.to_string());
    let asked = task.ownership.ask_for(first).await;
    task.ownership.follow(&second.to_string());
    assert_eq!(task.ownership.settle_move(first, asked), Ok(None));
    assert_eq!(task.ownership.moved_to(), Some(second));
    assert_eq!(settle(&mut task.ownership).await, Ok(Some(second)));
    assert_eq!(task.ownership.current().id(), second);
}

#[tokio::test(start_paused = true)]
async fn the_cli_is_followed_to_another_conversation_unless_that_is_of_another_session() {
    let (mut task, _session) = session();
    let (other, theirs) = sharing(&task);
    let before = task.ownership.current().id();
    task.ownership.follow(&theirs.to_string());
    assert!(matches!(settle(&mut task.ownership).await, Err(Cause::SessionConflict { .. })));
    assert_eq!(task.ownership.current().id(), before);
    assert_eq!(task.ownership.moved_to(), None, "it stays");
    let free = CliSessionId::fresh();
    task.ownership.follow(&free.to_string());
    assert_eq!(settle(&mut task.ownership).await, Ok(Some(free)));
    assert_eq!(task.ownership.moved_to(), None);
    assert_eq!(task.ownership.current().id(), free);
    assert!(other.ask_for(free).await.is_err());
    assert_eq!(task.ownership.forget(), None, "it was only the CLI's word");
}

/// Follows the CLI to where it says it is.
async fn settle(ownership: &mut Ownership) -> Result<Option<CliSessionId>, Cause> {
    let moved_to = ownership.moved_to().expect("it is elsewhere");
    let asked = ownership.ask_for(moved_to).await;
    ownership.settle_move(moved_to, asked)
}

/// What another session of the same tenant owns, and the conversation that it holds.
fn sharing(task: &SessionTask) -> (Ownership, CliSessionId) {
    let session = SessionId::parse("another").expect("a name");
    let key = SessionKey::new(task.key.tenant.clone(), session);
    let mut other = Ownership::new(&task.ctx, key, CliSessionId::fresh());
    let held = other.fresh().expect("nobody has it");
    (other, held)
}
