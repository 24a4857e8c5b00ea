//! What a statement costs does not grow with what is stored beside what it is about, by the steps that
//! SQLite counts: its planner may take an index that fits less well than it looks.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{ConnectOptions as _, SqliteConnection};

use super::*;
use crate::store::{idle, import, keeping, opening, orders, owner, pieces, queries, turns};

/// Rows of each table, beside those of the session that is looked at.
const FEW: i64 = 50;
const MANY: i64 = 20_000;

/// A connection, and how many steps its statements have taken.
struct Metered {
    connection: SqliteConnection,
    steps: Arc<AtomicU64>,
    told: BTreeMap<&'static str, u64>,
}

impl Metered {
    async fn open(file: &Path) -> Self {
        let mut connection = opening::options(file).connect().await.expect("open");
        let steps = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&steps);
        let mut handle = connection.lock_handle().await.expect("a handle");
        handle.set_progress_handler(1, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        });
        drop(handle);
        Self { connection, steps, told: BTreeMap::new() }
    }

    async fn note(
        &mut self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), StoreError>,
    ) {
        let before = self.steps.load(Ordering::Relaxed);
        work(&mut self.connection).await.expect(what);
        self.told.insert(what, self.steps.load(Ordering::Relaxed) - before);
    }

    /// Sessions, each with a conversation, a line of it and a turn.
    async fn fill(&mut self, first: i64, last: i64) {
        for (table, columns, values) in [
            (
                "sessions",
                "tenant, session_id, cli_session_id, options, created_ms, last_used_ms, message_count, \
                 error_count, spent, reported_cost_usd, in_pool, used_observed_ms",
                "'a', 'f' || i, id, '{}', 1, 1, 1, 0, $spent, 0, i % 2, i",
            ),
            ("conversations", "tenant, session_id, cli_session_id", "'a', 'f' || i, id"),
            (
                "entries",
                "tenant, cli_session_id, seq, subpath, uuid, line",
                "'a', id, 1, '', 'u' || i, '{}'",
            ),
            (
                "turns",
                "tenant, session_id, turn_id, client_id, cli_session_id, started_ms, ended_ms, \
                 expires_ms, interrupted, result",
                "'a', 'f' || i, 't', '', id, 1, 1, 9, 0, ''",
            ),
        ] {
            let sql = format!(
                "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
                 INSERT INTO {table} ({columns}) SELECT {values} \
                 FROM (SELECT i, printf('00000000-0000-4000-8000-%012d', i) AS id FROM n)"
            );
            let spent = serde_json::to_string(&Spent::default()).expect("JSON");
            let sql = sql.replace("$spent", &format!("'{spent}'"));
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(&mut self.connection)
                .await
                .expect("filled");
        }
    }

    /// What is asked of a store, with what each of it took.
    async fn all(&mut self, session: &str) -> BTreeMap<&'static str, u64> {
        let (key, id, by) = (key("a", session), CliSessionId::fresh(), "me");
        let turn = TurnId::parse("t").expect("a name");
        let said = |uuid: &str| {
            let lines = vec![line(id, "", Some(uuid), "{}")];
            Commit { epoch: Epoch(1), ..commit(&key, record(id, 1), lines) }
        };
        let first = Commit { epoch: Epoch::NONE, ..said("1") };
        self.note("a first commit", async |it| keeping::keep(it, &first, by, 5).await?).await;
        let second = said("2");
        self.note("another one", async |it| keeping::keep(it, &second, by, 6).await?).await;
        self.note("a look-up", async |it| queries::load(it, &key, 7).await.map(drop)).await;
        self.note("a turn", async |it| turns::find(it, &key, &turn, 7).await.map(drop)).await;
        self.note("a piece", async |it| pieces::read(it, &key.tenant, id, None).await.map(drop))
            .await;
        self.note("a page", async |it| queries::list(it, &key.tenant, None, 1, 7).await.map(drop))
            .await;
        self.note("unused ones", async |it| queries::unused(it, 1, 1).await.map(drop)).await;
        self.note("sizes", async |it| queries::in_pool(it).await.map(drop)).await;
        self.note("idle ones", async |it| idle::list(it, 1, None, 1).await.map(drop)).await;
        self.note("another owner", async |it| import::other_owner(it, &key, id).await.map(drop))
            .await;
        self.note("an unfinished one", async |it| {
            pieces::next(it, &("a".to_owned(), "b".to_owned())).await.map(drop)
        })
        .await;
        let taken_up = CliSessionId::fresh();
        let lines = vec![line(taken_up, "", Some("3"), "{}")];
        for (what, part) in [("a take-up", Part::Begin), ("its lines", Part::Lines(lines))] {
            let import = Import { key: key.clone(), conversation: taken_up, part };
            self.note(what, async |it| import::keep(it, &import, by, true).await?).await;
        }
        self.note("giving it up", async |it| {
            import::discard(it, &key.tenant, taken_up).await.map(drop)
        })
        .await;
        self.note("a claim", async |it| owner::claim(it, by, &key).await.map(drop)).await;
        self.note("a release", async |it| owner::release(it, by, &key, Epoch(2)).await.map(drop))
            .await;
        self.note("leaving", async |it| keeping::leave_pool(it, &key, 9).await.map(drop)).await;
        self.note("forgetting", async |it| orders::forget(it, &key).await.map(drop)).await;
        std::mem::take(&mut self.told)
    }
}

#[tokio::test]
async fn no_statement_costs_more_beside_many_sessions_than_beside_few() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sessions.db");
    drop(SqlStore::open(&file, Opening::default(), &Tasks::default()).await.expect("made"));
    let mut metered = Metered::open(&file).await;
    metered.fill(1, FEW).await;
    let few = metered.all("s-few").await;
    metered.fill(FEW + 1, MANY).await;
    let many = metered.all("s-many").await;
    assert!(few.values().all(|steps| *steps > 0), "{few:?}");
    for (what, steps) in many {
        let before = few[what];
        assert!(steps <= before * 2 + 50, "{what}: {before} steps beside few, {steps} beside many");
    }
}
