use std::{
    future::Future,
    pin::{Pin, pin},
    task::Poll,
};

use proptest::prelude::*;

use super::*;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a name")
}

type Waiter = Pin<Box<dyn Future<Output = ProcessSlot>>>;

/// Looks once whether a future is done.
async fn now<T>(future: &mut Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_burst_of_one_tenant_costs_another_one_wait() {
    let slots = ProcessSlots::new(2, None);
    let (a, b) = (tenant("a"), tenant("b"));
    let held = [slots.take(&a).await, slots.take(&a).await];
    let mut third = pin!(slots.take(&a));
    let mut fourth = pin!(slots.take(&a));
    let mut other = pin!(slots.take(&b));
    assert!(now(&mut third).await.is_none() && now(&mut fourth).await.is_none());
    assert!(now(&mut other).await.is_none());
    let [first, _second] = held;
    drop(first);
    assert!(now(&mut third).await.is_none(), "b holds none, so it is next");
    let other = now(&mut other).await.expect("given");
    drop(other);
    assert!(now(&mut fourth).await.is_none(), "first come, first served");
    assert!(now(&mut third).await.is_some());
}

#[tokio::test]
async fn a_tenant_never_holds_more_than_its_share() {
    let slots = ProcessSlots::new(3, Some(1));
    let a = tenant("a");
    let held = slots.take(&a).await;
    let mut second = pin!(slots.take(&a));
    assert!(now(&mut second).await.is_none());
    assert_eq!((slots.held(), slots.held_by(&a)), (1, 1));
    let _other = slots.take(&tenant("b")).await;
    drop(held);
    assert!(now(&mut second).await.is_some());
}

#[tokio::test]
async fn those_who_come_last_take_what_nobody_else_wants() {
    let slots = ProcessSlots::new(1, None);
    let (a, b) = (tenant("a"), tenant("b"));
    let held = slots.take(&a).await;
    let mut last = pin!(slots.take_low_priority(&a));
    assert!(now(&mut last).await.is_none());
    let mut other = pin!(slots.take(&b));
    assert!(now(&mut other).await.is_none());
    assert_eq!(slots.shortage().of_any, 1, "those who come last are no shortage");
    drop(held);
    assert!(now(&mut last).await.is_none());
    drop(now(&mut other).await.expect("given"));
    assert!(now(&mut last).await.is_some());
}

#[tokio::test]
async fn a_shortage_is_of_any_place_or_of_the_tenants_own() {
    let slots = ProcessSlots::new(2, Some(1));
    let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
    let _held = (slots.take(&a).await, slots.take(&b).await);
    assert_eq!(slots.shortage(), Shortage::default());
    let mut of_a = pin!(slots.take(&a));
    let mut of_c = pin!(slots.take(&c));
    let mut of_c_too = pin!(slots.take(&c));
    assert!(now(&mut of_a).await.is_none() && now(&mut of_c).await.is_none());
    assert!(now(&mut of_c_too).await.is_none());
    let mut shortage = slots.shortage();
    shortage.of_tenant.sort();
    let of_tenant = vec![(a.clone(), 1), (c.clone(), 1)];
    assert_eq!(shortage, Shortage { of_any: 1, of_tenant });
}

#[tokio::test]
async fn whoever_leaves_the_line_is_passed_over() {
    let slots = ProcessSlots::new(1, None);
    let a = tenant("a");
    let held = slots.take(&a).await;
    let mut last = pin!(slots.take(&a));
    {
        let mut leaver = pin!(slots.take(&a));
        assert!(now(&mut leaver).await.is_none() && now(&mut last).await.is_none());
    }
    // One that was given its slot and never looked gives it back too.
    {
        let b = tenant("b");
        let mut late = pin!(slots.take(&b));
        assert!(now(&mut late).await.is_none());
        drop(held);
    }
    assert!(now(&mut last).await.is_some());
    assert_eq!(slots.held(), 0, "given back by the line above");
}

proptest! {
    #[test]
    fn no_place_is_lost_or_given_twice(
        capacity in 1_usize..4,
        share in 1_usize..4,
        steps in proptest::collection::vec((0_u8..3, 0_usize..6), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let slots = ProcessSlots::new(capacity, Some(share));
            let mut waiting: Vec<(TenantId, Waiter)> = vec![];
            let mut held: Vec<(TenantId, ProcessSlot)> = vec![];
            for (step, which) in steps {
                match step {
                    0 => {
                        let (slots, who) = (slots.clone(), tenant(["a", "b", "c"][which % 3]));
                        let name = who.clone();
                        waiting.push((name, Box::pin(async move { slots.take(&who).await })));
                    }
                    1 if !held.is_empty() => drop(held.remove(which % held.len())),
                    2 if !waiting.is_empty() => drop(waiting.remove(which % waiting.len())),
                    _ => {}
                }
                let mut still = vec![];
                for (who, mut future) in std::mem::take(&mut waiting) {
                    match now(&mut future.as_mut()).await {
                        Some(slot) => held.push((who, slot)),
                        None => still.push((who, future)),
                    }
                }
                waiting = still;
                assert!(held.len() <= capacity);
                assert_eq!(slots.held(), held.len());
                for name in ["a", "b", "c"] {
                    let count = held.iter().filter(|(who, _)| who.as_str() == name).count();
                    assert_eq!(slots.held_by(&tenant(name)), count);
                    assert!(count <= share);
                    let waits = waiting.iter().any(|(who, _)| who.as_str() == name);
                    assert!(!waits || held.len() == capacity || count == share, "{name} waits for nothing");
                }
            }
        });
    }
}
