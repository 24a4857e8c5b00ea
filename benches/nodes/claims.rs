//! Claims: sessions that are in the database and nobody's, taken and given back by a node.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use session_pool::internals::{
    domain::{
        ids::{SessionId, SessionKey, TenantId},
        redacted::Redacted,
    },
    store::{PostgresOpening, PostgresStore, Store},
    tasks::Tasks,
};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::{task::JoinSet, time::Instant};

use super::postgres::Server;

/// Sessions that are claimed, each once.
const CLAIMS: usize = 5_000;
/// Callers at once.
const CALLERS: usize = 32;

fn opening(server: &Server, database: &str) -> PostgresOpening {
    let second = Duration::from_secs(1);
    PostgresOpening {
        url: Redacted(Server::url_by(&server.address(), database)),
        max_connections: 10,
        acquire_timeout: 5 * second,
        statement_timeout: 3 * second,
        commit_timeout: 10 * second,
        node: "claims".to_owned(),
        last_life: None,
        address: String::new(),
        heartbeat: second,
        lease: 4 * second,
    }
}

/// Adds sessions to a database that has the tables.
pub async fn fill(server: &Server, database: &str, sessions: usize) -> Result<(), Box<dyn Error>> {
    let mut connection = server.connect(database).await;
    let rows = format!(
        "INSERT INTO sessions SELECT tenant, 'stored-' || n, gen_random_uuid()::text, options, \
         acquired, created_ms, last_used_ms, created_observed_ms, used_observed_ms, \
         message_count, error_count, spent, reported_cost_usd, in_pool, '', '', epoch \
         FROM sessions, generate_series(1, {sessions}) AS n WHERE session_id = 'model'"
    );
    sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Claims a second.
pub async fn measure(server: &Server) -> Result<(), Box<dyn Error>> {
    let database = server.database().await;
    let url = Server::url_by(&server.address(), &database);
    // A session as the service makes it, of which the others are copies.
    let node = super::node("one", &url)?;
    super::run_turn(&super::connected(&node).await?, super::query("model")).await?;
    drop(node);
    fill(server, &database, CLAIMS).await?;
    let tasks = Tasks::default();
    let store = Arc::new(PostgresStore::open(opening(server, &database), &tasks).await?);
    let next = Arc::new(AtomicUsize::new(1));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (store, next) = (Arc::clone(&store), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number > CLAIMS {
                    return;
                }
                let session = SessionId::parse(&format!("stored-{number}")).expect("an id");
                let tenant = TenantId::parse("default").expect("a name");
                let key = SessionKey::new(tenant, session);
                store.claim(&key).await.expect("nobody has it");
            }
        });
    }
    callers.join_all().await;
    let rate = CLAIMS as f64 / began.elapsed().as_secs_f64();
    super::tell(&format!("claims of sessions, {CALLERS} at once"), rate, "/s");
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
