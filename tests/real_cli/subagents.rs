//! What subagents spend is their session's, whether a turn waits for them or not, and however
//! the session ends. The price of a round is told by a turn of one round.

use session_pool::proto::SessionOptions;
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version},
    support::{eventually, failure, service::query_with, turn::Turn},
};

each_version!(within LONG: newest:
    e2_a_budget_stops_subagents_that_a_turn_waits_for,
    e2_a_budget_stops_subagents_that_work_behind_a_turn,
    e2_a_budget_withholds_subagents_that_nobody_could_stop,
    e2_a_tenants_day_ends_work_that_nobody_asked_for,
    e2_subagents_are_paid_for_when_their_session_is_forgotten,
);

/// Rounds of a subagent's work, each of which costs far more than what is said around it.
const ROUNDS: usize = 8;
const COSTLY: &str = "[[usage output 20000]]";
/// A tool that every round runs.
const STEP: &str = "sleep 0.6";

/// A prompt that starts a subagent, and says so.
fn start(in_background: bool) -> String {
    let rounds = vec![format!("{COSTLY} [[bash {STEP}]]"); ROUNDS].join(" ");
    let input = serde_json::json!({"description": "work", "subagent_type": "general-purpose",
        "prompt": format!("{rounds} [[say seen]]"), "run_in_background": in_background});
    format!("[[tool Agent {input}]] [[say started]]")
}

fn options(budget: Option<f64>) -> SessionOptions {
    SessionOptions {
        max_budget_usd: budget,
        allowed_tools: vec!["Agent".into(), "Task".into(), "Bash".into()],
        ..SessionOptions::default()
    }
}

/// Waits until the service knows which version it starts: what a budget withholds depends on it.
async fn version_is_known(bed: &Bed) {
    eventually("its version is known", async || {
        (!bed.service.stats().await.cli_version.is_empty()).then_some(())
    })
    .await;
}

/// What a subagent's round costs at least.
async fn price_of_a_round(bed: &Bed) -> f64 {
    let result = bed.query("of-a-round", &format!("{COSTLY} [[say hello]]")).await.result().clone();
    result.total_cost_usd * 0.8
}

/// Rounds of subagents that the API has been asked for. The main conversation has the call that
/// starts the subagent in it, too.
fn rounds(bed: &Bed) -> usize {
    let asked = bed.api.requests();
    let messages = asked.iter().map(|request| request.body["messages"].to_string());
    messages.filter(|said| said.contains(STEP) && !said.contains("subagent_type")).count()
}

async fn total(bed: &Bed) -> f64 {
    bed.service.stats().await.total_cost_usd
}

/// Whether a process of this version can be asked what it has spent, and is held to a budget
/// by the service then. 2.1.150 cannot: a session with a budget has no subagents there.
fn can_be_asked(version: Version) -> bool {
    let patch = version.as_str().rsplit('.').next().and_then(|patch| patch.parse().ok());
    patch.unwrap_or(0) >= 197
}

async fn e2_subagents_are_paid_for_when_their_session_is_forgotten(version: Version) {
    let bed = Bed::start(version).await;
    let price = price_of_a_round(&bed).await;
    let before = total(&bed).await;
    bed.run(query_with("a", &start(true), options(None))).await.result();
    eventually("half of the work", async || (rounds(&bed) >= ROUNDS / 2).then_some(())).await;
    let worked = rounds(&bed);
    bed.service.close("a", true).await.expect("forgotten");
    let paid = (total(&bed).await - before) / price;
    // The request that is under way is of a round whose cost nobody knows yet.
    let least = u32::try_from(worked - 1).expect("a few");
    assert!(paid >= f64::from(least), "{paid} rounds were paid of {worked}");
    bed.stop().await;
}

async fn e2_a_budget_stops_subagents_that_work_behind_a_turn(version: Version) {
    let bed = Bed::start(version).await;
    version_is_known(&bed).await;
    let price = price_of_a_round(&bed).await;
    let turn = bed.open(query_with("a", &start(true), options(Some(2.5 * price)))).await;
    stops(bed, version, price, turn).await;
}

async fn e2_a_budget_stops_subagents_that_a_turn_waits_for(version: Version) {
    let bed = Bed::start(version).await;
    version_is_known(&bed).await;
    let price = price_of_a_round(&bed).await;
    let turn = bed.open(query_with("a", &start(false), options(Some(2.5 * price)))).await;
    stops(bed, version, price, turn).await;
}

async fn e2_a_budget_withholds_subagents_that_nobody_could_stop(version: Version) {
    let bed = Bed::start(version).await;
    version_is_known(&bed).await;
    for (session, budget) in [("free", None), ("bounded", Some(5.0))] {
        bed.run(query_with(session, &format!("I am {session}"), options(budget))).await.result();
        let asked = bed.api.requests();
        let own = asked.iter().rev().find(|request| {
            request.body["messages"].to_string().contains(&format!("I am {session}"))
        });
        let tools = own.expect("asked for").body["tools"].clone();
        let offered = tools
            .as_array()
            .expect("tools")
            .iter()
            .any(|tool| ["Agent", "Task"].iter().any(|name| tool["name"] == *name));
        assert_eq!(offered, budget.is_none() || can_be_asked(version), "{session}: {tools}");
    }
    bed.stop().await;
}

async fn e2_a_tenants_day_ends_work_that_nobody_asked_for(version: Version) {
    let limit = 1.2;
    let bed = Bed::with(version, |config| config.policy.tenant_max_cost_usd_per_day = limit).await;
    bed.run(query_with("a", &start(true), options(None))).await.result();
    eventually("the day is spent", async || (total(&bed).await >= limit).then_some(())).await;
    if can_be_asked(version) {
        eventually("nothing works any more", async || (bed.pid("a").await == 0).then_some(()))
            .await;
        assert!(rounds(&bed) < ROUNDS - 1, "{} rounds", rounds(&bed));
    }
    let refused = bed.service.query("a", "more").await;
    failure(refused.error(), Code::ResourceExhausted, "TENANT_QUOTA_EXCEEDED");
    bed.stop().await;
}

/// The work ends long before it is done, with the process and with the turn that waits for
/// it.
async fn stops(bed: Bed, version: Version, price: f64, mut turn: Turn) {
    turn.finish().await;
    if !can_be_asked(version) {
        assert_eq!(rounds(&bed), 0, "there are no subagents for it");
        return bed.stop().await;
    }
    eventually("the budget is reached", async || {
        let session = bed.service.session("a").await.expect("there");
        (session.total_cost_usd >= 2.5 * price).then_some(())
    })
    .await;
    eventually("nothing works any more", async || {
        (bed.running(STEP).is_empty() && bed.pid("a").await == 0).then_some(())
    })
    .await;
    // A round that is over, one that was under way, and two of the time in between.
    assert!(rounds(&bed) < ROUNDS - 1, "{} rounds", rounds(&bed));
    let refused = bed.service.query("a", "more").await;
    failure(refused.error(), Code::FailedPrecondition, "BUDGET_EXHAUSTED");
    bed.stop().await;
}
