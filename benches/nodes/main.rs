//! What it costs that sessions are in PostgreSQL, measured on the scripted fake CLI: claims a second, how
//! long the sessions of a killed node are away, and a node on 100,000 stored sessions.
//!
//! `tests/bench` runs it, as the row `nodes`, and reads what it prints: a line of JSON for each figure.
//! PostgreSQL is Debian's, on this machine, with every commit on the disk when it is answered.

#[path = "../contenders/caller.rs"]
mod caller;
mod claims;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod service;

use std::{error::Error, net::TcpListener, time::Duration};

use session_pool::proto::{
    QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use caller::run_turn;
use postgres::Server;
use service::Running;

/// Sessions of the node that is killed, in each of so many rounds.
const SESSIONS: usize = 20;
const KILLS: usize = 3;
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

/// Tells a figure.
fn tell(figure: &str, value: f64, unit: &str) {
    println!("{}", serde_json::json!({"figure": figure, "value": value, "unit": unit}));
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
    for (name, part) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        tell(&format!("sessions away after SIGKILL of their node, {name}"), at(part), "s");
    }
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
        tell(&format!("a node with {name} in the database listens after"), start, "ms");
        tell(&format!("a node with {name} in the database holds"), memory, "MB");
    }
    Ok(())
}
