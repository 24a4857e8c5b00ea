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

use super::{
    StoreError,
    columns::{bad, json, signed, tenant},
    statements::{Cells, Statements, Value},
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

/// Days by which clocks may differ.
const LATELY: i64 = 7;
/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

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
    /// The number of the last state.
    stamp: i64,
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
        connection: &mut impl Statements,
        writer: &str,
        observed_ms: i64,
    ) -> Result<(), StoreError> {
        for tenant in self.due.clone() {
            let Some(state) = self.state(&tenant, observed_ms) else { continue };
            state.keep(connection, writer, &tenant).await?;
        }
        Ok(())
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self) {
        self.placed.extend(mem::take(&mut self.due));
    }

    /// What a tenant has counted by now. States are numbered in the order in which they were
    /// taken: one that comes late to the database changes nothing.
    pub(super) fn state(&mut self, tenant: &TenantId, observed_ms: i64) -> Option<State> {
        self.stamp = observed_ms.max(self.stamp.saturating_add(1));
        let totals = self.totals.get(tenant)?.clone();
        Some(State { totals, stamp: self.stamp, is_placed: self.placed.contains(tenant) })
    }

    /// A state of the tenant's was committed.
    pub(super) fn placed(&mut self, tenant: &TenantId) {
        self.placed.insert(tenant.clone());
        self.due.remove(tenant);
    }
}

/// What a tenant had counted at some time.
#[derive(Debug)]
pub(super) struct State {
    totals: Totals,
    stamp: i64,
    is_placed: bool,
}

impl State {
    /// Writes it, unless a later one is there.
    pub(super) async fn keep(
        &self,
        connection: &mut impl Statements,
        writer: &str,
        tenant: &TenantId,
    ) -> Result<(), StoreError> {
        if !self.is_placed {
            fold_oldest(connection, writer, tenant).await?;
        }
        let totals = json(serde_json::to_string(&self.totals))?;
        let written = connection.run(
            "INSERT INTO counted (tenant, writer, observed_ms, totals) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, writer) DO UPDATE SET observed_ms = excluded.observed_ms, \
             totals = excluded.totals WHERE counted.observed_ms < excluded.observed_ms",
            &[tenant.as_str().into(), writer.into(), self.stamp.into(), (&totals).into()],
        );
        written.await?;
        Ok(())
    }
}

/// Makes room for one more: what the oldest lives counted is added to what all earlier ones did.
async fn fold_oldest(
    connection: &mut impl Statements,
    writer: &str,
    tenant: &TenantId,
) -> Result<(), StoreError> {
    let oldest = connection.rows(
        "DELETE FROM counted WHERE tenant = $1 AND writer <> $2 AND writer NOT IN \
         (SELECT writer FROM counted WHERE tenant = $1 AND writer <> $2 \
         ORDER BY observed_ms DESC, writer LIMIT $3) RETURNING totals",
        &[tenant.as_str().into(), writer.into(), (WRITERS - 1).into()],
    );
    for row in &oldest.await? {
        let totals = parsed(row)?;
        add_counts(connection, tenant, &totals).await?;
        add_costs(connection, tenant, &totals).await?;
    }
    Ok(())
}

fn parsed(row: &impl Cells) -> Result<Totals, StoreError> {
    serde_json::from_str(row.text("totals")?).map_err(|_| bad("counted"))
}

async fn add_counts(
    connection: &mut impl Statements,
    tenant: &TenantId,
    more: &Totals,
) -> Result<(), StoreError> {
    let tokens = tokens(&more.spent.usage).map(|(name, count)| (format!("{USAGE}{name}"), count));
    let counts = more.counts.iter().map(|(name, count)| (name.clone(), *count));
    for (name, count) in counts.chain(tokens).filter(|(_, count)| *count > 0) {
        let added = connection.run(
            "INSERT INTO counts (tenant, name, count) VALUES ($1, $2, $3) \
             ON CONFLICT (tenant, name) DO UPDATE SET count = counts.count + excluded.count",
            &[tenant.as_str().into(), (&name).into(), signed(count).into()],
        );
        added.await?;
    }
    Ok(())
}

async fn add_costs(
    connection: &mut impl Statements,
    tenant: &TenantId,
    more: &Totals,
) -> Result<(), StoreError> {
    let (tenant, today): (Value<'_>, i64) = (tenant.as_str().into(), signed(more.today.day));
    for (day, cost_usd) in [(ALL_DAYS, more.spent.cost_usd), (today, more.today.cost_usd)] {
        if cost_usd > 0.0 {
            let added = connection.run(
                "INSERT INTO costs (tenant, day, cost_usd) VALUES ($1, $2, $3) \
                 ON CONFLICT (tenant, day) DO UPDATE SET cost_usd = costs.cost_usd + excluded.cost_usd",
                &[tenant, day.into(), cost_usd.into()],
            );
            added.await?;
        }
    }
    let past = "DELETE FROM costs WHERE tenant = $1 AND day >= 0 AND day < $2";
    connection.run(past, &[tenant, today.into()]).await?;
    Ok(())
}

/// What was counted for each tenant, by all services.
pub(super) async fn read(
    connection: &mut impl Statements,
) -> Result<Vec<(TenantId, Totals)>, StoreError> {
    read_but(connection, None, &[]).await
}

/// What was counted for one tenant or for each, by all services but those that count under
/// these names.
/// All tables have to be seen in one state: a row may be on its way from one to the others.
pub(super) async fn read_but(
    connection: &mut impl Statements,
    whose: Option<&TenantId>,
    but_by: &[String],
) -> Result<Vec<(TenantId, Totals)>, StoreError> {
    // No tenant has an empty name.
    let whose: [Value<'_>; 1] = [whose.map_or("", TenantId::as_str).into()];
    let counts = "SELECT tenant, name, count FROM counts WHERE $1 = '' OR tenant = $1";
    let counts = connection.rows(counts, &whose).await?;
    let costs = "SELECT tenant, day, cost_usd FROM costs WHERE $1 = '' OR tenant = $1 ORDER BY day";
    let costs = connection.rows(costs, &whose).await?;
    let lives = "SELECT tenant, writer, totals FROM counted WHERE $1 = '' OR tenant = $1";
    let lives = connection.rows(lives, &whose).await?;
    let mut totals = BTreeMap::<TenantId, Totals>::new();
    for row in &counts {
        note_count(totals.entry(tenant(row)?).or_default(), row)?;
    }
    for row in &costs {
        let totals = totals.entry(tenant(row)?).or_default();
        let (day, cost_usd): (i64, f64) = (row.number("day")?, row.amount("cost_usd")?);
        match u64::try_from(day) {
            // The last day comes last.
            Ok(day) => totals.today = Today { day, cost_usd },
            Err(_) => totals.spent.cost_usd = cost_usd,
        }
    }
    for row in &lives {
        let writer = row.text("writer")?;
        if !but_by.iter().any(|name| name == writer) {
            totals.entry(tenant(row)?).or_default().add(&parsed(row)?);
        }
    }
    Ok(totals.into_iter().collect())
}

/// What all lives but one have spent of a tenant's on a day, in US dollars. Of a store whose clock
/// counts since 1970.
pub(super) async fn spent_on(
    connection: &mut impl Statements,
    tenant: &TenantId,
    day: u64,
    but_by: &str,
) -> Result<f64, StoreError> {
    let (tenant, day): (Value<'_>, i64) = (tenant.as_str().into(), signed(day));
    let folded = connection
        .row("SELECT cost_usd FROM costs WHERE tenant = $1 AND day = $2", &[tenant, day.into()]);
    let mut spent = folded.await?.map_or(Ok(0.0), |row| row.amount("cost_usd"))?;
    // Whoever has spent something today has counted lately, however wrong its clock is.
    let since_ms = day.saturating_sub(LATELY).saturating_mul(DAY_MS);
    let lives = connection.rows(
        "SELECT totals FROM counted WHERE tenant = $1 AND writer <> $2 AND observed_ms >= $3",
        &[tenant, but_by.into(), since_ms.into()],
    );
    for row in &lives.await? {
        let Today { day: their_day, cost_usd } = parsed(row)?.today;
        if signed(their_day) == day {
            spent += cost_usd;
        }
    }
    Ok(spent)
}

fn note_count(totals: &mut Totals, row: &impl Cells) -> Result<(), StoreError> {
    let name = row.text("name")?;
    let count = u64::try_from(row.number("count")?).map_err(|_| bad("count"))?;
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
