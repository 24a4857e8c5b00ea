//! What a session costs and may spend does not depend on how many processes it has had.
//! Each scenario runs on a CLI that goes on counting after a resume, and on one that
//! counts from 0.

use std::time::Duration;

use session_pool::proto::{OptionsMismatchPolicy, QueryRequest, SessionOptions, SessionStatus};
use tonic::{Code, Status};

use crate::support::{
    daemon::Daemon,
    eventually, failure, metadata,
    service::{Service, model, query, query_with, script},
};

/// CLIs that count as 2.1.330 and as 2.1.197 do.
const CLIS: [&str; 2] = ["fake:", "fake:counts-from-zero"];

/// What a turn of the fake CLI costs.
const TURN: f64 = 0.000_246;

#[track_caller]
fn costs(found: f64, turns: f64) {
    assert!((found - turns * TURN).abs() < 1e-9, "{found} is not {turns} turns");
}

fn with_budget(cli: &str, turns: f64) -> SessionOptions {
    SessionOptions { max_budget_usd: Some(turns * TURN), ..model(cli) }
}

async fn sleepy() -> Service {
    Service::start(|config| config.pool.hibernate_after = Duration::from_millis(50)).await
}

async fn hibernated(service: &Service, session: &str) {
    eventually("hibernation", async || {
        let session = service.session(session).await.expect("it stays in the pool");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
}

#[track_caller]
fn is_exhausted(status: &Status, limit: f64) {
    let metadata = failure(status, Code::FailedPrecondition, "BUDGET_EXHAUSTED");
    assert_eq!(metadata["limit"], limit.to_string());
    assert_eq!(metadata["field"], "options.max_budget_usd");
    assert!(metadata["used"].parse::<f64>().expect("a number") >= limit, "{metadata:?}");
}

#[tokio::test]
async fn e2_every_turn_counts_once_however_many_processes_there_were() {
    for cli in CLIS {
        let service = sleepy().await;
        for turns in 1..=3 {
            service.run(query_with("a", "hello", model(cli))).await.result();
            costs(service.session("a").await.expect("there").total_cost_usd, f64::from(turns));
            hibernated(&service, "a").await;
        }
        for turns in 4..=6 {
            service.query("a", "hello").await.result();
            costs(service.session("a").await.expect("there").total_cost_usd, f64::from(turns));
        }
        costs(service.stats().await.total_cost_usd, 6.0);
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_cli_that_is_killed_loses_no_cost() {
    for cli in CLIS {
        let service = Service::start(|_| {}).await;
        // One process ends in order, so that a sum is saved.
        service.run(query_with("a", "hello", model(cli))).await.result();
        service.close("a", false).await.expect("closed");
        for turns in 2..=4 {
            let said = format!("word {turns}");
            let turn = service.query("a", &script(&[&format!("say {said}")])).await;
            assert_eq!(turn.text(), said);
            service.kill_cli("a", &said).await;
            eventually("the loss", async || {
                (service.session("a").await.expect("there").process_id == 0).then_some(())
            })
            .await;
            costs(service.session("a").await.expect("there").total_cost_usd, f64::from(turns));
        }
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_service_that_is_killed_loses_no_cost() {
    for cli in CLIS {
        let mut daemon = Daemon::start(&[]).await;
        for turns in 1..=3 {
            let mut turn = daemon.open(query_with("a", "hello", model(cli))).await;
            turn.finish().await;
            turn.result();
            let request = session_pool::proto::GetStatsRequest::default();
            let stats = daemon.client.clone().get_stats(request).await.expect("answered");
            costs(stats.into_inner().total_cost_usd, f64::from(turns));
            daemon = Daemon::start_in(daemon.killed().await, &[]).await;
        }
        drop(daemon.killed().await);
    }
}

#[tokio::test]
async fn e2_a_cleared_conversation_goes_on_costing_its_session() {
    for cli in CLIS {
        let service = sleepy().await;
        service.run(query_with("a", "hello", model(cli))).await.result();
        hibernated(&service, "a").await;
        service.query("a", "/clear").await.result();
        service.query("a", "hello").await.result();
        hibernated(&service, "a").await;
        service.query("a", "hello").await.result();
        let anew = QueryRequest { new_conversation: true, ..query("a", "hello") };
        service.run(anew).await.result();
        costs(service.session("a").await.expect("there").total_cost_usd, 4.0);
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_conversation_that_was_taken_up_has_been_paid_for() {
    for cli in CLIS {
        let service = sleepy().await;
        let first = service.run(query_with("a", "hello", model(cli))).await;
        hibernated(&service, "a").await;
        let fork = SessionOptions {
            resume: Some(first.started().cli_session_id.clone()),
            fork_session: Some(true),
            ..with_budget(cli, 1.5)
        };
        // Its budget is its own: what was said before it was made is not paid of it.
        let copy = service.run(query_with("copy", "hello", fork)).await;
        assert!(!copy.result().is_error, "{:?}", copy.result());
        costs(service.session("copy").await.expect("there").total_cost_usd, 1.0);
        costs(service.session("a").await.expect("there").total_cost_usd, 1.0);
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_budget_is_the_sessions_and_not_its_processes() {
    for cli in CLIS {
        let service = sleepy().await;
        let budget = with_budget(cli, 2.5);
        for _ in 0..2 {
            let turn = service.run(query_with("a", "hello", budget.clone())).await;
            assert!(!turn.result().is_error, "{:?}", turn.result());
            hibernated(&service, "a").await;
        }
        // The third process has half a turn left, and says itself when it has spent it.
        let last = service.query("a", "hello").await;
        assert_eq!(last.result().subtype, "error_max_budget_usd");
        let limit = 2.5 * TURN;
        let refused = service.query("a", "warm").await;
        is_exhausted(refused.error(), limit);
        hibernated(&service, "a").await;
        let starts = service.stats().await.counters.expect("counters").sessions_resumed;
        let refused = service.query("a", "cold").await;
        is_exhausted(refused.error(), limit);
        let counters = service.stats().await.counters.expect("counters");
        assert_eq!(counters.sessions_resumed, starts, "no process was started");
        assert_eq!(service.processes(), [0; 0]);

        service.update("a", with_budget(cli, 4.5)).await.expect("it has no process");
        let turn = service.query("a", "on").await;
        assert!(!turn.result().is_error, "{:?}", turn.result());
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_budget_that_is_raised_on_a_living_session_holds_from_the_next_turn_on() {
    for cli in CLIS {
        let service = Service::start(|_| {}).await;
        let first = service.run(query_with("a", "hello", with_budget(cli, 0.5))).await;
        assert_eq!(first.result().subtype, "error_max_budget_usd");
        is_exhausted(service.query("a", "more").await.error(), 0.5 * TURN);

        // With the prompt it would need another process, which is the caller's choice.
        let more = query_with("a", "more", with_budget(cli, 2.5));
        let refused = service.run(more.clone()).await;
        assert_eq!(metadata(refused.error(), "options").as_deref(), Some("max_budget_usd"));
        let updated = service.update("a", with_budget(cli, 2.5)).await.expect("updated");
        assert_eq!(updated.changed_options, ["max_budget_usd"]);
        let second = service.run(more).await;
        assert!(!second.result().is_error, "{:?}", second.result());
        assert_ne!(second.started().client_id, first.started().client_id);
        let third = service.query("a", "hello").await;
        assert_eq!(third.started().client_id, second.started().client_id, "warm again");
        assert_eq!(third.result().subtype, "error_max_budget_usd");
        costs(service.session("a").await.expect("there").total_cost_usd, 3.0);

        let restart = QueryRequest {
            on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
            ..query_with("a", "on", with_budget(cli, 5.0))
        };
        let turn = service.run(restart).await;
        assert!(!turn.result().is_error, "{:?}", turn.result());
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_budget_that_a_living_session_has_spent_ends_no_process() {
    let service = Service::start(|_| {}).await;
    let first = service.run(query_with("a", "hello", model(CLIS[0]))).await;
    first.result();
    service.update("a", with_budget(CLIS[0], 0.5)).await.expect("updated");
    is_exhausted(service.query("a", "more").await.error(), 0.5 * TURN);
    let session = service.session("a").await.expect("there");
    assert_eq!(session.client_id, first.started().client_id);
    service.update("a", with_budget(CLIS[0], 1.5)).await.expect("updated");
    let last = service.query("a", "half a turn is left").await;
    assert_eq!(last.result().subtype, "error_max_budget_usd");
    service.stop().await;
}

#[tokio::test]
async fn e2_a_cleared_conversation_does_not_fill_the_budget_again() {
    for cli in CLIS {
        let service = Service::start(|_| {}).await;
        let turn = service.run(query_with("a", "hello", with_budget(cli, 1.5))).await;
        assert!(!turn.result().is_error, "{:?}", turn.result());
        // To the process all of its budget is left now, to the session half a turn's.
        service.query("a", "/clear").await.result();
        let last = service.query("a", "hello").await;
        assert_eq!(last.result().subtype, "error_max_budget_usd");
        is_exhausted(service.query("a", "more").await.error(), 1.5 * TURN);
        costs(service.session("a").await.expect("there").total_cost_usd, 2.0);
        service.stop().await;
    }
}

#[tokio::test]
async fn e2_a_budget_below_what_was_spent_is_refused_and_not_taken_on() {
    let service = sleepy().await;
    service.run(query_with("a", "hello", model(CLIS[0]))).await.result();
    hibernated(&service, "a").await;
    let refused = service.run(query_with("a", "hello", with_budget(CLIS[0], 0.5))).await;
    is_exhausted(refused.error(), 0.5 * TURN);
    let turn = service.query("a", "without a budget").await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    service.stop().await;
}
