//! What one tenant may use, and that it cannot use up what others need.

use std::time::Duration;

use session_pool::proto::{GetSessionRequest, QueryRequest, SessionStatus};
use tonic::{Code, Status};

use crate::{
    bed::{Bed, Client, Token, token},
    support::{
        eventually, failure, retry_after,
        service::{model, query, query_with, script},
        turn::Turn,
    },
};

async fn open(client: &Client, request: QueryRequest) -> Result<Turn, Status> {
    Ok(Turn::new(client.clone().query(request).await?.into_inner()))
}

async fn hang(client: &Client, session: &str) -> Turn {
    let prompt = script(&["say here", "hang"]);
    let mut turn = open(client, query(session, &prompt)).await.expect("taken");
    turn.until_text("here").await;
    turn
}

#[track_caller]
fn refused(status: &Status, key: &str, limit: &str) {
    let metadata = failure(status, Code::ResourceExhausted, "TENANT_QUOTA_EXCEEDED");
    let entry = |name: &str| metadata.get(name).map(String::as_str);
    assert_eq!((entry("field"), entry("limit")), (Some(key), Some(limit)));
    assert!(retry_after(status).is_some(), "it says when to try again");
}

fn two() -> [Token; 2] {
    [token("a", false, None), token("b", false, None)]
}

#[tokio::test]
async fn sessions_streams_and_waiting_turns_have_quotas_of_each_tenant() {
    let tokens = two();
    let bed = Bed::with(&[&tokens[0], &tokens[1]], |config| {
        config.policy.tenant_max_sessions = 2;
        config.policy.tenant_max_queued_turns = 1;
        config.policy.tenant_max_streams = 4;
    })
    .await;
    let (a, b) = (bed.client(&tokens[0]), bed.client(&tokens[1]));
    let _one = hang(&a, "1").await;
    let _two = hang(&a, "2").await;
    let status = open(&a, query("3", "x")).await.expect_err("a session too many");
    refused(&status, "policy.tenant_max_sessions", "2");
    let _waiting = open(&a, query("1", "x")).await.expect("one may wait");
    let status = open(&a, query("2", "x")).await.expect_err("a waiting turn too many");
    refused(&status, "policy.tenant_max_queued_turns", "1");
    let attach = |session: &str| session_pool::proto::AttachRequest {
        session_id: session.into(),
        ..session_pool::proto::AttachRequest::default()
    };
    let _fourth = a.clone().attach(attach("1")).await.expect("a fourth stream");
    let status = a.clone().attach(attach("1")).await.expect_err("a stream too many");
    refused(&status, "policy.tenant_max_streams", "4");

    // Nobody else is concerned.
    let _others = [hang(&b, "1").await, hang(&b, "2").await];
    bed.service.stop().await;
}

#[tokio::test]
async fn a_tenant_that_has_spent_its_day_waits_for_the_next() {
    let tokens = two();
    let bed = Bed::with(&[&tokens[0], &tokens[1]], |config| {
        config.policy.tenant_max_cost_usd_per_day = 1e-9;
    })
    .await;
    let (a, b) = (bed.client(&tokens[0]), bed.client(&tokens[1]));
    let named = || QueryRequest { turn_id: "first".into(), ..query("s", &script(&["say hello"])) };
    let mut turn = open(&a, named()).await.expect("nothing is spent yet");
    let mut queued = open(&a, query("s", "me too")).await.expect("nothing is spent yet");
    turn.finish().await;
    assert!(turn.result().total_cost_usd > 0.0, "{:?}", turn.result());
    queued.finish().await;
    refused(queued.error(), "policy.tenant_max_cost_usd_per_day", "0.000000001");
    let mut again = open(&a, named()).await.expect("a turn that was paid for");
    again.finish().await;
    assert_eq!(again.result().result, "hello");
    let status = open(&a, query("s", "more")).await.expect_err("spent");
    refused(&status, "policy.tenant_max_cost_usd_per_day", "0.000000001");
    assert!(retry_after(&status) <= Some(Duration::from_secs(24 * 3600)));
    open(&b, query("s", "hello")).await.expect("not spent").finish().await;
    bed.service.stop().await;
}

#[tokio::test]
async fn e2_a_tenant_spends_its_day_on_many_processes_as_on_one() {
    for cli in ["fake:", "fake:counts-from-zero"] {
        let tokens = two();
        let bed = Bed::with(&[&tokens[0], &tokens[1]], |config| {
            // Two and a half turns of the fake CLI.
            config.policy.tenant_max_cost_usd_per_day = 0.000_615;
            config.pool.hibernate_after = Duration::from_millis(50);
        })
        .await;
        let client = bed.client(&tokens[0]);
        for _ in 0..3 {
            let request = query_with("s", "hello", model(cli));
            let mut turn = open(&client, request).await.expect("not all is spent");
            turn.finish().await;
            assert!(turn.result().total_cost_usd > 0.0, "{:?}", turn.result());
            eventually("hibernation", async || {
                let request = GetSessionRequest { session_id: "s".into() };
                let answer = client.clone().get_session(request).await.expect("there");
                let session = answer.into_inner().session.expect("a session");
                (session.status() == SessionStatus::Hibernated).then_some(())
            })
            .await;
        }
        let status = open(&client, query("s", "more")).await.expect_err("spent");
        refused(&status, "policy.tenant_max_cost_usd_per_day", "0.000615");
        bed.service.stop().await;
    }
}

#[tokio::test]
async fn a_burst_of_one_tenant_does_not_starve_another() {
    let tokens = two();
    let bed = Bed::with(&[&tokens[0], &tokens[1]], |config| {
        config.pool.max_processes = 4;
        config.pool.start_concurrency = 1;
    })
    .await;
    let (a, b) = (bed.client(&tokens[0]), bed.client(&tokens[1]));
    let slow = || model("fake:boot=300");
    let mut burst = Vec::new();
    for number in 0..12 {
        // Sessions of their own: each lets go of its process when its turn is over.
        let request = query_with("", &format!("number {number}"), slow());
        burst.push(open(&a, request).await.expect("taken"));
    }
    let mut other = open(&b, query_with("s", "me too", slow())).await.expect("taken");
    let ends = tokio::join!(
        async {
            other.finish().await;
            tokio::time::Instant::now()
        },
        async {
            for turn in &mut burst {
                turn.finish().await;
                turn.result();
            }
            tokio::time::Instant::now()
        }
    );
    other.result();
    let burst_left = ends.1 - ends.0;
    // It came thirteenth, and was not thirteenth: 12 starts one after the other take 3.6 s.
    assert!(burst_left > Duration::from_millis(1200), "{burst_left:?}");
    bed.service.stop().await;
}

#[tokio::test]
async fn a_tenant_waits_for_its_share_of_processes() {
    let tokens = two();
    let bed = Bed::with(&[&tokens[0], &tokens[1]], |config| {
        config.policy.tenant_max_processes = 1;
        config.pool.connect_timeout = Duration::from_millis(500);
    })
    .await;
    let (a, b) = (bed.client(&tokens[0]), bed.client(&tokens[1]));
    let _held = hang(&a, "1").await;
    let mut second = open(&a, query("2", "x")).await.expect("taken");
    second.finish().await;
    refused(second.error(), "policy.tenant_max_processes", "1");
    let _others = hang(&b, "1").await;
    bed.service.stop().await;
}

#[tokio::test]
async fn c8_background_work_of_a_tenant_that_holds_more_gives_way_to_another() {
    let tokens = two();
    let bed = Bed::with(&[&tokens[0], &tokens[1]], |config| {
        config.pool.max_processes = 2;
        config.pool.background_grace = Duration::from_millis(300);
        config.pool.connect_timeout = Duration::from_secs(20);
    })
    .await;
    let (a, b) = (bed.client(&tokens[0]), bed.client(&tokens[1]));
    // Two sessions whose background work ends in an hour.
    for session in ["1", "2"] {
        let prompt = script(&["background-turn 3600000", "say begun"]);
        open(&a, query(session, &prompt)).await.expect("taken").finish().await;
    }
    let began = tokio::time::Instant::now();
    let mut other = open(&b, query("s", "me too")).await.expect("taken");
    other.finish().await;
    other.result();
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    // The one that was used least recently is told with its state, and goes on.
    let shown = |session: &str| {
        let request = session_pool::proto::GetSessionRequest { session_id: session.into() };
        let mut client = a.clone();
        async move { client.get_session(request).await.expect("there").into_inner().session }
    };
    let ended = shown("1").await.expect("a session");
    assert!(ended.last_error.contains("background work was ended"), "{}", ended.last_error);
    assert!(shown("2").await.expect("a session").last_error.is_empty());
    bed.service.stop().await;
}
