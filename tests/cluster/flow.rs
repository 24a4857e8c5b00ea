//! Who waits for whom, and who hears that somebody is gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use session_pool::proto::{
    QueryResponse, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, transport::Endpoint};

use crate::{
    bed::{Pair, Places, node},
    stand_in::{StandIn, answer, framed},
    support::{
        eventually, failure, metadata, retry_after,
        service::{Service, query, script},
        turn::Turn,
    },
};

/// An owner that answers with so many bytes in messages of 64 KiB, and counts what it was asked
/// for.
async fn fountain(bytes: u64) -> (StandIn, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let mut message = vec![0, 0, 0, 0xff, 0xfb];
    // A field that the contract does not have.
    message.extend([0xfa, 0x3f, 0xf6, 0xff, 0x03]);
    message.resize(0x1_0000, b'x');
    let message = Bytes::from(message);
    let owner = StandIn::start(move |_| {
        let (counted, message) = (Arc::clone(&counted), message.clone());
        let messages = (0..bytes / 0x1_0000).map(move |_| {
            counted.fetch_add(0x1_0000, Ordering::Relaxed);
            message.clone()
        });
        async move { answer(tokio_stream::iter(messages), &[("grpc-status", "0")]) }
    })
    .await;
    (owner, taken)
}

async fn placed(owner: &StandIn) -> Service {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    places.put("s", "b");
    places.reach("b", Some(owner.address.clone()));
    asked
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_owner_and_keeps_no_other_call_waiting() {
    let (owner, taken) = fountain(1 << 30).await;
    let asked = placed(&owner).await;
    let endpoint = Endpoint::from_shared(asked.address.clone()).expect("an address");
    let narrow = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let narrow = Client::new(narrow.connect().await.expect("connected"));
    let mut slow = narrow.clone().query(query("s", "x")).await.expect("answered").into_inner();
    slow.message().await.expect("no error").expect("a message");
    // It goes on for as long as there is room on the way, and then stands still.
    let mut before = 0;
    eventually("the owner stands still", async || {
        sleep(Duration::from_millis(300)).await;
        let now = taken.load(Ordering::Relaxed);
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
    .await;
    assert!(before < 4 << 20, "{before} bytes are on the way");
    // Others go by the same connection, all of what they ask for.
    let others = async {
        let other = asked.client.clone().query(query("s", "x")).await;
        let mut other = other.expect("answered").into_inner();
        for _ in 0..1000 {
            other.message().await.expect("no error").expect("a message");
        }
    };
    timeout(Duration::from_secs(30), others).await.expect("nobody waits for the slow one");
    for _ in 0..100 {
        slow.message().await.expect("no error").expect("the rest follows");
    }
    asked.stop().await;
}

#[tokio::test]
async fn a_stream_of_any_length_takes_no_more_memory() {
    const BYTES: u64 = 1 << 30;
    let (owner, _) = fountain(BYTES).await;
    let asked = placed(&owner).await;
    let mut stream =
        asked.client.clone().query(query("s", "x")).await.expect("answered").into_inner();
    let (mut messages, mut least, mut most) = (0, u64::MAX, 0);
    while stream.message().await.expect("no error").is_some() {
        messages += 1;
        // Once all buffers on the way are in use.
        if messages > 256 && messages % 64 == 0 {
            let now = resident();
            (least, most) = (least.min(now), most.max(now));
        }
    }
    assert_eq!(messages * 0x1_0000, BYTES);
    // Alone it differs by some kilobytes; other tests of this process need memory, too.
    println!("resident from {least} to {most}");
    assert!(most - least < 256 << 20, "from {least} to {most}");
    asked.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_interrupts_the_turn_at_the_owner() {
    let pair = Pair::with_session_elsewhere().await;
    for prompt in [script(&["say here", "hang"]), script(&["sleep 600000"])] {
        let turn = pair.asked.open(query("s", &prompt)).await.expect("taken");
        eventually("it runs there", async || {
            let shown = pair.owner.session("s").await.ok()?;
            (!shown.running_turn_id.is_empty()).then_some(())
        })
        .await;
        turn.leave();
        eventually("it is stopped there", async || {
            let shown = pair.owner.session("s").await.ok()?;
            shown.running_turn_id.is_empty().then_some(())
        })
        .await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_is_heard_of_at_the_owner() {
    let (gone, mut heard) = mpsc::channel::<()>(1);
    let owner = StandIn::start(move |_| {
        let gone = gone.clone();
        async move {
            // Dropped with the call.
            let _held = Dropped(gone);
            std::future::pending().await
        }
    })
    .await;
    let asked = placed(&owner).await;
    let mut client = asked.client.clone();
    let calling = client.query(query("s", "x"));
    tokio::select! {
        answered = calling => panic!("{answered:?}"),
        () = sleep(Duration::from_millis(500)) => {}
    }
    heard.recv().await.expect("told");
    asked.stop().await;
}

struct Dropped(mpsc::Sender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.try_send(()).ok();
    }
}

#[tokio::test]
async fn an_owner_that_dies_in_a_stream_is_told_as_moved() {
    let (pieces, messages) = mpsc::channel(1);
    let messages = std::sync::Mutex::new(Some(messages));
    let owner = StandIn::start(move |_| {
        let messages =
            messages.lock().expect("no panic").take().expect("one call: nothing is tried again");
        let messages = ReceiverStream::new(messages).chain(tokio_stream::pending());
        async move { answer(messages, &[]) }
    })
    .await;
    let asked = placed(&owner).await;
    pieces.send(framed(&QueryResponse::default())).await.expect("sent");
    let mut stream =
        asked.client.clone().query(query("s", "x")).await.expect("answered").into_inner();
    stream.message().await.expect("no error").expect("a message");
    owner.die();
    let status = stream.message().await.expect_err("lost");
    failure(&status, Code::Unavailable, "SESSION_MOVED");
    assert_eq!(metadata(&status, "owner").as_deref(), Some("b"));
    assert!(retry_after(&status).is_some());
    asked.stop().await;
}

#[tokio::test]
async fn an_owner_that_dies_before_its_answer_is_told_as_moved_and_not_asked_twice() {
    let (asked_for, mut calls) = mpsc::channel(8);
    let owner = StandIn::start(move |_| {
        let asked_for = asked_for.clone();
        async move {
            asked_for.send(()).await.expect("counted");
            std::future::pending().await
        }
    })
    .await;
    let asked = placed(&owner).await;
    let mut client = asked.client.clone();
    let calling = client.query(query("s", "x"));
    let dying = async {
        calls.recv().await.expect("a call");
        owner.die();
    };
    let (answered, ()) = tokio::join!(calling, dying);
    failure(&answered.expect_err("lost"), Code::Unavailable, "SESSION_MOVED");
    assert!(calls.try_recv().is_err(), "a second call");
    asked.stop().await;
}

#[tokio::test]
async fn a_service_that_stops_waits_for_the_turns_that_it_passes_on() {
    let places = Places::default();
    let patient = Duration::from_secs(20);
    let asked = node("a", &places, |config| config.server.drain_timeout = patient).await;
    let owner = node("b", &places, |_| {}).await;
    places.put("s", "b");
    let prompt = script(&["say here", "sleep 1000", "say the end"]);
    let mut turn = asked.open(query("s", &prompt)).await.expect("taken");
    turn.until_text("here").await;
    let (in_order, ()) = tokio::join!(asked.stop(), turn.finish());
    assert!(in_order);
    assert!(turn.text().contains("the end"));
    owner.stop().await;
}

#[tokio::test]
async fn a_service_that_cannot_wait_any_longer_says_so_to_those_it_passes_on() {
    let pair = Pair::with_session_elsewhere().await;
    let mut turn =
        pair.asked.open(query("s", &script(&["say here", "hang"]))).await.expect("taken");
    turn.until_text("here").await;
    let follower = pair.asked.client.clone();
    let watching = crate::support::follower::of("s");
    let mut follower =
        crate::support::follower::Follower::open(&follower, watching).await.expect("followed");
    let Pair { asked, owner, places: _ } = pair;
    let (_, (), ()) = tokio::join!(asked.stop(), turn.finish(), follower.finish());
    failure(turn.error(), Code::Unavailable, "SHUTTING_DOWN");
    let ended = follower.end.expect("ended").expect_err("an error");
    failure(&ended, Code::Unavailable, "SHUTTING_DOWN");
    owner.stop().await;
}

#[tokio::test]
async fn many_calls_go_by_several_connections() {
    let pair = Pair::start(|config| config.server.limits.max_streams = 4).await;
    pair.places.put("s", "b");
    pair.owner.query("s", "hello").await.result();
    let mut streams = Vec::new();
    for _ in 0..250 {
        // Each on a connection of its own, which takes four.
        let mut client = pair.asked.another_client().await;
        let watching = crate::support::follower::of("s");
        streams.push(client.watch_session(watching).await.expect("followed"));
    }
    let turn: Turn = pair.asked.query("s", &script(&["say still"])).await;
    assert_eq!(turn.text(), "still");
    drop(streams);
    pair.stop().await;
}
