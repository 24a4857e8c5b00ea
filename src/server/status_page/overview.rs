//! What the page shows of the service as a whole.

use axum::body::Bytes;
use serde::Serialize;

use super::StatusPage;
use crate::{
    measures::Failure,
    pool::{PoolStats, Scope},
    rpc::{others::Member, service::Observe as _},
    tenant::Tenants,
};

#[derive(Serialize)]
struct Overview<'a> {
    node: &'a str,
    version: &'static str,
    cli_version: &'a str,
    sandbox: &'static str,
    uptime_seconds: u64,
    draining: bool,
    reasons: &'a [String],
    sessions: Sessions,
    processes: Processes,
    spares: Spares,
    turns: Turns,
    prompts_open: usize,
    cost_usd: f64,
    store: Store<'a>,
    failures: Vec<Failed>,
    nodes: Vec<Node>,
    nodes_problem: Option<String>,
}

#[derive(Serialize)]
struct Sessions {
    total: usize,
    active: usize,
    hibernated: usize,
    limit: usize,
}

#[derive(Serialize)]
struct Processes {
    live: usize,
    starting: u32,
    limit: usize,
    memory_bytes: u64,
    cpu_seconds: u64,
}

#[derive(Serialize)]
struct Spares {
    ready: usize,
    starting: usize,
}

#[derive(Serialize)]
struct Turns {
    running: usize,
    queued: usize,
    taken: u64,
}

#[derive(Serialize)]
struct Store<'a> {
    failing: Option<&'a str>,
    failures: u64,
}

#[derive(Serialize)]
struct Failed {
    time_ms: u64,
    reason: &'static str,
    tenant: String,
    session: String,
}

#[derive(Serialize)]
struct Node {
    name: String,
    address: String,
    own: bool,
    draining: bool,
}

/// All of it, as JSON.
pub(super) async fn text(page: &StatusPage) -> Result<Bytes, serde_json::Error> {
    let stats = page.pool.stats(&Scope::All);
    let facts = page.observer.facts(&Scope::All, &stats).await;
    let used = page.processes.look(page.observer.supply.looks()).await;
    let (nodes, nodes_problem) = nodes(page).await;
    let PoolStats { counted_here, store, .. } = &stats;
    let node = page.cluster.own().name;
    let overview = Overview {
        node: &node,
        version: env!("CARGO_PKG_VERSION"),
        cli_version: &facts.cli_version,
        sandbox: facts.sandbox,
        uptime_seconds: stats.uptime.as_secs(),
        draining: stats.draining,
        reasons: &facts.not_ready_reasons,
        sessions: Sessions {
            total: stats.total_sessions,
            active: stats.active_sessions,
            hibernated: stats.hibernated_sessions,
            limit: stats.max_sessions,
        },
        processes: Processes {
            live: facts.processes,
            starting: facts.starting,
            limit: facts.max_processes,
            memory_bytes: used.memory,
            cpu_seconds: used.cpu.as_secs(),
        },
        spares: Spares { ready: facts.spares, starting: facts.spares_starting },
        turns: Turns {
            running: stats.streaming_turns,
            queued: stats.queued_turns,
            taken: counted_here.turns.get(),
        },
        prompts_open: stats.open_prompts,
        cost_usd: counted_here.spent().cost_usd,
        store: Store {
            failing: store.failing.as_ref().map(|failing| failing.reason.as_str()),
            failures: store.failed_transactions,
        },
        failures: failures(page.pool.tenants()),
        nodes,
        nodes_problem,
    };
    serde_json::to_vec(&overview).map(Bytes::from)
}

fn failures(tenants: &Tenants) -> Vec<Failed> {
    let failed = |Failure { time, reason, session }: Failure| {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Failed {
            time_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            reason,
            tenant: session.tenant.to_string(),
            session: session.session.to_string(),
        }
    };
    tenants.measures().last_failures().into_iter().map(failed).collect()
}

/// This node and those that live beside it.
async fn nodes(page: &StatusPage) -> (Vec<Node>, Option<String>) {
    let node = |member: &Member, own| Node {
        name: member.name.to_string(),
        address: member.address.as_deref().unwrap_or_default().to_owned(),
        own,
        draining: member.draining,
    };
    let mut nodes = vec![node(&page.cluster.own(), true)];
    let Some(others) = &page.cluster.others else { return (nodes, None) };
    let living = others.living().await;
    nodes.extend(living.others.iter().map(|member| node(member, false)));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    (nodes, living.problem)
}
