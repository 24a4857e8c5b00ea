//! Those who ask: each turn at some node, and again by its name at another until its result is
//! told. Nobody knows where a session lives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use session_pool::proto::{DisconnectPolicy, QueryRequest, TurnResult, turn_event::Kind};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};

use crate::{
    checks::{TOKEN, tokens},
    cluster::Cluster,
    node::Node,
    recorder::{Recorder, Told, Wrong, now},
    support::{reason, retry_after, turn::Turn},
};

/// Between attempts at a turn: sooner than callers are told to, so that it is seen early who
/// serves.
const AGAIN: Duration = Duration::from_millis(100);

/// How long one attempt may take: a caller that is silent for so long asks elsewhere.
const ATTEMPT: Duration = Duration::from_secs(12);

/// How long it may take until a turn is told, once faults are over.
const LONGEST: Duration = Duration::from_secs(40);

/// How callers behave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// They ask where the session does not live, if they know where it does.
    pub is_stale: bool,
    /// How long turns take at most.
    pub longest_turn: u64,
}

/// What a turn of a round asks for.
pub struct Asking {
    recorder: Arc<Recorder>,
    nodes: Vec<Arc<Node>>,
    is_real: bool,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Outcome {
    Told(Box<TurnResult>),
    /// Worth asking again.
    Again(String),
    /// Not worth asking again.
    Refused(Status),
}

fn fresh_turn() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{TOKEN}{:06}", COUNT.fetch_add(1, Ordering::SeqCst))
}

impl Asking {
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            recorder: Arc::clone(&cluster.recorder),
            nodes: cluster.nodes.clone(),
            is_real: cluster.is_real,
        }
    }

    /// The prompt of an attempt at a turn, which says its own name, after a while.
    fn prompt(&self, token: &str, sleeps: u64) -> String {
        match self.is_real {
            true => format!("[[pause {sleeps}]] [[say {token}]]"),
            false => format!("#!fake\nsleep {sleeps}\nsay {token}"),
        }
    }

    /// Tries once to have a turn run at a node.
    pub async fn attempt(
        &self,
        node: &Node,
        session: &str,
        (turn, number): (&str, usize),
        (sleeps, leaves): (u64, DisconnectPolicy),
    ) -> Outcome {
        let token = format!("{turn}.{number}");
        let request = QueryRequest {
            session_id: session.to_owned(),
            turn_id: turn.to_owned(),
            prompt: self.prompt(&token, sleeps),
            on_disconnect: leaves.into(),
            ..QueryRequest::default()
        };
        let asked = async {
            match node.client.clone().query(request).await {
                Ok(stream) => {
                    let mut turn = Turn::new(stream.into_inner());
                    turn.finish().await;
                    turn
                }
                Err(status) => Turn::refused(status),
            }
        };
        let Ok(asked) = timeout(ATTEMPT, asked).await else {
            return Outcome::Again("silence".to_owned());
        };
        let result = asked.events.iter().find_map(|event| match &event.kind {
            Some(Kind::Result(result)) => Some(result.clone()),
            _ => None,
        });
        match (result, asked.end) {
            // What was told stays told, whatever becomes of the connection.
            (Some(result), _) => Outcome::Told(Box::new(result)),
            (None, Some(Err(status))) => judge(status),
            (None, end) => Outcome::Again(format!("no result: {end:?}")),
        }
    }

    /// Has a turn run, at one node after the other.
    pub async fn ask(
        &self,
        session: &str,
        mut choose: impl FnMut() -> usize,
        sleeps: u64,
        leaves: DisconnectPolicy,
    ) {
        let (turn, began) = (fresh_turn(), Instant::now());
        for number in 1.. {
            let node = &self.nodes[choose()];
            let attempt = self.attempt(node, session, (&turn, number), (sleeps, leaves)).await;
            let last = match attempt {
                Outcome::Told(result) => {
                    return self.told(session, &turn, node, &result);
                }
                Outcome::Again(why) => why,
                Outcome::Refused(status) => {
                    let what = format!("{session}: {turn}.{number} at {}: {status:?}", node.name);
                    return self.recorder.wrong(Wrong::NotRetryable, what);
                }
            };
            self.recorder.count(last.clone());
            if began.elapsed() > LONGEST {
                let what = format!("{session}: {turn} after {number} attempts: {last}");
                return self.recorder.wrong(Wrong::Hangs, what);
            }
            sleep(AGAIN).await;
        }
    }

    pub fn told(&self, session: &str, turn: &str, node: &Node, result: &TurnResult) {
        let named = tokens(&result.result).into_iter().find(|it| it.starts_with(turn));
        let text = named.unwrap_or_default();
        let is_interrupted = result.interrupted;
        if !is_interrupted && (result.is_error || text.is_empty()) {
            let what = format!("{session}: {turn} was answered with {result:?}");
            self.recorder.wrong(Wrong::NotRetryable, what);
            return;
        }
        self.recorder.line(format_args!("{} told {session}: {text}", node.name));
        let (session, turn) = (session.to_owned(), turn.to_owned());
        self.recorder.told(Told { session, turn, text, at: now(), is_interrupted });
    }
}

/// Whether an error says that it is worth asking again.
fn judge(status: Status) -> Outcome {
    let reason = reason(&status);
    match (status.code(), reason.as_str()) {
        // A connection that broke, or none.
        (Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, "") => {
            Outcome::Again("connection".to_owned())
        }
        // The caller before has left, and the turn with it.
        (Code::Cancelled, "TURN_INTERRUPTED") => Outcome::Again(reason),
        // The CLI was killed, or its node.
        (Code::Unavailable, "CLI_EXITED") => Outcome::Again(reason),
        (Code::Unavailable | Code::ResourceExhausted | Code::Aborted, _)
            if retry_after(&status).is_some() =>
        {
            Outcome::Again(reason)
        }
        _ => Outcome::Refused(status),
    }
}

/// Callers who ask until they are told to stop.
pub struct Callers {
    over: Arc<AtomicBool>,
    asking: JoinSet<()>,
}

impl Callers {
    /// So many of them, about these sessions.
    pub fn start(
        cluster: &Cluster,
        sessions: &[String],
        count: usize,
        manner: Manner,
        rng: &mut Rng,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut asking = JoinSet::new();
        for _ in 0..count {
            let (by, over, mut rng) = (Asking::of(cluster), Arc::clone(&over), rng.fork());
            let (sessions, owners) = (sessions.to_vec(), cluster.watcher.owners());
            asking.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let session = sessions[rng.usize(..sessions.len())].clone();
                    let sleeps = rng.u64(..=manner.longest_turn);
                    let leaves = match rng.u8(..4) {
                        0 => DisconnectPolicy::Interrupt,
                        _ => DisconnectPolicy::Continue,
                    };
                    let choose = || loop {
                        let chosen = rng.usize(..by.nodes.len());
                        let owner = owners(&session).filter(|_| manner.is_stale);
                        if owner.as_ref() != Some(&by.nodes[chosen].name) {
                            return chosen;
                        }
                    };
                    by.ask(&session, choose, sleeps, leaves).await;
                    sleep(Duration::from_millis(10)).await;
                }
            });
        }
        Self { over, asking }
    }

    /// Lets them finish what they have begun.
    pub async fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        self.asking.join_all().await;
    }
}
