//! What it costs that sessions are in PostgreSQL and that a call may come to any node, measured on
//! the scripted fake CLI in one run: a warm turn by each store and forwarded, claims a second, how
//! long the sessions of a killed node are away, and a node on 100,000 stored sessions.
//!
//! `cargo bench --features test-tools --bench nodes`. PostgreSQL is Debian's, on this machine, with
//! every commit on the disk when it is answered. Figures are ratios to compare: machines are noisy.

#[path = "../pool/caller.rs"]
mod caller;
mod claims;
#[path = "../../tests/support/postgres.rs"]
mod postgres;
#[path = "../pool/service.rs"]
mod service;

use std::{error::Error, net::TcpListener, time::Duration};

use session_pool::proto::{
    GetSessionRequest, QueryRequest,
    session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use caller::{open, run_turn};
use postgres::Server;
use service::Running;

/// Rounds, in each of which everything has its turns.
const ROUNDS: usize = 10;
/// Turns, and unary calls, of a round.
const TURNS: usize = 100;
/// Sessions of the node that is killed, in each of so many rounds.
const SESSIONS: usize = 20;
const KILLS: usize = 5;
const STORED: usize = 100_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    // `cargo test --benches` passes `--test`; there is nothing to test here.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let Some(server) = Server::durable() else { return Err("PostgreSQL is not installed".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        println!("{:<46} {:>11} {:>11} {:>11}", "", "first frame", "whole turn", "unary call");
        warm_turns(&server).await?;
        claims::measure(&server).await?;
        take_overs(&server).await?;
        stored(&server).await
    })
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

fn median(times: Vec<Duration>) -> Duration {
    let times = sorted(times);
    times[times.len() / 2]
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

fn query(session: &str) -> QueryRequest {
    QueryRequest { session_id: session.into(), prompt: "hi".into(), ..QueryRequest::default() }
}

async fn connected(node: &Running) -> Outcome<Channel> {
    Ok(Channel::from_shared(node.address.clone())?.connect().await?)
}

/// A node on this database, which others reach.
fn node(name: &str, url: &str) -> Outcome<Running> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    Running::start(&[
        ("STORE__KIND", "postgres"),
        ("STORE__URL", url),
        ("CLUSTER__NODE", name),
        ("SERVER__LISTEN", &port),
        ("CLUSTER__ADVERTISE", &port),
    ])
}

/// What the turns of one way took.
struct Way {
    name: &'static str,
    channel: Channel,
    session: &'static str,
    first: Vec<Duration>,
    whole: Vec<Duration>,
    unary: Vec<Duration>,
}

impl Way {
    fn new(name: &'static str, channel: Channel, session: &'static str) -> Self {
        let (first, whole, unary) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, channel, session, first, whole, unary }
    }

    async fn round(&mut self) -> Outcome<()> {
        let mut client = Client::new(self.channel.clone());
        for _ in 0..TURNS {
            let began = Instant::now();
            let mut stream = open(&self.channel, query(self.session)).await?;
            // Event 1 is the service's own; what the CLI says first is event 2.
            stream.message().await?;
            stream.message().await?;
            self.first.push(began.elapsed());
            while stream.message().await?.is_some() {}
            self.whole.push(began.elapsed());
            let began = Instant::now();
            let request = GetSessionRequest { session_id: self.session.into() };
            client.get_session(request).await?;
            self.unary.push(began.elapsed());
        }
        Ok(())
    }
}

async fn warm_turns(server: &Server) -> Outcome<()> {
    let memory = Running::start(&[("STORE__KIND", "memory")])?;
    let sqlite = Running::start(&[])?;
    let url = server.url().await;
    let (one, two) = (node("one", &url)?, node("two", &url)?);
    let mut ways = [
        Way::new("warm, store.kind = memory", connected(&memory).await?, "s"),
        Way::new("warm, sqlite", connected(&sqlite).await?, "s"),
        Way::new("warm, postgres, at the session's node", connected(&one).await?, "direct"),
        Way::new("warm, postgres, forwarded", connected(&two).await?, "forwarded"),
    ];
    // This one lives at the first node, too.
    run_turn(&ways[2].channel, query("forwarded")).await?;
    for way in &ways {
        run_turn(&way.channel, query(way.session)).await?;
    }
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.round().await?;
        }
    }
    for Way { name, first, whole, unary, .. } in ways {
        let [first, whole, unary] = [first, whole, unary].map(|it| micros(median(it)));
        println!("{name:<46} {first:>11} {whole:>11} {unary:>11}");
    }
    Ok(())
}

/// From the SIGKILL of a node to the next result of each of its sessions, by callers that ask
/// another node without a pause.
async fn take_overs(server: &Server) -> Outcome<()> {
    let mut away = Vec::new();
    for _ in 0..KILLS {
        let url = server.url().await;
        let (mut one, two) = (node("one", &url)?, node("two", &url)?);
        let (first, second) = (connected(&one).await?, connected(&two).await?);
        let sessions: Vec<String> = (0..SESSIONS).map(|number| format!("s{number}")).collect();
        for session in &sessions {
            run_turn(&first, query(session)).await?;
        }
        let killed = Instant::now();
        one.kill();
        let mut callers = tokio::task::JoinSet::new();
        for session in sessions {
            let second = second.clone();
            callers.spawn(async move {
                while run_turn(&second, query(&session)).await.is_err() {
                    sleep(Duration::from_millis(20)).await;
                }
                killed.elapsed()
            });
        }
        away.extend(callers.join_all().await);
    }
    let away = sorted(away);
    let at = |part: usize| away[(away.len() - 1) * part / 100].as_secs_f64();
    println!(
        "away after SIGKILL of its node, {} sessions: p50 {:.2} s, p99 {:.2} s, longest {:.2} s",
        away.len(),
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

/// How soon a node listens, and what it holds then: on an empty database, and on many sessions.
async fn stored(server: &Server) -> Outcome<()> {
    let (empty, full) = (server.database().await, server.database().await);
    for (name, database) in [("no sessions", &empty), ("100,000 sessions", &full)] {
        let url = Server::url_by(&server.address(), database);
        if name != "no sessions" {
            let first = node("one", &url)?;
            run_turn(&connected(&first).await?, query("model")).await?;
            drop(first);
            claims::fill(server, database, STORED).await?;
        }
        let (mut starts, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let began = Instant::now();
            let node = node("one", &url)?;
            starts.push(began.elapsed());
            let mut client = Client::new(connected(&node).await?);
            client.list_sessions(session_pool::proto::ListSessionsRequest::default()).await?;
            memory.push(Duration::from_secs_f64(node.resident_kb() / 1e3));
        }
        let (start, memory) = (median(starts).as_secs_f64() * 1e3, median(memory).as_secs_f64());
        println!("a node on a database with {name}: listens after {start:.0} ms, {memory:.1} MB");
    }
    Ok(())
}
