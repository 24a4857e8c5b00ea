//! Many sessions share few processes: each turn is answered from its own conversation.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::{sync::Mutex, task::JoinSet, time::sleep};

use crate::support::{
    processes,
    service::{Service, query, script},
};

const SESSIONS: usize = 200;
const PROCESSES: usize = 8;
const CALLERS: u64 = 24;
const TURNS_OF_A_CALLER: usize = 40;

/// What was said in each session, by whoever holds the session's lock.
type Said = Arc<HashMap<String, Mutex<Vec<String>>>>;

async fn act(service: Arc<Service>, said: Said, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    for number in 0..TURNS_OF_A_CALLER {
        let id = format!("s{}", rng.usize(..SESSIONS));
        let mut said = said[&id].lock().await;
        let word = format!("{id}-{seed}-{number}");
        let prompt = script(&["recite", &format!("say {word}")]);
        let mut turn = service.open(query(&id, &prompt)).await.expect("taken");
        turn.finish().await;
        assert!(matches!(turn.end, Some(Ok(()))), "{turn:?}");
        let heard: Vec<String> = turn
            .text()
            .lines()
            .filter_map(|line| Some(line.rsplit_once("\\nsay ")?.1.to_owned()))
            .collect();
        assert_eq!(heard, *said, "in {id}");
        said.push(word);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_share_eight_processes() {
    let service = Service::start(|config| config.pool.max_processes = PROCESSES).await;
    let service = Arc::new(service);
    let said: Said = Arc::new((0..SESSIONS).map(|n| (format!("s{n}"), Mutex::default())).collect());
    let seed = fastrand::u64(..1 << 32);
    println!("seed {seed}");
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(act(Arc::clone(&service), Arc::clone(&said), seed + number));
    }
    let mut most = 0;
    loop {
        tokio::select! {
            ended = callers.join_next() => match ended {
                Some(ended) => ended.expect("every turn is answered from its own conversation"),
                None => break,
            },
            () = sleep(Duration::from_millis(20)) => {
                let stats = service.stats().await;
                most = most.max(stats.processes as usize);
            }
        }
    }
    assert!(most <= PROCESSES, "{most} processes");
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.turns_completed, CALLERS * TURNS_OF_A_CALLER as u64);
    assert!(counters.hibernations_under_pressure > 100, "{counters:?}");
    assert!(processes::of_state(service.state.path()).len() <= PROCESSES);
    let service = Arc::into_inner(service).expect("all callers have ended");
    service.stop().await;
}
