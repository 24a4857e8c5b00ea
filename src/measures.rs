//! How long things take that callers wait for, and why turns fail: histograms and counters of this
//! life of the service, counted where it happens. Knows nothing of who reads them.
//!
//! The library's families are shared by all clones, so that counting takes a look-up and no more.
//! What can be a label is a word of the code, or the name of a tenant where the operator wants that:
//! nothing from a caller makes a series.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::domain::ids::TenantId;

/// Names and values.
pub type Labels = Vec<(&'static str, String)>;

/// One histogram for each set of labels.
pub type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// From what a commit takes to what a person waits for.
fn short() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

/// From a word to hours of work.
fn long() -> Histogram {
    Histogram::new([
        0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
    ])
}

#[derive(Debug)]
struct Kept {
    queue_wait: Histograms,
    connect: Histograms,
    first_event: Histograms,
    turn: Histograms,
    commit: Histograms,
    failures: Family<Labels, Counter>,
}

/// What is measured, of all tenants or of one. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Measures {
    kept: Arc<Kept>,
    by_tenant: bool,
    tenant: Labels,
}

impl Default for Measures {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Measures {
    /// Nothing yet. Whether tenants are told apart is the operator's choice: each makes series of
    /// its own.
    pub fn new(by_tenant: bool) -> Self {
        let kept = Kept {
            queue_wait: Family::new_with_constructor(short),
            connect: Family::new_with_constructor(short),
            first_event: Family::new_with_constructor(short),
            turn: Family::new_with_constructor(long),
            commit: Family::new_with_constructor(short),
            failures: Family::default(),
        };
        Self { kept: Arc::new(kept), by_tenant, tenant: Labels::new() }
    }

    /// The same, of this tenant.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> Self {
        Self { tenant: self.label(tenant), ..self.clone() }
    }

    /// Whether tenants are told apart.
    pub fn by_tenant(&self) -> bool {
        self.by_tenant
    }

    /// What marks the series of a tenant: nothing, unless tenants are told apart.
    pub fn label(&self, tenant: &TenantId) -> Labels {
        let label = || ("tenant", tenant.as_str().to_owned());
        self.by_tenant.then(label).into_iter().collect()
    }

    /// A turn has waited for so long behind others.
    pub fn queued(&self, time: Duration) {
        observe(&self.kept.queue_wait, &self.tenant, time);
    }

    /// A turn has waited for so long for a process, which was come by so.
    pub fn connected(&self, origin: &'static str, time: Duration) {
        observe(&self.kept.connect, &self.with("origin", origin), time);
    }

    /// From a turn's being the next one to what its CLI said first.
    pub fn first_event(&self, origin: &'static str, time: Duration) {
        observe(&self.kept.first_event, &self.with("origin", origin), time);
    }

    /// A turn has ended like this, and has run for so long.
    pub fn turn(&self, outcome: &'static str, time: Duration) {
        observe(&self.kept.turn, &self.with("outcome", outcome), time);
    }

    /// A turn has ended without a result, for this reason of the contract.
    pub fn failed(&self, reason: &'static str) {
        self.kept.failures.get_or_create(&self.with("reason", reason)).inc();
    }

    /// The store has answered a commit after so long, waits and repetitions included.
    pub fn committed(&self, time: Duration) {
        observe(&self.kept.commit, &self.tenant, time);
    }

    fn with(&self, name: &'static str, value: &'static str) -> Labels {
        let mut labels = self.tenant.clone();
        labels.push((name, value.to_owned()));
        labels
    }

    /// Adds all of them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Kept { queue_wait, connect, first_event, turn, commit, failures } = &*self.kept;
        let seconds = [
            ("queue_wait", "How long turns wait behind others of their session", queue_wait),
            ("connect_wait", "How long turns wait for a process, by where it comes from", connect),
            (
                "first_event",
                "From a turn's being the next one to the first frame of its CLI, by where the \
                 process comes from",
                first_event,
            ),
            ("turn_duration", "How long turns run, by how they end", turn),
            ("commit_duration", "How long the store takes for a commit of a session", commit),
        ];
        for (name, help, histograms) in seconds {
            registry.register_with_unit(name, help, Unit::Seconds, histograms.clone());
        }
        let help = "Turns that ended without a result, by the reason that callers are told";
        registry.register("turn_failures", help, failures.clone());
    }
}

fn observe(histograms: &Histograms, labels: &Labels, time: Duration) {
    histograms.get_or_create(labels).observe(time.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(measures: &Measures) -> String {
        let (mut registry, mut text) = (Registry::with_prefix("p"), String::new());
        measures.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        text
    }

    #[test]
    fn tenants_are_told_apart_only_where_that_is_wanted() {
        for by_tenant in [false, true] {
            let all = Measures::new(by_tenant);
            for name in ["a", "b"] {
                let one = all.of(&TenantId::parse(name).expect("a name"));
                one.turn("completed", Duration::from_secs(2));
                one.queued(Duration::ZERO);
            }
            let text = text(&all);
            let series = text.lines().filter(|line| line.contains("turn_duration_seconds_count"));
            assert_eq!(series.count(), if by_tenant { 2 } else { 1 }, "{text}");
            assert_eq!(text.contains("tenant=\"a\""), by_tenant);
        }
    }

    #[test]
    fn names_have_units_and_counters_their_suffix() {
        let measures = Measures::default();
        measures.first_event("reused", Duration::from_millis(30));
        measures.failed("CLI_EXITED");
        let text = text(&measures);
        let bucket = "p_first_event_seconds_bucket{le=\"0.05\",origin=\"reused\"} 1";
        let counter = "p_turn_failures_total{reason=\"CLI_EXITED\"} 1";
        for line in [bucket, counter] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
