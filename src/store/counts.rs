//! What was counted, in the database. Each life of a service has a row of its own, which says
//! what it has counted so far and which nobody else writes; the sum of all rows is what was
//! counted. So what is told twice, late, or after a commit whose outcome nobody knows is
//! counted once, and two services add up. A commit writes one row and reads none.
//!
//! The rows of lives that are long over are added to the tables `counts` and `costs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
};

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

/// Lives of services that have a row of a tenant's. Those that counted last do; one that has
/// not for so many others does not count again.
const WRITERS: i64 = 64;

/// The day that stands for all of them.
const ALL_DAYS: i64 = -1;

/// What goes before the names of tokens.
const USAGE: &str = "usage.";

/// What this life of the service has counted for each tenant, as far as the store was told.
/// Only this life writes its rows, so that nothing has to be read before they are written.
#[derive(Debug, Default)]
pub(super) struct Counted {
    totals: HashMap<TenantId, Totals>,
    /// Tenants of whom the database may have an older state.
    due: BTreeSet<TenantId>,
    /// Tenants for whose row room was made.
    placed: HashSet<TenantId>,
}

impl Counted {
    /// Takes note of what was counted, to be written with the transaction that is under way.
    /// If that fails, the next one writes it.
    pub(super) fn note(&mut self, tenant: &TenantId, totals: &Totals) {
        self.totals.entry(tenant.clone()).or_default().raise(totals);
        self.due.insert(tenant.clone());
    }

    /// Writes what the database does not have yet.
    pub(super) async fn keep(
        &mut self,
        connection: &mut SqliteConnection,
        writer: &str,
        observed_ms: i64,
    ) -> Result<(), StoreError> {
        for tenant in &self.due {
            if !self.placed.contains(tenant) {
                fold_oldest(connection, writer, tenant).await?;
            }
            if let Some(totals) = self.totals.get(tenant) {
                write(connection, writer, observed_ms, tenant, totals).await?;
            }
        }
        Ok(())
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self) {
        self.placed.extend(mem::take(&mut self.due));
    }
}

async fn write(
    connection: &mut SqliteConnection,
    writer: &str,
    observed_ms: i64,
    tenant: &TenantId,
    totals: &Totals,
) -> Result<(), StoreError> {
    let text = serde_json::to_string(totals);
    sqlx::query(
        "INSERT INTO counted (tenant, writer, observed_ms, totals) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, writer) DO UPDATE SET observed_ms = excluded.observed_ms, \
         totals = excluded.totals",
    )
    .bind(tenant.as_str())
    .bind(writer)
    .bind(observed_ms)
    .bind(text.map_err(|error| StoreError::Corrupt(error.to_string()))?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes room for one more: what the oldest lives counted is added to what all earlier ones did.
async fn fold_oldest(
    connection: &mut SqliteConnection,
    writer: &str,
    tenant: &TenantId,
) -> Result<(), StoreError> {
    let oldest = sqlx::query(
        "DELETE FROM counted WHERE tenant = $1 AND writer <> $2 AND writer NOT IN \
         (SELECT writer FROM counted WHERE tenant = $1 AND writer <> $2 \
         ORDER BY observed_ms DESC, writer LIMIT $3) RETURNING totals",
    )
    .bind(tenant.as_str())
    .bind(writer)
    .bind(WRITERS - 1)
    .fetch_all(&mut *connection)
    .await?;
    for row in &oldest {
        let totals = parsed(row)?;
        add_counts(connection, tenant, &totals).await?;
        add_costs(connection, tenant, &totals).await?;
    }
    Ok(())
}

fn parsed(row: &SqliteRow) -> Result<Totals, StoreError> {
    serde_json::from_str(row.try_get("totals")?).map_err(|_| bad("counted"))
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
    let connection = reader.connection();
    // One state of all tables: a row may be on its way from one to the others.
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let counts = sqlx::query("SELECT tenant, name, count FROM counts").fetch_all(&mut *connection);
    let counts = counts.await?;
    let costs = sqlx::query("SELECT tenant, day, cost_usd FROM costs ORDER BY day");
    let costs = costs.fetch_all(&mut *connection).await?;
    let lives = sqlx::query("SELECT tenant, totals FROM counted").fetch_all(&mut *connection);
    let lives = lives.await?;
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
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
    for row in &lives {
        totals.entry(tenant(row)?).or_default().add(&parsed(row)?);
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
