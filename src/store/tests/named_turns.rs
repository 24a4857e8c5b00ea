//! What nodes that share PostgreSQL keep of turns that their callers named.

use std::time::SystemTime;

use super::{postgres::open, *};
use crate::domain::ids::ClientId;

const LONG: Duration = Duration::from_secs(600);

/// How long turns are kept.
const RETENTION: Duration = Duration::from_secs(3600);

/// A turn that has ended then, by its node's own clock.
fn turn(id: CliSessionId, result: &str, ended: SystemTime) -> KeptTurn {
    KeptTurn {
        turn_id: TurnId::parse("t").expect("a name"),
        client_id: ClientId::fresh(),
        cli_session_id: id,
        start_time: ended,
        end_time: ended,
        expire_time: ended + RETENTION,
        ending: KeptEnding::Complete,
        result: result.into(),
    }
}

/// A commit of a turn by this claim.
fn by(mine: &SessionKey, epoch: Epoch, turn: KeptTurn) -> Commit {
    let id = turn.cli_session_id;
    let lines = vec![line(id, "", None, &turn.result)];
    Commit { epoch, turn: Some(turn), ..commit(mine, record(id, 1), lines) }
}

async fn result(store: &dyn Store, mine: &SessionKey) -> Option<String> {
    let name = TurnId::parse("t").expect("a name");
    store.turn(mine, &name).await.expect("read").map(|kept| kept.result.to_string())
}

#[tokio::test]
async fn of_two_runs_of_a_turn_the_first_is_kept() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    // Whoever claims takes over.
    let one = open(&url, "one", Duration::ZERO).await;
    let two = open(&url, "two", Duration::ZERO).await;
    let (mine, id, now) = (key("a", "s"), CliSessionId::fresh(), SystemTime::now());
    let first = turn(id, "first", now);
    one.commit(by(&mine, Epoch::NONE, first.clone())).await.expect("made");
    let second = two.claim(&mine).await.expect("taken over");
    // It had asked for the name before, when nobody had it.
    let again = two.commit(by(&mine, second, turn(id, "second", now))).await;
    assert!(matches!(again, Err(StoreError::Fenced { .. })), "{again:?}");
    assert_eq!(result(&two, &mine).await.as_deref(), Some("first"));
    let lines = transcript(&two, &mine.tenant, id).await.expect("read");
    assert_eq!(lines.len(), 1, "nothing of the second run is kept: {lines:?}");
    two.commit(by(&mine, second, first)).await.expect("the same, whose answer was lost");
}

#[tokio::test]
async fn how_long_a_turn_is_known_is_not_a_matter_of_a_nodes_clock() {
    let Some(server) = Server::shared() else { return };
    let one = open(&server.url().await, "one", LONG).await;
    for (session, ended) in [
        ("behind", SystemTime::now() - 2 * RETENTION),
        ("ahead", SystemTime::now() + 2 * RETENTION),
    ] {
        let (mine, id) = (key("a", session), CliSessionId::fresh());
        one.commit(by(&mine, Epoch::NONE, turn(id, session, ended))).await.expect("kept");
        assert_eq!(result(&one, &mine).await.as_deref(), Some(session));
        let name = TurnId::parse("t").expect("a name");
        let kept = one.turn(&mine, &name).await.expect("read").expect("kept");
        let left = kept.expire_time.duration_since(SystemTime::now()).expect("not over");
        assert!(left <= RETENTION, "{left:?}");
    }
}
