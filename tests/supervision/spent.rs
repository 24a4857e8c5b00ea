//! What sessions have spent, over lives of their processes and of the service: with the API gateway
//! it is what the API has counted, and budgets are held to it. On the real CLI.

use session_pool::proto::{
    CloseSessionRequest, GetSessionRequest, GetStatsRequest, QueryRequest, SessionOptions,
};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    bed::executable,
    stand_in::StandIn,
    support::{daemon::Daemon, failure, service::query_with},
};

/// In US dollars: ten thousand tokens in and a thousand out, of claude-haiku-4-5.
const OF_A_TURN: f64 = 0.015;

struct Bed {
    api: StandIn,
    daemon: Daemon,
    settings: Vec<(String, String)>,
    _key: TempDir,
}

impl Bed {
    async fn start(mode: &str, version: &str) -> Self {
        let api = StandIn::start().await.expect("a stand-in");
        let key = TempDir::new().expect("a folder");
        let file = key.path().join("key");
        std::fs::write(&file, "sk-ant-the-real-one").expect("written");
        let settings = [
            ("CLI__SANDBOX", mode.to_owned()),
            ("CLI__PATH", executable(version).display().to_string()),
            ("GATEWAY__UPSTREAM", api.url()),
            ("GATEWAY__API_KEY_FILE", file.display().to_string()),
            ("POOL__CONNECT_TIMEOUT", "120s".to_owned()),
            ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "60s".to_owned()),
            ("POOL__STREAM_ONGOING_TIMEOUT", "120s".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let daemon = Daemon::start(&borrowed(&settings)).await;
        Self { api, daemon, settings, _key: key }
    }

    /// Kills the service, and starts it where it was.
    async fn killed(self) -> Self {
        let state = self.daemon.killed().await;
        let daemon = Daemon::start_in(state, &borrowed(&self.settings)).await;
        Self { daemon, ..self }
    }

    async fn turn(&self, session: &str) {
        let mut turn = self.daemon.open(request(session)).await;
        turn.finish().await;
        assert!(!turn.result().is_error, "{:?}", turn.result());
    }

    async fn spent(&self, session: &str) -> f64 {
        let request = GetSessionRequest { session_id: session.into() };
        let found = self.daemon.client.clone().get_session(request).await.expect("it is known");
        found.into_inner().session.expect("a session").total_cost_usd
    }

    async fn spent_by_all(&self) -> f64 {
        let stats = self.daemon.client.clone().get_stats(GetStatsRequest::default()).await;
        stats.expect("answered").into_inner().total_cost_usd
    }

    async fn close(&self, session: &str) {
        let request = CloseSessionRequest { session_id: session.into(), forget: false };
        self.daemon.client.clone().close_session(request).await.expect("closed");
    }

    /// Requests that the API has answered.
    fn answered(&self) -> usize {
        self.api.requests().iter().filter(|it| it.path == "/v1/messages").count()
    }
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn request(session: &str) -> QueryRequest {
    let options = SessionOptions {
        model: Some("claude-haiku-4-5".into()),
        max_budget_usd: Some(4.5 * OF_A_TURN),
        ..SessionOptions::default()
    };
    query_with(session, "[[usage input 10000 output 1000]][[say ok]]", options)
}

fn assert_close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-9, "{found} and not {wanted}");
}

#[tokio::test]
async fn what_was_spent_adds_up_over_all_lives_and_the_budget_is_held_to_it() {
    for (mode, version) in [("bubblewrap", "2.1.197"), ("process-tree", "2.1.332")] {
        let mut bed = Bed::start(mode, version).await;
        bed.turn("a").await;
        bed.turn("b").await;
        // Another process of the session, and another life of the service, twice.
        bed.close("a").await;
        bed.turn("a").await;
        for turns in 3..=4 {
            bed = bed.killed().await;
            bed.turn("a").await;
            assert_eq!(bed.answered(), turns + 1, "a turn is one request");
            assert_close(bed.spent("a").await, turns as f64 * OF_A_TURN);
            assert_close(bed.spent_by_all().await, (turns as f64 + 1.0) * OF_A_TURN);
        }
        // The next one begins within the budget and ends over it.
        let mut last = bed.daemon.open(request("a")).await;
        last.finish().await;
        bed = bed.killed().await;
        let mut refused = bed.daemon.open(request("a")).await;
        refused.finish().await;
        failure(refused.error(), Code::FailedPrecondition, "BUDGET_EXHAUSTED");
        assert_close(bed.spent("a").await, 5.0 * OF_A_TURN);
        assert_eq!(bed.answered(), 6, "nothing was asked for");
        drop(bed.daemon.killed().await);
        bed.api.shutdown().await.ok();
    }
}
