//! What the parts of the service say of themselves, told to the health state. Knows both sides;
//! decides nothing.

use tokio::sync::watch;

use crate::{
    health::{Health, part},
    store::{Failing, StoreStatus},
};

/// While commits fail no turns are taken: what they would say could not be kept.
pub async fn watch_store(mut status: watch::Receiver<StoreStatus>, health: &Health) {
    status.mark_changed();
    while status.changed().await.is_ok() {
        let failing = status.borrow_and_update().failing.clone();
        match failing {
            Some(Failing { since, reason }) => {
                let since = humantime::format_rfc3339_seconds(since);
                health.hold(part::STORE, format!("{reason} (since {since})"));
            }
            None => health.release(part::STORE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::test_support::until;

    /// The store has failed for so long, for this reason.
    fn failing(reason: &str) -> StoreStatus {
        let since = UNIX_EPOCH + Duration::from_secs(86_400);
        let failing = Some(Failing { since, reason: reason.to_owned() });
        StoreStatus { failing, ..StoreStatus::default() }
    }

    /// What the store keeps the service from, while `changes` are made.
    async fn told(
        first: StoreStatus,
        changes: impl AsyncFnOnce(&watch::Sender<StoreStatus>, &Health),
    ) {
        let (store, health) = (watch::Sender::new(first), Health::new());
        health.release(part::CLI);
        tokio::select! {
            () = watch_store(store.subscribe(), &health) => panic!("it goes on for ever"),
            () = changes(&store, &health) => {}
        }
    }

    fn reason(health: &Health) -> Option<String> {
        health.reasons().remove(part::STORE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_holds_the_service_until_it_does_not() {
        told(StoreStatus::default(), async |store, health| {
            store.send_replace(failing("disk full"));
            until("it is held", || reason(health).is_some()).await;
            let held = reason(health).expect("held");
            assert_eq!(held, "disk full (since 1970-01-02T00:00:00Z)");
            store.send_replace(failing("read-only"));
            until("the reason is today's", || {
                reason(health).is_some_and(|reason| reason.starts_with("read-only"))
            })
            .await;
            store.send_replace(StoreStatus::default());
            until("it is released", || health.reasons().is_empty()).await;
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_failed_before_anybody_looked_holds_it_too() {
        told(failing("locked"), async |_, health| {
            until("it is held", || reason(health).is_some()).await;
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_well_releases_nobody_else_s_reason() {
        told(failing("locked"), async |store, health| {
            health.hold(part::POOL, "pool.enabled is false");
            until("it is held", || reason(health).is_some()).await;
            store.send_replace(StoreStatus::default());
            until("it is released", || reason(health).is_none()).await;
            assert_eq!(health.reasons().len(), 1);
        })
        .await;
    }
}
