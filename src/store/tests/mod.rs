//! What every store does, tried on each of them; and what only a file can promise.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use super::*;
use crate::{
    counters::{Spent, Today},
    domain::{acquired::Acquired, grants::Grants, options::Options, usage::TokenUsage},
    tasks::Tasks,
};

fn key(tenant: &str, session: &str) -> SessionKey {
    let tenant = TenantId::parse(tenant).expect("a name");
    SessionKey::new(tenant, SessionId::parse(session).expect("a name"))
}

fn record(conversation: CliSessionId, used: u64) -> Record {
    Record {
        cli_session_id: conversation,
        options: Options {
            model: Some("opus".into()),
            max_budget_usd: Some(1.5),
            ..Options::default()
        },
        acquired: Acquired {
            mode: Some("plan".into()),
            grants: Grants { deny: vec!["Write".into()], ..Grants::default() },
            ..Acquired::default()
        },
        create_time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        last_used_time: UNIX_EPOCH + Duration::from_secs(used),
        age: Duration::ZERO,
        unused_for: Duration::ZERO,
        message_count: 3,
        error_count: 1,
        spent: Spent {
            cost_usd: 0.25,
            usage: TokenUsage { input_tokens: u64::from(u32::MAX) + 7, ..TokenUsage::default() },
        },
        reported_cost_usd: 0.125,
        in_pool: true,
        epoch: Epoch::NONE,
    }
}

fn line(conversation: CliSessionId, subpath: &str, uuid: Option<&str>, json: &str) -> Line {
    Line { conversation, subpath: subpath.into(), uuid: uuid.map(str::to_owned), json: json.into() }
}

fn commit(key: &SessionKey, record: Record, lines: Vec<Line>) -> Commit {
    let lines = Arc::new(lines);
    let (key, epoch, releases) = (key.clone(), Epoch::NONE, false);
    Commit { key, epoch, releases, record, turn: None, lines, totals: Totals::default() }
}

mod begun;
mod counts;
mod faults;
mod growth;
mod imports;
mod lives;
mod named_turns;
mod owners;
mod postgres;
mod shared;

#[path = "../../../tests/support/cutting_proxy.rs"]
mod cutting_proxy;
#[path = "../../../tests/support/ports.rs"]
mod ports;
#[path = "../../../tests/support/postgres.rs"]
mod server;

use server::{Bouncer, Server};

/// All lines of a conversation.
async fn transcript(
    store: &dyn Store,
    tenant: &TenantId,
    id: CliSessionId,
) -> Result<Vec<Line>, StoreError> {
    let mut piece = store.piece(tenant, id, None).await?;
    let mut lines = piece.lines;
    while let Some(next) = piece.next {
        piece = store.piece(tenant, id, Some(next)).await?;
        lines.append(&mut piece.lines);
    }
    Ok(lines)
}

async fn open(file: &Path) -> Result<SqlStore, StoreError> {
    SqlStore::open(file, Opening::default(), &Tasks::default()).await
}

/// What is kept of a session, as of no particular moment.
async fn kept(store: &dyn Store, key: &SessionKey) -> Option<Record> {
    let record = store.load(key).await.expect("read");
    let (age, unused_for, epoch) = (Duration::ZERO, Duration::ZERO, Epoch::NONE);
    record.map(|record| Record { age, unused_for, epoch, ..record })
}

/// Runs a test on a store of each kind.
async fn on_each(test: impl AsyncFn(&dyn Store)) {
    test(&MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("db")).await.expect("open");
    test(&store).await;
    let Some(server) = Server::shared() else { return };
    let store = postgres::open(&server.url().await, "a", Duration::ZERO).await;
    test(&store).await;
    let Some(bouncer) = Bouncer::shared() else { return };
    let url = Server::url_by(&bouncer.address(), &server.database().await);
    test(&postgres::open(&url, "a", Duration::ZERO).await).await;
}

#[tokio::test]
async fn a_session_is_kept_as_it_was_until_it_is_forgotten() {
    on_each(async |store| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        assert_eq!(store.load(&mine).await, Ok(None));
        store.commit(commit(&mine, record(id, 5), vec![])).await.expect("kept");
        assert_eq!(kept(store, &mine).await, Some(record(id, 5)));
        assert_eq!(store.load(&key("b", "s")).await, Ok(None), "another tenant's");
        store.commit(commit(&mine, record(id, 6), vec![])).await.expect("kept");
        assert_eq!(kept(store, &mine).await, Some(record(id, 6)));
        assert_eq!(store.forget(&mine, Instant::now()).await, Ok(Some(vec![id])));
        assert_eq!(store.load(&mine).await, Ok(None));
        assert_eq!(store.forget(&mine, Instant::now()).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn a_transcript_has_its_lines_in_order_and_each_once() {
    on_each(async |store| {
        let (mine, id, other) = (key("a", "s"), CliSessionId::fresh(), CliSessionId::fresh());
        let first = vec![
            line(id, "", Some("1"), "{\"n\":1}"),
            line(id, "", None, "{\"note\":0}"),
            line(other, "", Some("1"), "{\"other\":1}"),
            line(id, "subagents/agent-x.jsonl", Some("1"), "{\"sub\":1}"),
        ];
        store.commit(commit(&mine, record(id, 1), first)).await.expect("kept");
        let again = vec![
            line(id, "", Some("1"), "{\"n\":1}"),
            line(id, "", Some("2"), "{\"n\":2}"),
            line(id, "", None, "{\"note\":0}"),
        ];
        store.commit(commit(&mine, record(id, 2), again)).await.expect("kept");
        let lines = transcript(store, &mine.tenant, id).await.expect("read");
        let texts: Vec<&str> = lines.iter().map(|line| line.json.as_str()).collect();
        assert_eq!(
            texts,
            ["{\"n\":1}", "{\"note\":0}", "{\"sub\":1}", "{\"n\":2}", "{\"note\":0}"]
        );
        let foreign = transcript(store, &key("b", "s").tenant, id).await;
        assert_eq!(foreign, Ok(vec![]), "another tenant's");
    })
    .await;
}

#[tokio::test]
async fn e1_nobody_has_or_adds_to_a_conversation_of_another_session() {
    on_each(async |store| {
        let (one, two, id) = (key("a", "1"), key("a", "2"), CliSessionId::fresh());
        store.commit(commit(&one, record(id, 1), vec![])).await.expect("kept");
        let forged = commit(&two, record(id, 1), vec![line(id, "", Some("1"), "{}")]);
        let refused = store.commit(forged).await;
        let refused = refused.expect_err("another's");
        assert!(refused.to_string().contains("another session"));
        let owner = Some(one.session.clone());
        assert_eq!(refused, StoreError::Conflict { conversation: id, owner });
        assert_eq!(store.other_owner(&two, id).await, Ok(Some(one.session.clone())));
        assert_eq!(store.other_owner(&one, id).await, Ok(None), "it is its own");
        assert_eq!(store.other_owner(&key("b", "2"), id).await, Ok(None), "another tenant's");
        assert_eq!(store.load(&two).await, Ok(None));
        let (own, aside) = (CliSessionId::fresh(), CliSessionId::fresh());
        let lines = [own, id, aside].map(|it| line(it, "", Some("1"), "{}")).into();
        store.commit(commit(&two, record(own, 1), lines)).await.expect("kept");
        assert_eq!(transcript(store, &one.tenant, id).await, Ok(vec![]));
        assert_eq!(transcript(store, &one.tenant, own).await.expect("read").len(), 1);
        let mut gone =
            store.forget(&two, Instant::now()).await.expect("forgotten").expect("it was there");
        gone.sort_by_key(ToString::to_string);
        let mut both = vec![own, aside];
        both.sort_by_key(ToString::to_string);
        assert_eq!(gone, both, "what it said aside goes with it");
        assert_eq!(transcript(store, &one.tenant, aside).await, Ok(vec![]));
        assert_eq!(store.forget(&one, Instant::now()).await, Ok(Some(vec![id])));
    })
    .await;
}

#[tokio::test]
async fn e1_every_conversation_that_a_session_ever_had_stays_its_own() {
    on_each(async |store| {
        let (one, two) = (key("a", "1"), key("a", "2"));
        let (first, second) = (CliSessionId::fresh(), CliSessionId::fresh());
        let said = vec![line(first, "", Some("1"), "{}")];
        store.commit(commit(&one, record(first, 1), said)).await.expect("kept");
        store.commit(commit(&one, record(second, 2), vec![])).await.expect("kept");
        assert_eq!(store.leave_pool(&one, Duration::ZERO).await, Ok(true));
        for id in [first, second] {
            assert_eq!(store.other_owner(&two, id).await, Ok(Some(one.session.clone())));
            store.commit(commit(&two, record(id, 3), vec![])).await.expect_err("another's");
        }
        assert_eq!(store.load(&two).await, Ok(None), "nothing of it took effect");
        store.commit(commit(&one, record(first, 4), vec![])).await.expect("its own again");
        let mut gone =
            store.forget(&one, Instant::now()).await.expect("forgotten").expect("it was there");
        gone.sort_by_key(ToString::to_string);
        let mut both = vec![first, second];
        both.sort_by_key(ToString::to_string);
        assert_eq!(gone, both);
        store.commit(commit(&two, record(first, 5), vec![])).await.expect("nobody's any more");
    })
    .await;
}

#[tokio::test]
async fn e4_named_turns_are_kept_within_bounds_and_go_with_their_session() {
    on_each(async |store| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        let now = std::time::SystemTime::now();
        let name = |n: usize| TurnId::parse(&format!("t{n}")).expect("a name");
        let turn = |n: usize, bytes: usize| KeptTurn {
            turn_id: name(n),
            client_id: crate::domain::ids::ClientId::fresh(),
            cli_session_id: id,
            start_time: now,
            end_time: now + Duration::from_millis(n as u64),
            expire_time: now + Duration::from_secs(3600),
            ending: KeptEnding::Complete,
            result: "x".repeat(bytes).into(),
        };
        let keep = async |turn: KeptTurn| {
            let commit = Commit { turn: Some(turn), ..commit(&mine, record(id, 1), vec![]) };
            store.commit(commit).await.expect("kept");
        };
        keep(turn(0, 3)).await;
        let found = store.turn(&mine, &name(0)).await.expect("read").expect("kept");
        assert_eq!((&*found.result, found.cli_session_id), ("xxx", id));
        assert_eq!(store.turn(&key("a", "other"), &name(0)).await, Ok(None));
        assert_eq!(store.turn(&key("b", "s"), &name(0)).await, Ok(None), "another tenant's");
        for ending in [KeptEnding::Interrupted, KeptEnding::Unstructured, KeptEnding::Complete] {
            keep(KeptTurn { ending, ..turn(0, 3) }).await;
            let found = store.turn(&mine, &name(0)).await.expect("read").expect("kept");
            assert_eq!(found.ending, ending);
        }
        // Results give way to newer ones, names only after many.
        for n in 1..=4 {
            keep(turn(n, 1 << 20)).await;
        }
        let result =
            async |n| store.turn(&mine, &name(n)).await.expect("read").map(|it| it.result.len());
        assert_eq!((result(0).await, result(1).await), (Some(0), Some(1 << 20)));
        for n in 5..=256 {
            keep(turn(n, 1)).await;
        }
        assert_eq!((result(0).await, result(1).await), (None, Some(0)));
        let past = KeptTurn { expire_time: now, ..turn(257, 1) };
        keep(past).await;
        assert_eq!(result(257).await, None, "past its time");
        store.forget(&mine, Instant::now()).await.expect("forgotten");
        assert_eq!(result(256).await, None);
    })
    .await;
}

#[tokio::test]
async fn sessions_are_listed_by_name_and_found_by_age() {
    on_each(async |store| {
        for (tenant, session, used) in
            [("a", "2", 20), ("a", "1", 30), ("a", "3", 10), ("b", "0", 1)]
        {
            let unused_for = Duration::from_secs(1000 - used);
            let record = Record { unused_for, ..record(CliSessionId::fresh(), used) };
            let key = key(tenant, session);
            store.commit(commit(&key, record, vec![])).await.expect("kept");
        }
        let tenant = key("a", "x").tenant;
        let names = |page: Vec<(SessionId, Record)>| -> Vec<String> {
            page.into_iter().map(|(id, _)| id.to_string()).collect()
        };
        assert_eq!(names(store.list(&tenant, None, 2).await.expect("read")), ["1", "2"]);
        let after = SessionId::parse("2").expect("a name");
        assert_eq!(names(store.list(&tenant, Some(&after), 2).await.expect("read")), ["3"]);
        let left = key("a", "1");
        let used_since = Duration::from_secs(2000);
        assert_eq!(store.leave_pool(&left, used_since).await, Ok(false), "it was used since");
        assert_eq!(store.leave_pool(&left, Duration::ZERO).await, Ok(true));
        assert_eq!(store.leave_pool(&left, Duration::ZERO).await, Ok(false), "it has left");
        assert_eq!(names(store.list(&tenant, None, 9).await.expect("read")), ["2", "3"]);
        assert!(store.load(&left).await.expect("read").is_some_and(|record| !record.in_pool));
        let in_pool = store.in_pool().await.expect("read");
        assert_eq!(BTreeMap::from_iter(in_pool), [(tenant, 2), (key("b", "0").tenant, 1)].into());
        let mut idle = store.idle(Duration::from_secs(500), None, 2).await.expect("read");
        let next = store.idle(Duration::from_secs(500), idle.last(), 2).await.expect("read");
        assert_eq!(next.len(), 1, "the rest");
        idle.extend(next);
        let idle: Vec<_> = idle.into_iter().map(|idle| idle.key).collect();
        assert_eq!(idle, [key("b", "0"), key("a", "3"), key("a", "2")], "the oldest first");
        assert_eq!(store.idle(Duration::from_secs(2000), None, 9).await, Ok(vec![]));
        let mut old = store.unused_for(Duration::from_secs(985), 10).await.expect("read");
        old.sort();
        assert_eq!(old, [key("a", "3"), key("b", "0")]);
    })
    .await;
}

#[tokio::test]
async fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let mut totals = Totals::default();
    totals.counts.insert("turns".into(), 7);
    {
        let store = open(&file).await.expect("open");
        let said = vec![line(id, "", Some("1"), "{\"said\":\"é\"}")];
        let commit = Commit { totals: totals.clone(), ..commit(&mine, record(id, 1), said) };
        store.commit(commit).await.expect("kept");
        // Dropped as a killed service drops it: nothing is closed in order.
    }
    let store = open(&file).await.expect("open");
    assert_eq!(kept(&store, &mine).await, Some(record(id, 1)));
    assert_eq!(
        transcript(&store, &mine.tenant, id).await.expect("read")[0].json,
        "{\"said\":\"é\"}"
    );
    assert_eq!(store.totals().await, Ok(vec![(mine.tenant, totals)]));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else reads it");
}

#[tokio::test]
async fn many_who_commit_at_once_are_all_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("db")).await.expect("open");
    let store = std::sync::Arc::new(store);
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..300 {
        let store = std::sync::Arc::clone(&store);
        commits.spawn(async move {
            let (key, id) = (key("a", &format!("s{number}")), CliSessionId::fresh());
            let said = vec![line(id, "", Some("1"), "{}")];
            store.commit(commit(&key, record(id, 1), said)).await.expect("kept");
            transcript(&*store, &key.tenant, id).await.expect("read").len()
        });
    }
    assert_eq!(commits.join_all().await, vec![1; 300]);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    std::fs::write(&file, "this is a text and no database at all, whatever its name".repeat(20))
        .expect("written");
    let error = open(&file).await.expect_err("refused");
    assert!(error.to_string().contains("not a database"), "{error}");
}

#[tokio::test]
async fn an_older_count_does_not_replace_a_newer_one() {
    on_each(async |store| {
        let tenant = TenantId::default();
        let totals = |turns: u64, cost_usd: f64| Totals {
            counts: [("turns".to_owned(), turns)].into(),
            today: Today { day: 20_000, cost_usd },
            ..Totals::default()
        };
        store.count(&tenant, totals(2, 0.5)).await.expect("kept");
        store.count(&tenant, totals(1, 0.25)).await.expect("kept");
        assert_eq!(store.totals().await.expect("read"), [(tenant, totals(2, 0.5))]);
    })
    .await;
}
