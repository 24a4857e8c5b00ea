//! Many claims at once: three nodes ask for the same sessions that nobody has, and each session
//! gets one of them.

use std::{sync::Arc, time::Duration};

use session_pool::internals::{
    domain::{
        ids::{SessionId, SessionKey, TenantId},
        redacted::Redacted,
    },
    store::{PostgresOpening, PostgresStore, Store as _, StoreError},
    tasks::Tasks,
};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::task::JoinSet;

use crate::support::postgres::Server;

/// Sessions that nobody has.
fn unclaimed(count: usize) -> String {
    format!(
        "INSERT INTO sessions (tenant, session_id, cli_session_id, options, acquired, created_ms, \
         last_used_ms, created_observed_ms, used_observed_ms, message_count, error_count, spent, \
         reported_cost_usd, in_pool, owner, owner_name, epoch) \
         SELECT 'claims', 'claimed-' || n, gen_random_uuid(), '{{}}', '{{}}', 0, 0, 0, 0, 0, 0, '{{}}', \
         0, 0, '', '', 5 FROM generate_series(1, {count}) AS n"
    )
}

fn key(number: usize) -> SessionKey {
    let tenant = TenantId::parse("claims").expect("a name");
    SessionKey::new(tenant, SessionId::parse(&format!("claimed-{number}")).expect("a name"))
}

async fn node(url: &str, name: &str, tasks: &Tasks) -> Arc<PostgresStore> {
    let opening = PostgresOpening {
        url: Redacted(url.to_owned()),
        max_connections: 10,
        acquire_timeout: Duration::from_secs(60),
        statement_timeout: Duration::from_secs(10),
        commit_timeout: Duration::from_secs(300),
        node: name.to_owned(),
        last_life: None,
        address: String::new(),
        heartbeat: Duration::from_secs(1),
        lease: Duration::from_secs(600),
    };
    Arc::new(PostgresStore::open(opening, tasks).await.expect("opened"))
}

/// Claims so many sessions by three nodes at once, and gives them back.
pub async fn at_once(server: &Server, database: &str, count: usize) {
    let url = Server::url_by(&server.address(), database);
    let tasks = Tasks::default();
    let mut claiming = JoinSet::new();
    let mut nodes = Vec::new();
    for name in ["claims-one", "claims-two", "claims-three"] {
        nodes.push(node(&url, name, &tasks).await);
    }
    let mut connection = server.connect(database).await;
    let made = AssertSqlSafe(unclaimed(count));
    sqlx::raw_sql(made).execute(&mut connection).await.expect("made");
    for number in 1..=count {
        for at in 0..nodes.len() {
            // Not always the same one first.
            let node = Arc::clone(&nodes[(at + number) % nodes.len()]);
            claiming.spawn(async move { (number, node.claim(&key(number)).await) });
        }
    }
    let mut claimed = vec![0; count + 1];
    while let Some(claim) = claiming.join_next().await {
        match claim.expect("no panic") {
            (number, Ok(_)) => claimed[number] += 1,
            (_, Err(StoreError::Elsewhere { .. })) => {}
            (number, Err(error)) => panic!("{number}: {error}"),
        }
    }
    let wrong: Vec<_> = (1..=count).filter(|number| claimed[*number] != 1).collect();
    assert!(wrong.is_empty(), "not claimed once: {wrong:?}");
    let epochs: Vec<i64> =
        sqlx::query_scalar("SELECT DISTINCT epoch FROM sessions WHERE tenant = 'claims'")
            .fetch_all(&mut connection)
            .await
            .expect("answered");
    assert_eq!(epochs, [6], "each was claimed once");
    let forgotten = "DELETE FROM sessions WHERE tenant = 'claims'";
    sqlx::query(forgotten).execute(&mut connection).await.expect("forgotten");
    connection.close().await.expect("closed");
    tasks.stop(Duration::from_secs(5)).await;
}
