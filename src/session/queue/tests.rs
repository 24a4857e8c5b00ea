use std::iter;

use tokio_util::task::TaskTracker;
use tracing::Span;

use super::*;
use crate::{
    domain::ids::{SessionId, TenantId},
    session::{
        command::DisconnectPolicy,
        tests::{SECOND, request, settings},
    },
    turn::{event::Partials, listener::Listener, storage::Storage},
};

fn id(name: &str) -> TurnId {
    TurnId::parse(name).expect("a name")
}

fn queue() -> TurnQueue {
    let memory = Storage::in_memory(1024).accounts(&TenantId::default()).memory;
    let session = SessionId::parse("s").expect("a name");
    TurnQueue::new(&settings(), Arc::new(Feed::new(session, memory)))
}

/// A turn that was just asked for, and the place of its caller.
fn asked(queue: &TurnQueue, name: &str, on_disconnect: DisconnectPolicy) -> (Waiting, Listener) {
    let storage = Storage::in_memory(1024);
    let accounts = storage.accounts(&TenantId::default());
    let log = storage.log(
        id(name),
        &accounts,
        queue.listeners_gone_notifier(),
        Span::none(),
        crate::traces::TurnTrace::default(),
    );
    let listener = log.listen(1, Partials::Hidden).expect("from its first event on");
    let request = TurnRequest { on_disconnect, ..request("hello") };
    let counted = TaskTracker::new().token();
    (
        Waiting {
            request,
            log,
            counted,
            following: None,
            again: None,
            steered: false,
            _queued: Share::default(),
        },
        listener,
    )
}

fn turn(queue: &TurnQueue, name: &str) -> Waiting {
    asked(queue, name, DisconnectPolicy::Continue).0
}

fn names(queue: &mut TurnQueue) -> Vec<String> {
    iter::from_fn(|| queue.pop()).map(|turn| turn.log.id().to_string()).collect()
}

fn found(queue: &TurnQueue, name: &str) -> bool {
    queue.find(Some(&id(name)), iter::empty()).is_some()
}

fn update() -> (PendingUpdate, oneshot::Receiver<Result<UpdateReport, Refusal>>) {
    let (reply, answer) = oneshot::channel();
    (PendingUpdate { options: Options::default(), reply }, answer)
}

#[tokio::test]
async fn turns_begin_in_the_order_in_which_they_were_asked_for() {
    let mut queue = queue();
    assert!(queue.is_empty());
    for name in ["a", "b"] {
        queue.push_back(turn(&queue, name));
    }
    queue.push_front(turn(&queue, "first"));
    assert_eq!(queue.len(), 3);
    assert_eq!(names(&mut queue), ["first", "a", "b"]);
    assert!(queue.is_empty());
}

#[tokio::test]
async fn a_turn_whose_caller_left_is_dropped_unless_it_is_to_go_on() {
    let mut queue = queue();
    let (stays, _listener) = asked(&queue, "stays", DisconnectPolicy::Interrupt);
    let (leaves, listener) = asked(&queue, "leaves", DisconnectPolicy::Interrupt);
    let (goes_on, alone) = asked(&queue, "goes-on", DisconnectPolicy::Continue);
    for waiting in [stays, leaves, goes_on] {
        queue.push_back(waiting);
    }
    drop(alone);
    assert!(queue.drop_abandoned().is_empty());
    drop(listener);
    queue.listeners_gone().await;
    let dropped = queue.drop_abandoned();
    assert_eq!(dropped.iter().map(|turn| turn.log.id().as_str()).collect::<Vec<_>>(), ["leaves"]);
    assert_eq!(names(&mut queue), ["stays", "goes-on"]);
}

#[tokio::test]
async fn a_turn_is_found_by_its_id_whatever_it_does() {
    let mut queue = queue();
    let [running, untold, ended] =
        ["running", "untold", "ended"].map(|name| turn(&queue, name).log);
    queue.push_back(turn(&queue, "waiting"));
    queue.end(ended);
    queue.begin(&running);
    for name in ["waiting", "running", "ended"] {
        assert!(found(&queue, name), "{name}");
    }
    assert!(!found(&queue, "untold"));
    assert!(queue.find(Some(&id("untold")), iter::once(&untold)).is_some());
}

#[tokio::test]
async fn without_an_id_the_running_turn_is_found_else_the_last() {
    let mut queue = queue();
    let last = |queue: &TurnQueue| {
        queue.find(None, iter::empty()).map(|turn| turn.id().to_string()).unwrap_or_default()
    };
    queue.push_back(turn(&queue, "waiting"));
    assert_eq!(last(&queue), "");
    for name in ["a", "b"] {
        let log = turn(&queue, name).log;
        queue.begin(&log);
        assert_eq!(last(&queue), name);
        queue.end(log);
    }
    assert_eq!(last(&queue), "b");
    assert!(queue.current().is_none());
}

#[tokio::test]
async fn the_end_of_another_turn_leaves_the_running_one() {
    let mut queue = queue();
    let running = turn(&queue, "running").log;
    queue.begin(&running);
    queue.end(turn(&queue, "another").log);
    assert_eq!(queue.current().map(TurnLog::id), Some(running.id()));
    assert!(found(&queue, "another"));
}

#[tokio::test(start_paused = true)]
async fn an_ended_turn_can_be_joined_for_its_time_and_only_the_last_few() {
    let mut queue = queue();
    assert_eq!(queue.joinable_until(), None);
    for number in 0..=KEPT_TURNS {
        queue.end(turn(&queue, &format!("t{number}")).log);
    }
    assert!(!found(&queue, "t0"), "one more than is kept");
    assert!(found(&queue, "t1") && found(&queue, &format!("t{KEPT_TURNS}")));
    let until = Instant::now() + settings().turn_retention;
    assert_eq!(queue.joinable_until(), Some(until));
    tokio::time::advance(settings().turn_retention - SECOND).await;
    assert_eq!(queue.drop_old(), Some(until));
    tokio::time::advance(SECOND).await;
    assert_eq!(queue.drop_old(), None);
    assert!(!found(&queue, "t1"));
}

#[tokio::test]
async fn changes_of_options_wait_for_those_who_still_want_them() {
    let mut queue = queue();
    assert!(queue.has_nothing_to_do());
    let (first, answer) = update();
    let (second, _answer) = update();
    queue.push_update(first);
    queue.push_update(second);
    assert_eq!(queue.updates(), 2);
    drop(answer);
    assert_eq!(queue.updates(), 1, "nobody wants to hear of the first");
    let (third, _answer) = update();
    queue.push_update(third);
    let taken = queue.take_updates();
    assert_eq!(taken.len(), 2);
    assert!(queue.has_nothing_to_do());
    queue.return_updates(taken);
    assert!(!queue.has_nothing_to_do());
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_of_the_queue_follows_it_and_is_made_once() {
    let mut queue = queue();
    assert!(queue.shown().is_empty());
    let began = Instant::now();
    queue.push_back(turn(&queue, "second"));
    tokio::time::advance(SECOND).await;
    queue.push_front(turn(&queue, "first"));
    let shown = queue.shown();
    assert_eq!(shown[0], QueuedTurn { id: id("first"), since: began + SECOND });
    assert_eq!(shown[1], QueuedTurn { id: id("second"), since: began });
    assert!(Arc::ptr_eq(&shown, &queue.shown()), "nothing has changed");
    let first = queue.pop().expect("the first");
    assert_eq!(queue.shown().len(), 1);
    queue.put_back(first);
    assert_eq!(queue.shown(), shown);
    let (left, caller) = asked(&queue, "left", DisconnectPolicy::Interrupt);
    queue.push_back(left);
    drop(caller);
    assert_eq!(queue.shown().len(), 3);
    assert_eq!(queue.drop_abandoned().len(), 1);
    assert_eq!(queue.shown(), shown);
    for name in 0..SHOWN_TURNS {
        queue.push_back(turn(&queue, &name.to_string()));
    }
    assert_eq!((queue.len(), queue.shown().len()), (SHOWN_TURNS + 2, SHOWN_TURNS));
}
