//! Transcripts that are taken up and told piece by piece.

use super::*;

fn import(key: &SessionKey, conversation: CliSessionId, part: Part) -> Import {
    Import { key: key.clone(), conversation, part }
}

fn some(id: CliSessionId, texts: &[&str]) -> Part {
    Part::Lines(texts.iter().map(|text| line(id, "", None, text)).collect())
}

async fn texts(store: &dyn Store, key: &SessionKey, id: CliSessionId) -> Vec<String> {
    let lines = transcript(store, &key.tenant, id).await.expect("read");
    lines.into_iter().map(|line| line.json).collect()
}

#[tokio::test]
async fn a6_what_is_taken_up_is_seen_whole_and_with_the_sessions_commit() {
    on_each(async |store| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        for part in [Part::Begin, some(id, &["1", "2"]), some(id, &["3"])] {
            store.import(import(&mine, id, part)).await.expect("kept");
            assert_eq!(texts(store, &mine, id).await, [""; 0], "it is not whole");
        }
        store.import(import(&mine, id, Part::End)).await.expect("kept");
        assert_eq!(texts(store, &mine, id).await, [""; 0], "it is nobody's yet");
        let said = vec![line(id, "", None, "4")];
        store.commit(commit(&mine, record(id, 1), said)).await.expect("kept");
        assert_eq!(texts(store, &mine, id).await, ["1", "2", "3", "4"]);
        store.give_up_import(&mine.tenant, id).await.expect("there is none");
        assert_eq!(texts(store, &mine, id).await.len(), 4, "what a session has stays");
    })
    .await;
}

#[tokio::test]
async fn a6_what_was_given_up_leaves_nothing() {
    on_each(async |store| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        for part in [Part::Begin, some(id, &["1", "2"]), Part::End] {
            store.import(import(&mine, id, part)).await.expect("kept");
        }
        store.give_up_import(&mine.tenant, id).await.expect("removed");
        store
            .commit(commit(&mine, record(id, 1), vec![line(id, "", None, "3")]))
            .await
            .expect("kept");
        assert_eq!(texts(store, &mine, id).await, ["3"]);
    })
    .await;
}

#[tokio::test]
async fn a6_a_commit_in_between_shows_no_part_of_it() {
    on_each(async |store| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        for part in [Part::Begin, some(id, &["1"])] {
            store.import(import(&mine, id, part)).await.expect("kept");
        }
        store.commit(commit(&mine, record(id, 1), vec![])).await.expect("kept");
        assert_eq!(texts(store, &mine, id).await, [""; 0]);
        let other = store.import(import(&key("a", "t"), id, Part::Begin)).await;
        let owned = StoreError::Conflict { conversation: id, owner: Some(mine.session) };
        assert_eq!(other, Err(owned), "it has a session by now");
    })
    .await;
}

#[tokio::test]
async fn a6_what_an_earlier_life_did_not_finish_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let (mine, id, other) = (key("a", "s"), CliSessionId::fresh(), CliSessionId::fresh());
    let store = open(&file).await.expect("open");
    let kept = commit(&mine, record(other, 1), vec![line(other, "", None, "kept")]);
    store.commit(kept).await.expect("kept");
    let large = "x".repeat(700_000);
    for part in [Part::Begin, some(id, &[&large, &large]), some(id, &["3"])] {
        store.import(import(&mine, id, part)).await.expect("kept");
    }
    drop(store);
    let store = open(&file).await.expect("open");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).read_only(true);
    let mut reader = sqlx::ConnectOptions::connect(&options).await.expect("opened");
    let left = loop {
        let left: Vec<String> = sqlx::query_scalar("SELECT line FROM entries")
            .fetch_all(&mut reader)
            .await
            .expect("read");
        if left.len() == 1 {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(left, ["kept"]);
    store.import(import(&mine, id, Part::Begin)).await.expect("it can be taken up again");
}

#[tokio::test]
async fn a6_a_conversation_is_told_in_pieces_and_as_it_was_when_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("db")).await.expect("open");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let said = |from: u64, to: u64| {
        (10 + from..10 + to)
            .map(|number| line(id, "", None, &number.to_string().repeat(100_000)))
            .collect()
    };
    store.commit(commit(&mine, record(id, 1), said(0, 30))).await.expect("kept");
    let huge = vec![line(id, "", None, &"x".repeat(3 << 20))];
    store.commit(commit(&mine, record(id, 1), huge)).await.expect("kept");
    let mut piece = store.piece(&mine.tenant, id, None).await.expect("read");
    store.commit(commit(&mine, record(id, 1), said(30, 40))).await.expect("kept");
    let (mut count, mut pieces) = (0, 0);
    loop {
        let bytes: usize = piece.lines.iter().map(|line| line.json.len()).sum();
        assert!(bytes <= 1 << 20 || piece.lines.len() == 1, "{bytes} at once");
        count += piece.lines.len();
        pieces += 1;
        let Some(next) = piece.next else { break };
        piece = store.piece(&mine.tenant, id, Some(next)).await.expect("read");
    }
    assert_eq!((count, pieces), (31, 7), "five at a time, and the huge one");
}
