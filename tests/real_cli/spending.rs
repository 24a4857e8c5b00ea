//! What sessions cost and may spend does not depend on how many processes they have had.
//! What a turn has really cost is told by its tokens: the stand-in serves one model, whose
//! price the first turn tells, and what it writes costs five times what it reads.

use std::time::Duration;

use session_pool::proto::{GetSessionRequest, GetStatsRequest, SessionOptions, SessionStatus};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version},
    stand_in::StandIn,
    support::{
        daemon::Daemon,
        eventually, failure,
        service::{query, query_with},
        turn::Turn,
    },
};

each_version!(within LONG:
    e2_five_turns_on_five_processes_cost_five_turns,
    e2_a_budget_runs_out_across_processes,
    e2_a_cleared_conversation_does_not_fill_the_budget_again,
    e2_a_cleared_conversation_goes_on_costing_its_session,
    e2_clis_that_are_killed_lose_no_cost,
    e2_services_that_are_killed_lose_no_cost,
);

/// What turns have cost by their tokens.
#[derive(Default)]
struct Bill {
    /// US dollars for a token that was read.
    price: Option<f64>,
    total: f64,
}

impl Bill {
    /// Adds a turn. The first one is on a process that began at 0, whose sum is its cost.
    #[track_caller]
    fn add(&mut self, turn: &Turn) {
        let result = turn.result();
        assert!(!result.is_error, "{result:?}");
        let usage = result.usage.as_ref().expect("tokens");
        assert_eq!((usage.cache_read_input_tokens, usage.cache_creation_input_tokens), (0, 0));
        let count = |tokens: u64| f64::from(u32::try_from(tokens).expect("a turn's tokens"));
        let tokens = count(usage.input_tokens) + 5.0 * count(usage.output_tokens);
        assert!(tokens > 0.0, "{result:?}");
        self.total += tokens * *self.price.get_or_insert(result.total_cost_usd / tokens);
    }

    #[track_caller]
    fn is(&self, told: f64) {
        assert!(self.total > 0.0 && (told - self.total).abs() < 1e-9, "{told}, not {}", self.total);
    }
}

async fn sleepy(version: Version) -> Bed {
    Bed::with(version, |config| config.pool.hibernate_after = Duration::from_millis(100)).await
}

async fn hibernated(bed: &Bed, session: &str) {
    eventually("hibernation", async || {
        let session = bed.service.session(session).await.expect("in the pool");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
}

async fn told(bed: &Bed, session: &str) -> f64 {
    bed.service.session(session).await.expect("in the pool").total_cost_usd
}

async fn e2_five_turns_on_five_processes_cost_five_turns(version: Version) {
    let bed = sleepy(version).await;
    let mut bill = Bill::default();
    for number in 0..5 {
        bill.add(&bed.query("a", &format!("word {number}")).await);
        bill.is(told(&bed, "a").await);
        bill.is(bed.service.stats().await.total_cost_usd);
        hibernated(&bed, "a").await;
    }
    bed.stop().await;
}

async fn e2_clis_that_are_killed_lose_no_cost(version: Version) {
    let bed = Bed::start(version).await;
    let mut bill = Bill::default();
    bill.add(&bed.query("a", "one").await);
    // It ends in order, and comes back with the sum that it has saved.
    bed.service.close("a", false).await.expect("closed");
    for word in ["two", "three", "four"] {
        let turn = bed.query("a", word).await;
        bill.add(&turn);
        bed.kill_after(&turn).await;
        bill.add(&bed.query("a", "and then").await);
        bill.is(told(&bed, "a").await);
        let turn = bed.query("a", "once more").await;
        bill.add(&turn);
        // Whether it has written anything by now is its own affair.
        bed.kill_now(&turn).await;
        bill.is(told(&bed, "a").await);
    }
    bed.stop().await;
}

async fn e2_services_that_are_killed_lose_no_cost(version: Version) {
    let api = StandIn::start().await.expect("a stand-in");
    let (path, url) = (version.executable().display().to_string(), api.url());
    let settings = [
        ("CLI__PATH", path.as_str()),
        ("CLI__ENV__ANTHROPIC_BASE_URL", &url),
        ("CLI__ENV__ANTHROPIC_API_KEY", "sk-ant-dummy"),
        ("CLI__ENV__CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "30s"),
    ];
    let mut state = TempDir::new().expect("a folder");
    let mut bill = Bill::default();
    for word in ["one", "two", "three"] {
        let daemon = Daemon::start_in(state, &settings).await;
        let mut turn = daemon.open(query("s", word)).await;
        turn.finish().await;
        bill.add(&turn);
        let mut client = daemon.client.clone();
        let request = GetSessionRequest { session_id: "s".into() };
        let session = client.get_session(request).await.expect("there").into_inner().session;
        bill.is(session.expect("a session").total_cost_usd);
        let stats = client.get_stats(GetStatsRequest::default()).await.expect("answered");
        bill.is(stats.into_inner().total_cost_usd);
        state = daemon.killed().await;
    }
    // Connections of killed CLIs are closed by now, or soon.
    drop(tokio::time::timeout(Duration::from_secs(5), api.shutdown()).await);
}

async fn e2_a_cleared_conversation_goes_on_costing_its_session(version: Version) {
    let bed = sleepy(version).await;
    let mut bill = Bill::default();
    bill.add(&bed.query("a", "one").await);
    hibernated(&bed, "a").await;
    bed.query("a", "/clear").await;
    bill.is(told(&bed, "a").await);
    bill.add(&bed.query("a", "two").await);
    hibernated(&bed, "a").await;
    bill.add(&bed.query("a", "three").await);
    bill.is(told(&bed, "a").await);
    bed.stop().await;
}

async fn e2_a_cleared_conversation_does_not_fill_the_budget_again(version: Version) {
    let bed = Bed::start(version).await;
    let price = bed.query("of-a-turn", "word").await.result().total_cost_usd;
    let budget = SessionOptions { max_budget_usd: Some(1.5 * price), ..SessionOptions::default() };
    let turn = bed.run(query_with("a", "one", budget)).await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    bed.query("a", "/clear").await;
    let last = bed.query("a", "two").await;
    assert_eq!(last.result().subtype, "error_max_budget_usd", "{:?}", last.result());
    let refused = bed.service.query("a", "three").await;
    failure(refused.error(), Code::FailedPrecondition, "BUDGET_EXHAUSTED");
    bed.stop().await;
}

async fn e2_a_budget_runs_out_across_processes(version: Version) {
    let bed = sleepy(version).await;
    let price = bed.query("of-a-turn", "word").await.result().total_cost_usd;
    let budget = |turns: f64| SessionOptions {
        max_budget_usd: Some(turns * price),
        ..SessionOptions::default()
    };
    for word in ["one", "two"] {
        let turn = bed.run(query_with("a", word, budget(2.5))).await;
        assert!(!turn.result().is_error, "{:?}", turn.result());
        hibernated(&bed, "a").await;
    }
    // A process of its own would have had enough for two.
    let last = bed.query("a", "three").await;
    assert_eq!(last.result().subtype, "error_max_budget_usd", "{:?}", last.result());
    hibernated(&bed, "a").await;
    let starts = bed.service.stats().await.counters.expect("counters").sessions_resumed;
    let refused = bed.service.query("a", "four").await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "BUDGET_EXHAUSTED");
    assert_eq!(metadata["limit"], (2.5 * price).to_string());
    let counters = bed.service.stats().await.counters.expect("counters");
    assert_eq!(counters.sessions_resumed, starts, "no process was started");
    bed.update("a", budget(4.5)).await.expect("it has no process");
    let turn = bed.query("a", "five").await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    bed.stop().await;
}
