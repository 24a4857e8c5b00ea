//! What the gateway counts for Prometheus: requests and connections by how they ended, and how long
//! requests waited for a limit of the API. Nothing of it is said by tenants or agents but the outcome.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::measures::{Labels, long};

/// How requests end: passed on, or refused for these reasons.
const PASSED: &str = "passed";
const OUTCOMES: [&str; 11] = [
    PASSED,
    "budget",
    "connections",
    "credential",
    "day",
    "limited",
    "no_credential",
    "path",
    "token",
    "tokens",
    "upstream",
];

/// How attempts to reach other hosts end.
const CONNECTIONS: [&str; 5] =
    ["connected", "malformed", "refused", "unauthenticated", "unreachable"];

/// The counts of one gateway. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Counts(Arc<Families>);

#[derive(Debug)]
struct Families {
    requests: Family<Labels, Counter>,
    connections: Family<Labels, Counter>,
    limits: Counter,
    held: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        let families = Families {
            requests: Family::default(),
            connections: Family::default(),
            limits: Counter::default(),
            held: long(),
        };
        // Whoever alerts on a counter has to see its first step.
        for outcome in OUTCOMES {
            drop(families.requests.get_or_create(&label(outcome)));
        }
        for outcome in CONNECTIONS {
            drop(families.connections.get_or_create(&label(outcome)));
        }
        Self(Arc::new(families))
    }
}

impl Counts {
    /// A request was passed on, or refused for a reason.
    pub(super) fn request(&self, refused: Option<&'static str>) {
        self.0.requests.get_or_create(&label(refused.unwrap_or(PASSED))).inc();
    }

    /// A session wanted to reach another host.
    pub(super) fn connection(&self, outcome: &'static str) {
        self.0.connections.get_or_create(&label(outcome)).inc();
    }

    /// The API said that there were too many requests.
    pub(super) fn limit(&self) {
        self.0.limits.inc();
    }

    /// A request waited so long for its turn.
    pub(super) fn held(&self, time: Duration) {
        self.0.held.observe(time.as_secs_f64());
    }

    /// Adds them to what is exported.
    pub fn register(&self, registry: &mut Registry) {
        let Families { requests, connections, limits, held } = self.0.as_ref();
        registry.register(
            "gateway_requests",
            "Requests of CLIs to the API, by how they ended at the gateway",
            requests.clone(),
        );
        registry.register(
            "egress_connections",
            "Attempts of sessions to reach other hosts, by how they ended",
            connections.clone(),
        );
        registry.register(
            "gateway_rate_limits",
            "Answers of the API that there were too many requests",
            limits.clone(),
        );
        registry.register_with_unit(
            "gateway_held",
            "How long requests waited for a limit of the API",
            Unit::Seconds,
            held.clone(),
        );
    }
}

fn label(outcome: &str) -> Labels {
    vec![("outcome", outcome.to_owned())]
}
