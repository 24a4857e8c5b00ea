//! What was counted, in the database. Each life of a service tells what it has counted so far,
//! and the database adds what of that is new: `count = count + more`. How much of it has been
//! added is kept beside it, in the same transaction. So what is told twice, late, or after a
//! commit whose outcome nobody knows is counted once, and two services add up.

use std::collections::BTreeMap;

use sqlx::{QueryBuilder, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    StoreError,
    columns::{bad, signed, tenant},
    readers::Readers,
};
use crate::{
    counters::{Spent, Today, Totals},
    domain::{ids::TenantId, usage::TokenUsage},
};

/// Lives of services whose part in a tenant's counts is remembered. Those that counted last
/// are; one that has not for so many others does not come again.
const WRITERS: i64 = 64;

/// The day that stands for all of them.
const ALL_DAYS: i64 = -1;

/// What goes before the names of tokens.
const USAGE: &str = "usage.";

/// Adds what a life of a service has counted for a tenant since it said so last.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    writer: &str,
    observed_ms: i64,
    tenant: &TenantId,
    counted: &Totals,
) -> Result<(), StoreError> {
    let added = added(connection, writer, tenant).await?;
    let more = counted.since(&added);
    if more == Totals::default() {
        return Ok(());
    }
    add_counts(connection, tenant, &more).await?;
    add_costs(connection, tenant, &more).await?;
    let mut now_added = added;
    now_added.raise(counted);
    let text = serde_json::to_string(&now_added);
    sqlx::query(
        "INSERT INTO counted (tenant, writer, observed_ms, totals) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, writer) DO UPDATE SET observed_ms = excluded.observed_ms, \
         totals = excluded.totals",
    )
    .bind(tenant.as_str())
    .bind(writer)
    .bind(observed_ms)
    .bind(text.map_err(|error| StoreError::Corrupt(error.to_string()))?)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// What of it has been added before.
async fn added(
    connection: &mut SqliteConnection,
    writer: &str,
    tenant: &TenantId,
) -> Result<Totals, StoreError> {
    let added: Option<String> =
        sqlx::query_scalar("SELECT totals FROM counted WHERE tenant = $1 AND writer = $2")
            .bind(tenant.as_str())
            .bind(writer)
            .fetch_optional(&mut *connection)
            .await?;
    match added {
        Some(text) => serde_json::from_str(&text).map_err(|_| bad("counted")),
        None => {
            drop_oldest(connection, tenant).await?;
            Ok(Totals::default())
        }
    }
}

/// Makes room for one more.
async fn drop_oldest(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM counted WHERE tenant = $1 AND writer NOT IN (SELECT writer FROM counted \
         WHERE tenant = $1 ORDER BY observed_ms DESC, writer LIMIT $2)",
    )
    .bind(tenant.as_str())
    .bind(WRITERS - 1)
    .execute(connection)
    .await?;
    Ok(())
}

async fn add_counts(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    more: &Totals,
) -> Result<(), StoreError> {
    let tokens = tokens(&more.spent.usage).map(|(name, count)| (format!("{USAGE}{name}"), count));
    let counts = more.counts.iter().map(|(name, count)| (name.clone(), *count));
    let counts: Vec<_> = counts.chain(tokens).filter(|(_, count)| *count > 0).collect();
    if counts.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::new("INSERT INTO counts (tenant, name, count) ");
    insert.push_values(counts, |mut row, (name, count)| {
        row.push_bind(tenant.as_str()).push_bind(name).push_bind(signed(count));
    });
    insert.push(" ON CONFLICT (tenant, name) DO UPDATE SET count = counts.count + excluded.count");
    insert.build().execute(connection).await?;
    Ok(())
}

async fn add_costs(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    more: &Totals,
) -> Result<(), StoreError> {
    let today = signed(more.today.day);
    for (day, cost_usd) in [(ALL_DAYS, more.spent.cost_usd), (today, more.today.cost_usd)] {
        if cost_usd > 0.0 {
            sqlx::query(
                "INSERT INTO costs (tenant, day, cost_usd) VALUES ($1, $2, $3) \
                 ON CONFLICT (tenant, day) DO UPDATE SET cost_usd = costs.cost_usd + excluded.cost_usd",
            )
            .bind(tenant.as_str())
            .bind(day)
            .bind(cost_usd)
            .execute(&mut *connection)
            .await?;
        }
    }
    sqlx::query("DELETE FROM costs WHERE tenant = $1 AND day >= 0 AND day < $2")
        .bind(tenant.as_str())
        .bind(today)
        .execute(connection)
        .await?;
    Ok(())
}

/// What was counted for each tenant, by all services.
pub(super) async fn read(readers: &Readers) -> Result<Vec<(TenantId, Totals)>, StoreError> {
    let mut reader = readers.take().await?;
    let counts = sqlx::query("SELECT tenant, name, count FROM counts")
        .fetch_all(reader.connection())
        .await?;
    let costs = sqlx::query("SELECT tenant, day, cost_usd FROM costs ORDER BY day")
        .fetch_all(reader.connection())
        .await?;
    reader.give_back();
    let mut totals = BTreeMap::<TenantId, Totals>::new();
    for row in &counts {
        note_count(totals.entry(tenant(row)?).or_default(), row)?;
    }
    for row in &costs {
        let totals = totals.entry(tenant(row)?).or_default();
        let (day, cost_usd): (i64, f64) = (row.try_get("day")?, row.try_get("cost_usd")?);
        match u64::try_from(day) {
            // The last day comes last.
            Ok(day) => totals.today = Today { day, cost_usd },
            Err(_) => totals.spent.cost_usd = cost_usd,
        }
    }
    Ok(totals.into_iter().collect())
}

fn note_count(totals: &mut Totals, row: &SqliteRow) -> Result<(), StoreError> {
    let name: &str = row.try_get("name")?;
    let count = u64::try_from(row.try_get::<i64, _>("count")?).map_err(|_| bad("count"))?;
    let Totals { counts, spent: Spent { usage, .. }, .. } = totals;
    let Some(token) = name.strip_prefix(USAGE) else {
        counts.insert(name.to_owned(), count);
        return Ok(());
    };
    match token {
        "input_tokens" => usage.input_tokens = count,
        "output_tokens" => usage.output_tokens = count,
        "cache_creation_input_tokens" => usage.cache_creation_input_tokens = count,
        "cache_read_input_tokens" => usage.cache_read_input_tokens = count,
        // Names that are not known any more are left out.
        _ => {}
    }
    Ok(())
}

fn tokens(usage: &TokenUsage) -> [(&'static str, u64); 4] {
    let TokenUsage {
        input_tokens,
        output_tokens,
        cache_creation_input_tokens,
        cache_read_input_tokens,
    } = *usage;
    [
        ("input_tokens", input_tokens),
        ("output_tokens", output_tokens),
        ("cache_creation_input_tokens", cache_creation_input_tokens),
        ("cache_read_input_tokens", cache_read_input_tokens),
    ]
}
