//! How many sessions there may be, of all tenants and of one.

use super::{Bed, Given, id, key, tenant};
use crate::{
    domain::failure::{Cause, Failure},
    tenant::Quotas,
    test_support::{read, request},
};

fn at_most(max_sessions: usize) -> Given {
    let mut given = Given::default();
    given.pool.max_sessions = max_sessions;
    given
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_takes_no_other_session_and_serves_those_that_it_has() {
    let bed = Bed::start(at_most(2));
    for name in ["a", "b"] {
        assert!(bed.run(name, "1 ok").await.end.is_ok());
    }
    assert_eq!(bed.refusal("c").await, Cause::PoolAtCapacity { limit: 2 });
    assert_eq!(bed.counters().capacity_refusals.get(), 1);
    assert!(bed.run("a", "2 ok").await.end.is_ok());
    assert_eq!(bed.pool.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closed_makes_room() {
    let bed = Bed::start(at_most(1));
    assert!(bed.run("a", "1 ok").await.end.is_ok());
    bed.pool.close(&key("a"), false).await.expect("closed");
    assert!(bed.run("b", "2 ok").await.end.is_ok());
    assert_eq!(bed.refusal("a").await, Cause::PoolAtCapacity { limit: 1 });
}

#[tokio::test(start_paused = true)]
async fn turns_without_an_id_need_room_too() {
    let bed = Bed::start(at_most(1));
    assert!(bed.run("a", "1 ok").await.end.is_ok());
    let refused = bed.pool.query(&tenant("t"), None, request("2 ok")).await.expect_err("full");
    assert_eq!(refused.cause, Cause::PoolAtCapacity { limit: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_tenant_at_its_quota_leaves_room_for_others() {
    let quotas = Quotas { sessions: Some(1), ..Quotas::default() };
    let bed = Bed::start(Given { quotas, ..at_most(3) });
    let query = async |of: &str, name: &str| {
        let turn = bed.pool.query(&tenant(of), Some(id(name)), request("1 ok")).await?;
        Ok(read(turn).await)
    };
    let refused = |failure: Failure| {
        let Cause::TenantQuota { key, limit, .. } = failure.cause else { panic!("{failure:?}") };
        (key, limit)
    };
    query("t", "a").await.expect("the first");
    let (key, limit) = refused(query("t", "b").await.expect_err("one too many"));
    assert_eq!((key, limit.as_str()), ("policy.tenant_max_sessions", "1"));
    query("u", "b").await.expect("another tenant's");
    query("t", "a").await.expect("it is there already");
}

#[tokio::test(start_paused = true)]
async fn the_pool_s_limit_comes_before_the_tenant_s() {
    let quotas = Quotas { sessions: Some(1), ..Quotas::default() };
    let bed = Bed::start(Given { quotas, ..at_most(1) });
    assert!(bed.run("a", "1 ok").await.end.is_ok());
    assert_eq!(bed.refusal("b").await, Cause::PoolAtCapacity { limit: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_stream_s_share_of_its_tenant_is_given_back() {
    let quotas = Quotas { streams: Some(1), ..Quotas::default() };
    let bed = Bed::start(Given { quotas, ..Given::default() });
    let share = bed.pool.open_stream(&tenant("t")).expect("the first");
    let refused = bed.pool.open_stream(&tenant("t")).expect_err("one too many").cause;
    assert!(
        matches!(refused, Cause::TenantQuota { key: "policy.tenant_max_streams", .. }),
        "{refused:?}"
    );
    assert!(bed.pool.open_stream(&tenant("u")).is_ok());
    drop(share);
    assert!(bed.pool.open_stream(&tenant("t")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_disabled_takes_nothing() {
    let mut given = Given::default();
    given.pool.enabled = false;
    let bed = Bed::start(given);
    assert_eq!(bed.refusal("a").await, Cause::PoolDisabled);
    assert!(bed.pool.is_empty());
}
