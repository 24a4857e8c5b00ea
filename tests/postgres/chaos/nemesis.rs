//! What goes wrong in a round, and ends.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::DisconnectPolicy;
use tokio::time::{sleep, timeout};

use crate::{
    callers::Asking,
    claims,
    cluster::Cluster,
    link::{COMMIT, Weather},
    node::Node,
    recorder::now,
    support::postgres::Server,
};

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nemesis {
    /// `kill -9` of a node, which is started again when others have its sessions.
    Kill,
    /// SIGSTOP of the service itself, for twice its lease.
    Suspend,
    /// The same of all that belongs to the node, as when a machine is suspended.
    SuspendMachine,
    /// SIGSTOP while an append is on its way to the database, which gets it then or much later.
    SuspendInAppend,
    /// SIGSTOP while another node passes a call on to it.
    SuspendInForward,
    /// No connection between a node and the database.
    CutDatabase,
    /// What a node sends to the database does not arrive.
    SilenceToDatabase,
    /// What the database answers does not arrive.
    SilenceFromDatabase,
    /// No connection from other nodes to one.
    CutNodes,
    /// What other nodes send to one, and its answers, do not arrive.
    SilenceNodes,
    /// `kill -9` of the database.
    KillDatabase,
    /// SIGSTOP of the database.
    PauseDatabase,
    /// Answers to COMMIT are swallowed.
    SwallowCommit,
    /// The database is slower than the lease.
    SlowDatabase,
    /// The wall clock of a node is an hour off, in both directions.
    Clock,
    /// Three more nodes claim many sessions at once.
    ManyClaims,
    /// SIGTERM of one node after the other.
    Drain,
    /// Callers ask where the session does not live.
    StaleView,
    /// A second service starts under the name of a node.
    TwoIncarnations,
    /// An older state of the database is put back.
    Restore,
    /// A standby takes the place of the database, and that comes back.
    Promote,
    /// Nothing, but PgBouncer in transaction mode is in between.
    Bouncer,
    /// The database has no room on its disk.
    FullDisk,
}

/// All that can be drawn.
pub const ALL: [Nemesis; 23] = [
    Nemesis::Kill,
    Nemesis::Suspend,
    Nemesis::SuspendMachine,
    Nemesis::SuspendInAppend,
    Nemesis::SuspendInForward,
    Nemesis::CutDatabase,
    Nemesis::SilenceToDatabase,
    Nemesis::SilenceFromDatabase,
    Nemesis::CutNodes,
    Nemesis::SilenceNodes,
    Nemesis::KillDatabase,
    Nemesis::PauseDatabase,
    Nemesis::SwallowCommit,
    Nemesis::SlowDatabase,
    Nemesis::Clock,
    Nemesis::ManyClaims,
    Nemesis::Drain,
    Nemesis::StaleView,
    Nemesis::TwoIncarnations,
    Nemesis::Restore,
    Nemesis::Promote,
    Nemesis::Bouncer,
    Nemesis::FullDisk,
];

impl Nemesis {
    /// Whether it goes with another one: both want the server as it is, or one of their own.
    pub fn goes_with(self, other: Self) -> bool {
        let is_alone = |it| matches!(it, Self::Restore | Self::Promote | Self::FullDisk);
        let is_of_database = |it| matches!(it, Self::KillDatabase | Self::PauseDatabase);
        // Those who claim in the test program itself want their answers.
        let claims = |it| it == Self::ManyClaims;
        let excludes = |a, b| is_alone(a) || claims(a) && is_of_database(b);
        self != other && !excludes(self, other) && !excludes(other, self)
    }
}

/// What it happens to.
pub struct Stage<'a> {
    pub server: Arc<Server>,
    /// A server that follows the first, if there is one.
    pub standby: Option<Arc<Server>>,
    pub cluster: &'a Cluster,
    pub sessions: &'a [String],
    pub lease: Duration,
    /// How long the database is stopped.
    pub pause: Duration,
    /// Sessions that are claimed at once.
    pub claims: usize,
}

impl Stage<'_> {
    /// Has this go wrong with a node, or with what all of them share, and be well again.
    pub async fn suffer(&self, nemesis: Nemesis, victim: &Arc<Node>, mut rng: Rng) {
        sleep(Duration::from_millis(rng.u64(..400))).await;
        let recorder = &self.cluster.recorder;
        recorder.line(format_args!("{nemesis:?} of {} begins", victim.name));
        match nemesis {
            Nemesis::Kill => self.kill(victim).await,
            Nemesis::Suspend => self.suspend(victim, false).await,
            Nemesis::SuspendMachine => self.suspend(victim, true).await,
            Nemesis::SuspendInAppend => self.suspend_in_append(victim, &mut rng).await,
            Nemesis::SuspendInForward => self.suspend_in_forward(victim, &mut rng).await,
            Nemesis::CutDatabase => self.on_the_way(victim, Weather::CUT).await,
            Nemesis::SilenceToDatabase => self.on_the_way(victim, Weather::SILENT_THERE).await,
            Nemesis::SilenceFromDatabase => self.on_the_way(victim, Weather::SILENT_BACK).await,
            Nemesis::SlowDatabase => {
                // Three questions and their answers make a heartbeat.
                self.on_the_way(victim, Weather::slow(self.lease / 4)).await;
            }
            Nemesis::CutNodes => self.between_nodes(victim, Weather::CUT).await,
            Nemesis::SilenceNodes => self.between_nodes(victim, Weather::SILENT).await,
            Nemesis::KillDatabase => {
                self.server.kill();
                sleep(Duration::from_millis(rng.u64(200..1500))).await;
                let server = Arc::clone(&self.server);
                tokio::task::spawn_blocking(move || server.begin()).await.expect("begun");
            }
            Nemesis::PauseDatabase => {
                self.server.pause(true);
                sleep(self.pause).await;
                self.server.pause(false);
            }
            Nemesis::SwallowCommit => {
                for _ in 0..4 {
                    victim.to_database.swallow_answer();
                    sleep(Duration::from_millis(rng.u64(200..600))).await;
                }
            }
            Nemesis::Clock => {
                for offset in ["+1h", "-1h", "+0"] {
                    self.cluster.nodes[0].set_clock(offset);
                    sleep(self.lease).await;
                }
            }
            Nemesis::ManyClaims => {
                claims::at_once(&self.server, &self.cluster.database, self.claims).await;
            }
            Nemesis::Drain => {
                for node in &self.cluster.nodes {
                    node.stop_in_order().await;
                    node.start().await;
                }
            }
            Nemesis::TwoIncarnations => self.two_incarnations(victim).await,
            Nemesis::Restore => self.restore().await,
            Nemesis::Promote => self.promote(victim).await,
            Nemesis::FullDisk => self.fill().await,
            // They are so from the beginning.
            Nemesis::StaleView | Nemesis::Bouncer => sleep(self.lease).await,
        }
        recorder.line(format_args!("{nemesis:?} of {} is over", victim.name));
    }

    async fn kill(&self, victim: &Node) {
        let of_it = self.cluster.sessions_of(&victim.name);
        // The database may be gone, too.
        let of_it = timeout(Duration::from_secs(2), of_it).await.unwrap_or_default();
        let killed = now();
        victim.kill().await;
        let by = Asking::of(self.cluster);
        let others: Vec<usize> = (0..self.cluster.nodes.len())
            .filter(|at| self.cluster.nodes[*at].name != victim.name)
            .collect();
        let taken_over = of_it.iter().enumerate().map(|(number, session)| {
            let (by, others) = (&by, &others);
            async move {
                let mut at = number;
                let choose = || {
                    at += 1;
                    others[at % others.len()]
                };
                by.ask(session, choose, 0, DisconnectPolicy::Continue).await;
                self.cluster.recorder.took_over(now() - killed);
            }
        });
        crate::cluster::futures(taken_over).await;
        victim.start().await;
    }

    async fn suspend(&self, victim: &Node, all: bool) {
        let before = victim.processes().await;
        if all {
            // Nobody is left who could end its processes. They do nothing before it wakes.
            self.cluster.recorder.excuse(victim.state());
        }
        victim.suspend(true, all).await;
        sleep(2 * self.lease).await;
        self.wake(victim, all, &before).await;
    }

    async fn wake(&self, victim: &Node, all: bool, before: &[u32]) {
        victim.suspend(false, all).await;
        if all {
            self.cluster.recorder.excuse_ends(victim.state(), Duration::from_secs(1));
        }
        self.cluster.gone_in_time(victim, before).await;
    }

    async fn suspend_in_append(&self, victim: &Node, rng: &mut Rng) {
        let link = &victim.to_database;
        link.trap(b"INSERT INTO entries");
        if !link.trapped(Duration::from_secs(5)).await {
            return self.cluster.recorder.line("nothing was appended there");
        }
        if rng.bool() {
            // On to its COMMIT.
            link.trap(COMMIT);
            link.release_into_trap();
            link.trapped(Duration::from_secs(1)).await;
        }
        let before = victim.processes().await;
        victim.suspend(true, false).await;
        if rng.bool() {
            link.release();
        }
        sleep(2 * self.lease).await;
        link.release();
        self.wake(victim, false, &before).await;
    }

    async fn suspend_in_forward(&self, victim: &Node, rng: &mut Rng) {
        let of_it = self.cluster.sessions_of(&victim.name);
        let of_it = timeout(Duration::from_secs(2), of_it).await.unwrap_or_default();
        let Some(session) = of_it.first() else {
            return self.cluster.recorder.line("it has no session");
        };
        let other = self.cluster.nodes.iter().position(|node| node.name != victim.name);
        let (by, other) = (Asking::of(self.cluster), other.expect("another one"));
        let asked = by.ask(session, || other, 1500, DisconnectPolicy::Continue);
        let stopped = async {
            sleep(Duration::from_millis(rng.u64(100..1200))).await;
            self.suspend(victim, false).await;
        };
        tokio::join!(asked, stopped);
    }

    async fn on_the_way(&self, victim: &Node, weather: Weather) {
        victim.to_database.set(weather);
        sleep(2 * self.lease).await;
        victim.to_database.set(Weather::FAIR);
    }

    async fn between_nodes(&self, victim: &Node, weather: Weather) {
        victim.from_nodes.set(weather);
        sleep(Duration::from_secs(3)).await;
        victim.from_nodes.set(Weather::FAIR);
    }

    async fn two_incarnations(&self, victim: &Arc<Node>) {
        let twin = victim.twin(&self.server.address(), &self.cluster.database).await;
        // The first one finds out with its next heartbeat. Nobody has its sessions before that.
        let before = victim.processes().await;
        twin.start().await;
        sleep(self.lease / 3).await;
        self.cluster.gone_in_time(victim, &before).await;
        sleep(self.lease / 2).await;
        victim.kill().await;
        twin.kill().await;
        victim.start().await;
    }

    /// Puts back what the database was a while before, in one transaction, as whoever restores a
    /// backup does.
    async fn restore(&self) {
        const TABLES: [&str; 10] = [
            // In the order in which nodes write to them.
            "transactions",
            "nodes",
            "sessions",
            "conversations",
            "entries",
            "turns",
            "counts",
            "costs",
            "counted",
            "pool_sizes",
        ];
        let copies = TABLES.map(|it| format!("CREATE TABLE backup.{it} AS TABLE {it};")).concat();
        let back = TABLES
            .map(|it| format!("TRUNCATE {it}; INSERT INTO {it} SELECT * FROM backup.{it};"))
            .concat();
        self.cluster.run("CREATE SCHEMA backup").await;
        let locked = format!("BEGIN; LOCK {} IN EXCLUSIVE MODE;", TABLES.join(", "));
        self.cluster.run(&format!("{locked} {copies} COMMIT")).await;
        sleep(2 * self.lease).await;
        // Sessions move meanwhile.
        self.cluster.nodes[0].stop_in_order().await;
        self.cluster.nodes[0].start().await;
        sleep(self.lease).await;
        self.cluster.is_put_back();
        self.cluster
            .run(&format!("SET session_replication_role = replica; {locked} {back} COMMIT"))
            .await;
        sleep(self.lease).await;
    }

    /// The standby takes over while one node still talks with the server that it replaces.
    async fn promote(&self, victim: &Node) {
        let standby = self.standby.as_ref().expect("a standby");
        standby.promote().await;
        self.cluster.follow(standby);
        for node in self.cluster.nodes.iter().filter(|node| node.name != victim.name) {
            node.to_database.lead_to(standby.address());
            node.to_database.break_all();
        }
        sleep(2 * self.lease).await;
        self.server.kill();
        sleep(Duration::from_millis(500)).await;
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.begin()).await.expect("begun");
        sleep(self.lease).await;
        victim.to_database.lead_to(standby.address());
        victim.to_database.break_all();
    }

    async fn fill(&self) {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.fill()).await.expect("filled");
        sleep(2 * self.lease).await;
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || {
            server.make_room();
            server.begin();
        })
        .await
        .expect("begun");
    }
}
