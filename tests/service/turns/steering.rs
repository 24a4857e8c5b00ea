//! Messages for the turn that runs, a thousand of them at random moments: in mid-tool, in
//! mid-stream, in the millisecond in which the turn ends, while it is being stopped or its process
//! dies. Each reaches the model once, in the order in which they were sent; its caller gets one
//! end, and what became of it is told once.
//!
//! The choices are those of `SESSION_POOL_STEERING_SEED` (1), if not the timing.

use std::{collections::HashSet, sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::{
    internals::tasks::spawn_owned,
    proto::{BusyPolicy, QueryRequest, turn_event::Kind},
};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{
    follower::{Follower, Told, of},
    processes::kill_if_there,
    service::{Service, model, query, query_with, script},
    turn::Turn,
};

const TIMINGS: usize = 1000;
const SESSIONS: usize = 20;
/// The longest step of a turn, and the longest pause before something is done, in milliseconds.
const LONGEST: u64 = 25;

/// What happens beside the messages.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Interrupt,
    Kill,
}

/// A prompt, and what its caller saw.
struct Asked {
    tag: String,
    turn: Turn,
    trouble: Trouble,
    is_message: bool,
}

fn seed() -> u64 {
    let seed = std::env::var("SESSION_POOL_STEERING_SEED").ok();
    seed.map_or(1, |seed| seed.parse().expect("SESSION_POOL_STEERING_SEED is a number"))
}

/// A turn with steps of random length.
fn question(rng: &mut Rng, tag: &str) -> String {
    let pause = |rng: &mut Rng| format!("sleep {}", rng.u64(..LONGEST));
    let tag = format!("# {tag}");
    let (first, second) = (pause(rng), pause(rng));
    let tool = ["tool t Bash {}", &first, "tool-result t done"];
    let steps = match rng.u8(..5) {
        0 => [&tool[..], &[&second, "say end"]].concat(),
        1 => [&tool[..], &tool[..], &["say end"]].concat(),
        2 => vec!["say part", &first, "say end"],
        3 => vec!["say end"],
        _ => vec![&first, "say end", "idle-late 5"],
    };
    script(&[&[tag.as_str()], &steps[..]].concat())
}

fn message(rng: &mut Rng, session: &str, tag: &str) -> QueryRequest {
    let prompt = match rng.bool() {
        true => tag.to_owned(),
        false => script(&[&format!("# {tag}"), "sleep 5", "say ok"]),
    };
    QueryRequest { on_busy: BusyPolicy::Steer.into(), ..query(session, &prompt) }
}

/// A turn, messages for it, and perhaps trouble: each after a random pause.
async fn round(service: &Service, session: &str, number: usize, rng: &mut Rng) -> Vec<Asked> {
    let trouble = match rng.u8(..12) {
        0 | 1 => Trouble::Interrupt,
        2 => Trouble::Kill,
        _ => Trouble::None,
    };
    let messages = rng.usize(1..=3);
    let mut steps: Vec<(u64, bool)> =
        (0..messages).map(|_| (rng.u64(..2 * LONGEST), true)).collect();
    if trouble != Trouble::None {
        steps.push((rng.u64(..2 * LONGEST), false));
    }
    steps.sort_unstable();
    let tag = format!("question {session}-{number};");
    let turn = service.open(query(session, &question(rng, &tag))).await.expect("taken");
    let mut asked = vec![Asked { tag, turn, trouble, is_message: false }];
    let mut now = 0;
    for (at, is_message) in steps {
        sleep(Duration::from_millis(at - now)).await;
        now = at;
        if is_message {
            let tag = format!("remark {session}-{number}-{};", asked.len());
            let turn = service.open(message(rng, session, &tag)).await.expect("taken");
            asked.push(Asked { tag, turn, trouble, is_message: true });
        } else if trouble == Trouble::Interrupt {
            service.interrupt(session, true).await;
        } else {
            match service.session(session).await.expect("a session").process_id {
                0 => {}
                process => kill_if_there(process),
            }
        }
    }
    for asked in &mut asked {
        asked.turn.finish().await;
    }
    asked
}

/// Whether a turn ended with its result; only trouble is a reason for anything else.
fn has_result(asked: &Asked) -> bool {
    match (&asked.turn.end, asked.trouble) {
        (Some(Ok(())), _) => {
            asked.turn.result();
            true
        }
        (Some(Err(status)), Trouble::Interrupt) => {
            assert!(status.message().contains("interrupted"), "{}: {status:?}", asked.tag);
            false
        }
        (Some(Err(_)), Trouble::Kill) => false,
        (end, _) => panic!("{}: {end:?}", asked.tag),
    }
}

/// How many of the messages were handed to a turn that ran: their callers heard that first. All
/// turns that had begun before are those of earlier prompts.
fn handed(asked: &[Asked]) -> usize {
    let mut seen = HashSet::new();
    let mut handed = 0;
    for asked in asked {
        let mut begun = asked.turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
            Kind::Started(started) => Some(started.turn_id.clone()),
            _ => None,
        });
        let first = asked.turn.events.first().and_then(|event| event.kind.as_ref());
        let own = match first {
            Some(Kind::Started(started)) => seen.insert(started.turn_id.clone()),
            // One that never began has failed, and counts below.
            None => true,
            Some(_) => false,
        };
        handed += usize::from(asked.is_message && !own);
        seen.extend(&mut begun);
    }
    handed
}

/// What those who follow a session were told: each turn ends once, and of each message it is told
/// once what became of it. Returns of how many.
fn check_told(follower: &Follower) -> usize {
    let (mut ended, mut steered) = (HashSet::new(), HashSet::new());
    for (told, _) in &follower.told {
        match told {
            Told::Event(turn, event) => match &event.kind {
                Some(Kind::Result(_)) => assert!(ended.insert(turn.clone()), "{turn} ends twice"),
                Some(Kind::Steered(it)) => {
                    assert!(steered.insert(it.message_uuid.clone()), "{it:?} told twice");
                }
                _ => {}
            },
            Told::Failure(failure) => {
                assert!(ended.insert(failure.turn_id.clone()), "{failure:?} ends twice");
            }
            Told::Phase(_) => {}
            Told::Gap(gap) => panic!("{gap:?}"),
        }
    }
    steered.len()
}

/// Whether the model was told of everything once, and in this order.
fn check_heard(asked: &[Asked], heard: &str) {
    let mut place = 0;
    for asked in asked {
        let count = heard.matches(&asked.tag).count();
        match has_result(asked) {
            true => assert_eq!(count, 1, "{}", asked.tag),
            false => assert!(count <= 1, "{} was told {count} times", asked.tag),
        }
        let Some(at) = heard.find(&asked.tag) else { continue };
        assert!(at >= place, "{} came too early", asked.tag);
        place = at;
    }
}

async fn play(service: &Service, number: usize, rng: &mut Rng) -> usize {
    let session = format!("s{number}");
    let version = if number.is_multiple_of(2) { "fake" } else { "fake:names-no-prompts" };
    service.run(query_with(&session, "hello", model(version))).await.result();
    let mut follower = Follower::open(&service.client, of(&session)).await.expect("taken");
    let following = spawn_owned(async move {
        follower.finish().await;
        follower
    });
    let (mut asked, mut messages, mut rounds) = (Vec::new(), 0, 0);
    while messages < TIMINGS / SESSIONS {
        rounds += 1;
        let round = round(service, &session, rounds, rng).await;
        messages += round.len() - 1;
        asked.extend(round);
    }
    let heard = service.query(&session, &script(&["recite"])).await.text();
    service.close(&session, false).await.expect("closed");
    check_heard(&asked, &heard);
    let told = check_told(&following.await.expect("no panic"));
    let lost = asked.iter().filter(|asked| asked.is_message && !has_result(asked)).count();
    let handed = handed(&asked);
    assert!(told <= handed + lost && handed <= told + lost, "{session}: {told} of {handed}");
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_thousand_random_moments_no_message_is_lost_or_told_twice() {
    let seed = seed();
    println!("SESSION_POOL_STEERING_SEED={seed}");
    let service = Service::start(|config| config.pool.max_processes = 64).await;
    let service = Arc::new(service);
    let mut plays = JoinSet::new();
    for number in 0..SESSIONS {
        let (service, mut rng) = (Arc::clone(&service), Rng::with_seed(seed + number as u64));
        plays.spawn(async move { play(&service, number, &mut rng).await });
    }
    let messages: usize = plays.join_all().await.into_iter().sum();
    assert!(messages >= TIMINGS, "{messages}");
    Arc::into_inner(service).expect("the only one").stop().await;
}
