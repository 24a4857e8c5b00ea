//! A round: a few nodes, callers who ask all the time, one or two things that go wrong, and then
//! what has to be true.

use std::{fmt, sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::DisconnectPolicy;
use tokio::time::timeout;

use crate::{
    callers::{Asking, Callers, Manner},
    cluster::{Cluster, Plan, SERVER, SHORT},
    nemesis::{ALL, Nemesis, Stage},
    recorder::{Recorder, Wrong},
    support::postgres::{Bouncer, Server},
};

/// A round that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(150);

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub pause: Duration,
    pub claims: usize,
}

#[derive(Debug, Clone)]
pub struct Round {
    pub seed: u64,
    pub nemeses: Vec<Nemesis>,
    pub is_real: bool,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cli = if self.is_real { "real CLI, " } else { "" };
        write!(f, "{cli}seed {}, {:?}", self.seed, self.nemeses)
    }
}

impl Round {
    /// One or two of them, and every so often on the real CLI. `deck` has what did not come for
    /// long.
    pub fn draw(rng: &mut Rng, deck: &mut Vec<Nemesis>) -> Self {
        if deck.is_empty() {
            deck.extend(ALL);
            // How long others take to take over is worth more than one look.
            deck.extend([Nemesis::Kill; 2]);
            rng.shuffle(deck);
        }
        let mut nemeses: Vec<_> = deck.pop().into_iter().collect();
        let second = ALL[rng.usize(..ALL.len())];
        if rng.bool() && nemeses[0] != Nemesis::Kill && nemeses[0].goes_with(second) {
            nemeses.push(second);
        }
        Self { seed: rng.u64(..), nemeses, is_real: rng.u8(..10) == 0 }
    }

    fn has(&self, nemesis: Nemesis) -> bool {
        self.nemeses.contains(&nemesis)
    }

    /// Whether take-over times of the round count: with the defaults, and nothing else wrong.
    pub fn is_measured(&self) -> bool {
        self.nemeses == [Nemesis::Kill]
    }

    /// The server of the round, if it cannot be the one that all have.
    async fn own_server(&self) -> Option<(Arc<Server>, Option<Arc<Server>>)> {
        if self.has(Nemesis::FullDisk) {
            let server = blocking(|| Server::start_on_a_small_disk(&SERVER)).await;
            return Some((Arc::new(server.expect("root makes it")), None));
        }
        if self.has(Nemesis::Promote) {
            let server = blocking(|| Server::start_with(&SERVER)).await.expect("installed");
            let standby = server.standby(&SERVER).await;
            return Some((Arc::new(server), Some(Arc::new(standby))));
        }
        None
    }

    /// Runs it; what was wrong is in what it returns.
    pub async fn run(&self, server: &Arc<Server>, size: Size) -> Arc<Recorder> {
        let (server, standby) = match self.own_server().await {
            Some(own) => own,
            None => (Arc::clone(server), None),
        };
        let mut rng = Rng::with_seed(self.seed);
        let bouncer = if self.has(Nemesis::Bouncer) { Bouncer::before(&server) } else { None };
        let by = bouncer.as_ref().map(Bouncer::address);
        let mut settings = Vec::new();
        // Take-over is measured with the defaults.
        let lease = if self.has(Nemesis::Kill) { 4 } else { 2 };
        if lease == 2 {
            settings.extend(SHORT);
        }
        if rng.bool() {
            // Sessions are given back, and go on wherever they are asked for next.
            settings
                .extend([("POOL__HIBERNATE_AFTER", "150ms"), ("POOL__CLEANUP_INTERVAL", "250ms")]);
        }
        let plan = Plan {
            settings: &settings,
            by: by.as_deref(),
            clock: self.has(Nemesis::Clock).then_some("+0"),
            is_real: self.is_real,
            ..Plan::default()
        };
        let cluster = Cluster::start(&server, plan).await;
        let (sessions, callers) = match self.is_real {
            true => (2, 2),
            false if self.is_measured() => (6, 4),
            false => (3, 4),
        };
        let sessions: Vec<String> = (1..=sessions).map(|number| format!("s{number}")).collect();
        let stage = Stage {
            server,
            standby,
            cluster: &cluster,
            sessions: &sessions,
            lease: Duration::from_secs(lease),
            pause: size.pause,
            claims: size.claims,
        };
        let story = self.story(&stage, callers, rng);
        if timeout(LONGEST, story).await.is_err() {
            cluster.recorder.wrong(Wrong::Hangs, "the round does not end");
        }
        cluster.end().await
    }

    async fn story(&self, stage: &Stage<'_>, callers: usize, mut rng: Rng) {
        let Stage { cluster, sessions, .. } = stage;
        in_calm(cluster, sessions).await;
        let is_stale = self.has(Nemesis::StaleView);
        let manner = Manner { is_stale, longest_turn: 150 };
        let callers = Callers::start(cluster, sessions, callers, manner, &mut rng);
        let first = rng.usize(..cluster.nodes.len());
        let suffering = self.nemeses.iter().enumerate().map(|(number, nemesis)| {
            // Each of another one.
            let victim = &cluster.nodes[(first + number) % cluster.nodes.len()];
            stage.suffer(*nemesis, victim, rng.fork())
        });
        crate::cluster::futures(suffering.collect::<Vec<_>>().into_iter()).await;
        callers.stop().await;
        in_calm(cluster, sessions).await;
    }

    /// What counts as wrong in this round.
    pub fn wrongs(&self, recorder: &Recorder) -> Vec<(Wrong, String)> {
        let mut wrongs = recorder.all_wrong();
        if self.has(Nemesis::Restore) {
            // What was told after the copy was made is gone, as whoever puts it back wants.
            wrongs.retain(|(wrong, _)| {
                matches!(wrong, Wrong::TwoProcesses | Wrong::Interleaved | Wrong::Hangs)
            });
        }
        wrongs
    }
}

/// Each node answers for each session.
pub async fn in_calm(cluster: &Cluster, sessions: &[String]) {
    let by = Asking::of(cluster);
    for (number, session) in sessions.iter().enumerate() {
        for at in 0..cluster.nodes.len() {
            let at = (at + number) % cluster.nodes.len();
            by.ask(session, || at, 0, DisconnectPolicy::Continue).await;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}
