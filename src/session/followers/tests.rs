//! How long those wait who want all that a turn has begun in the background.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    cli::frame::Frame,
    domain::{
        failure::Cause,
        ids::{TenantId, TurnId},
    },
    turn::{
        listener::{Follow, Listener},
        storage::Storage,
    },
};

const TIMEOUT: Duration = Duration::from_secs(600);

struct Bed {
    followers: Followers,
    traits: CliTraits,
    storage: Storage,
}

impl Bed {
    fn new() -> Self {
        let storage = Storage::in_memory(1 << 20);
        Self { followers: Followers::default(), traits: CliTraits::default(), storage }
    }

    fn hear(&mut self, line: &str) {
        let frame = Frame::parse(Bytes::copy_from_slice(line.as_bytes())).expect("a frame");
        self.traits.note(&frame);
    }

    fn task(&mut self, id: &str) {
        self.hear(&format!(r#"{{"type":"system","subtype":"task_started","task_id":"{id}"}}"#));
    }

    fn ended(&mut self, id: &str) {
        self.hear(&format!(
            r#"{{"type":"system","subtype":"task_notification","task_id":"{id}","status":"completed"}}"#
        ));
    }

    fn state(&mut self, state: &str) {
        self.hear(&format!(
            r#"{{"type":"system","subtype":"session_state_changed","state":"{state}"}}"#
        ));
    }

    fn follow(&mut self, tasks: &[&str]) -> (Follow, Arc<Notify>) {
        let gone = Arc::new(Notify::new());
        let (following, follow) = Follow::channel(Arc::clone(&gone));
        let tasks: Vec<String> = tasks.iter().map(|id| (*id).to_owned()).collect();
        let families = self.traits.background.families(&tasks);
        self.followers.add(
            following,
            Partials::Hidden,
            families,
            Instant::now() + TIMEOUT,
            TaskTracker::new().token(),
        );
        (follow, gone)
    }

    fn turn(&self) -> TurnLog {
        let accounts = self.storage.accounts(&TenantId::default());
        self.storage.log(
            TurnId::fresh(),
            &accounts,
            Arc::default(),
            tracing::Span::none(),
            crate::traces::TurnTrace::default(),
        )
    }

    fn rest(&mut self) {
        self.followers.rest(&self.traits);
    }

    /// Lets the time pass until the session would look again.
    async fn until_due(&mut self) -> Duration {
        let before = Instant::now();
        let due = self.followers.due(&self.traits).expect("somebody waits");
        tokio::time::sleep_until(due).await;
        self.rest();
        before.elapsed()
    }
}

async fn next(follow: &mut Follow) -> Option<Result<Listener, Failure>> {
    poll_fn(|cx| follow.poll_next(cx)).await
}

#[tokio::test(start_paused = true)]
async fn one_waits_for_the_task_and_for_the_turn_that_its_end_begins() {
    let mut bed = Bed::new();
    bed.task("a");
    let (mut follow, _gone) = bed.follow(&["a"]);
    bed.rest();
    assert_eq!(bed.followers.due(&bed.traits), bed.followers.until(), "it works");
    bed.ended("a");
    bed.rest();
    assert!(!bed.followers.is_empty(), "the CLI has not said anything about it yet");
    let turn = bed.turn();
    bed.followers.begin(&turn);
    let heard = next(&mut follow).await.expect("a turn").expect("it can be heard");
    assert_eq!(heard.turn_id(), turn.id());
    bed.state("idle");
    bed.rest();
    let waited = bed.until_due().await;
    assert!(waited <= IDLE_GRACE, "{waited:?}");
    assert!(bed.followers.is_empty() && next(&mut follow).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cli_that_says_nothing_about_the_end_is_waited_for_a_second() {
    let mut bed = Bed::new();
    bed.task("a");
    let (mut follow, _gone) = bed.follow(&["a"]);
    bed.ended("a");
    bed.rest();
    assert_eq!(bed.until_due().await, TASK_ECHO);
    assert!(next(&mut follow).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_a_turn_of_the_clis_own_has_begun_is_waited_for_too() {
    let mut bed = Bed::new();
    bed.task("a");
    let (_follow, _gone) = bed.follow(&["a"]);
    bed.ended("a");
    bed.followers.begin(&bed.turn());
    bed.task("b");
    bed.followers.extend(&bed.traits.background.families(&["b".to_owned()]));
    bed.state("idle");
    tokio::time::advance(TASK_ECHO * 2).await;
    bed.rest();
    assert!(!bed.followers.is_empty());
    bed.ended("b");
    bed.rest();
    bed.until_due().await;
    assert!(bed.followers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_turn_in_between_does_not_end_the_wait() {
    let mut bed = Bed::new();
    bed.task("a");
    let (_follow, _gone) = bed.follow(&["a"]);
    bed.rest();
    bed.followers.turn_begins();
    bed.ended("a");
    tokio::time::advance(TASK_ECHO * 5).await;
    // The turn has its result, and what the CLI says about the task comes behind it.
    bed.rest();
    assert!(!bed.followers.is_empty());
    assert_eq!(bed.until_due().await, TASK_ECHO);
    assert!(bed.followers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_too_long_is_told_and_who_leaves_is_let_go() {
    let mut bed = Bed::new();
    bed.task("a");
    let (mut late, _gone) = bed.follow(&["a"]);
    let (left, gone) = bed.follow(&["a"]);
    bed.rest();
    drop(left);
    gone.notified().await;
    bed.rest();
    tokio::time::advance(TIMEOUT).await;
    bed.followers.expire(|| Failure::from(Cause::BackgroundTimeout { limit: TIMEOUT }));
    let told = next(&mut late).await.expect("told").expect_err("too late");
    assert_eq!(told.cause, Cause::BackgroundTimeout { limit: TIMEOUT });
    assert!(bed.followers.is_empty() && next(&mut late).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_the_turns_that_follow_is_let_go_and_told_so() {
    let mut bed = Bed::new();
    bed.task("a");
    let (mut follow, _gone) = bed.follow(&["a"]);
    for _ in 0..1000 {
        bed.followers.begin(&bed.turn());
    }
    assert!(bed.followers.is_empty());
    for _ in 0..256 {
        next(&mut follow).await.expect("a turn").expect("it can be heard");
    }
    let told = next(&mut follow).await.expect("told").expect_err("too slow");
    assert!(matches!(told.cause, Cause::ListenerTooSlow { .. }), "{told}");
    assert!(next(&mut follow).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_turn_leaves_nothing_that_began_nothing_and_in_which_nothing_ended() {
    let mut bed = Bed::new();
    let leaves =
        |bed: &Bed, tasks: &[String], began| !leaves_nothing(&bed.traits.background, tasks, began);
    assert!(!leaves(&bed, &[], Instant::now()));
    assert!(leaves(&bed, &["a".to_owned()], Instant::now()));
    bed.task("of another turn");
    assert!(!leaves(&bed, &[], Instant::now()));
    let began = Instant::now();
    tokio::time::advance(TASK_ECHO).await;
    bed.ended("of another turn");
    tokio::time::advance(TASK_ECHO * 5).await;
    assert!(leaves(&bed, &[], began), "the CLI may have to say something about it");
    assert!(!leaves(&bed, &[], Instant::now()));
}
