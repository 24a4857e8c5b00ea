//! Whether the service can take new turns, as health checks see it. Each part that can
//! stand in the way has a name and holds at most one reason under it; the service is
//! SERVING while nobody holds one. Owns these reasons and their publication; nothing of how
//! they are found.
//!
//! Reasons may be held and released from anywhere, in any order: one task publishes what
//! is true at last, so that two who change it at once cannot leave the older snapshot.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::info;

use crate::proto::SERVICE_NAME;

/// The name that is SERVING for as long as the process works.
pub const LIVENESS: &str = "liveness";

/// The parts that can keep the service from taking turns.
pub mod part {
    /// The CLI: found, and starting as sessions need it.
    pub const CLI: &str = "cli";
    /// The pool: enabled.
    pub const POOL: &str = "pool";
    /// The service itself: not stopping.
    pub const SERVICE: &str = "service";
    /// The store: what is told can be committed.
    pub const STORE: &str = "store";
}

/// Why the service takes no turns, by the part that says so.
pub type Reasons = BTreeMap<&'static str, String>;

/// What health checks see. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Health {
    reasons: watch::Sender<Reasons>,
    version: watch::Sender<Option<String>>,
}

impl Health {
    /// Not ready before a CLI has answered.
    pub fn new() -> Self {
        let reasons = Reasons::from([(part::CLI, "the CLI has not answered yet".to_owned())]);
        Self { reasons: watch::Sender::new(reasons), version: watch::Sender::new(None) }
    }

    /// From now on this part keeps the service from taking turns, for this reason. A
    /// reason that it held before is replaced.
    pub fn hold(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        self.reasons.send_if_modified(|reasons| match reasons.get(part) {
            Some(before) if *before == reason => false,
            _ => {
                reasons.insert(part, reason);
                true
            }
        });
    }

    /// This part is well.
    pub fn release(&self, part: &'static str) {
        self.reasons.send_if_modified(|reasons| reasons.remove(part).is_some());
    }

    /// Why the service takes no turns; empty while it does.
    pub fn reasons(&self) -> Reasons {
        self.reasons.borrow().clone()
    }

    /// Publishes what is true now. Before the first time a reporter says SERVING.
    pub async fn report(&self, reporter: &HealthReporter) {
        let ready = self.reasons.borrow().is_empty();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", SERVICE_NAME] {
            reporter.set_service_status(name, status).await;
        }
        reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    }

    /// Publishes what is true, for as long as it is polled.
    pub async fn keep_reporting(&self, reporter: HealthReporter) {
        let mut reasons = self.reasons.subscribe();
        reasons.mark_changed();
        let mut was_ready = false;
        while reasons.changed().await.is_ok() {
            let held = reasons.borrow_and_update().clone();
            self.report(&reporter).await;
            match (was_ready, held.is_empty()) {
                (false, true) => info!("ready"),
                (true, false) => info!(reasons = ?held, "not_ready"),
                _ => {}
            }
            was_ready = held.is_empty();
        }
    }

    /// The version of the CLI, once it has said it.
    pub fn cli_version(&self) -> Option<String> {
        self.version.borrow().clone()
    }

    /// The CLI has said its version.
    pub fn found_cli(&self, version: &str) {
        self.version.send_replace(Some(version.to_owned()));
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_only_when_no_part_holds_a_reason() {
        let health = Health::new();
        assert!(health.reasons().contains_key(part::CLI));
        health.hold(part::STORE, "full");
        health.release(part::CLI);
        health.hold(part::STORE, "locked");
        assert_eq!(health.reasons(), Reasons::from([(part::STORE, "locked".to_owned())]));
        health.release(part::STORE);
        assert!(health.reasons().is_empty());
        health.release(part::STORE);
    }

    #[tokio::test]
    async fn checks_see_what_is_true_at_last() {
        let (reporter, service) = tonic_health::server::health_reporter();
        let health = Health::new();
        health.report(&reporter).await;
        let publisher = health.clone();
        let mut client = tonic_health::pb::health_client::HealthClient::new(service);
        let request = tonic_health::pb::HealthCheckRequest { service: SERVICE_NAME.into() };
        let mut watch = client.watch(request).await.expect("answered").into_inner();
        let mut seen = async || watch.message().await.expect("answered").expect("one").status();
        let (serving, not_serving) = (
            tonic_health::pb::health_check_response::ServingStatus::Serving,
            tonic_health::pb::health_check_response::ServingStatus::NotServing,
        );
        let changes = async {
            assert_eq!(seen().await, not_serving);
            health.hold(part::STORE, "full");
            health.release(part::CLI);
            health.release(part::STORE);
            assert_eq!(seen().await, serving);
            health.hold(part::STORE, "full");
            assert_eq!(seen().await, not_serving);
        };
        tokio::select! {
            () = publisher.keep_reporting(reporter) => panic!("it goes on for ever"),
            () = changes => {}
        }
    }
}
