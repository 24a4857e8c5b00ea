//! How long things take that callers wait for, and why turns fail: histograms and counters of this
//! life of the service, counted where it happens. Knows nothing of who reads them.
//!
//! The library's families are shared by all clones, so that counting takes a look-up and no more.
//! What can be a label is a word of the code, the name of a tenant where the operator wants that, or
//! one of a bounded number of models: nothing else from a caller or a CLI makes a series.

mod failures;
mod models;

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

pub use self::failures::Failure;
use self::{
    failures::Failures,
    models::{Known, Models},
};
use crate::domain::{
    ids::{SessionKey, TenantId},
    usage::TokenUsage,
};

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
pub fn long() -> Histogram {
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
    exits: Family<Labels, Counter>,
    interrupts: Family<Labels, Counter>,
    resolved: Family<Labels, Counter>,
    models: Models,
    last_failures: Failures,
}

/// Words that are there with 0 from the start: whoever alerts on a counter has to see its first step.
const EXITS: [&str; 5] = ["code", "signal", "memory_limit", "task_limit", "unknown"];
const INTERRUPTS: [&str; 4] = ["interrupted", "no_active_turn", "terminated", "turn_ended"];
const RESOLVERS: [&str; 4] = ["caller", "timeout", "turn_ended", "cli"];

/// What is measured, of all tenants or of one. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Measures {
    kept: Arc<Kept>,
    by_tenant: bool,
    tenant: Labels,
    /// Models that the tenant has made known.
    known: Arc<Known>,
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
            exits: Family::default(),
            interrupts: Family::default(),
            resolved: Family::default(),
            models: Models::default(),
            last_failures: Failures::default(),
        };
        let all =
            Self { kept: Arc::new(kept), by_tenant, tenant: Labels::new(), known: Arc::default() };
        if !by_tenant {
            all.begin();
        }
        all
    }

    fn begin(&self) {
        let Kept { exits, interrupts, resolved, .. } = &*self.kept;
        for (family, name, words) in [
            (exits, "cause", EXITS.as_slice()),
            (interrupts, "outcome", &INTERRUPTS),
            (resolved, "by", &RESOLVERS),
        ] {
            for word in words {
                drop(family.get_or_create(&self.with(name, word)));
            }
        }
    }

    /// The same, of this tenant.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> Self {
        let one = Self { tenant: self.label(tenant), known: Arc::default(), ..self.clone() };
        one.begin();
        one
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

    /// A turn of a session has ended without a result, for this reason of the contract.
    pub fn failed(&self, reason: &'static str, session: &SessionKey) {
        self.kept.failures.get_or_create(&self.with("reason", reason)).inc();
        self.kept.last_failures.add(reason, session.clone());
    }

    /// The turns that failed last, the newest first.
    pub fn last_failures(&self) -> Vec<Failure> {
        self.kept.last_failures.all()
    }

    /// The store has answered a commit after so long, waits and repetitions included.
    pub fn committed(&self, time: Duration) {
        observe(&self.kept.commit, &self.tenant, time);
    }

    /// A process has ended that nobody had asked to, for this cause.
    pub fn exited(&self, cause: &'static str) {
        self.kept.exits.get_or_create(&self.with("cause", cause)).inc();
    }

    /// Who asked for an interrupt was told this.
    pub fn interrupt(&self, outcome: &'static str) {
        self.kept.interrupts.get_or_create(&self.with("outcome", outcome)).inc();
    }

    /// What a CLI asked waits no longer.
    pub fn resolved(&self, by: &'static str) {
        self.kept.resolved.get_or_create(&self.with("by", by)).inc();
    }

    /// A CLI says that it has used a model for so much.
    pub fn model_used(&self, name: &str, cost_usd: f64, usage: &TokenUsage) {
        let name = self.kept.models.label(name, &self.known);
        self.kept.models.add(&self.tenant, name, cost_usd, usage);
    }

    fn with(&self, name: &'static str, value: &'static str) -> Labels {
        let mut labels = self.tenant.clone();
        labels.push((name, value.to_owned()));
        labels
    }

    /// Adds all of them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Kept { queue_wait, connect, first_event, turn, commit, .. } = &*self.kept;
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
        let Kept { failures, exits, interrupts, resolved, models, .. } = &*self.kept;
        for (name, help, counts) in [
            (
                "turn_failures",
                "Turns that ended without a result, by the reason that callers are told",
                failures,
            ),
            ("cli_exits", "Processes that ended although nobody had asked them to", exits),
            ("interrupts", "Interrupts that callers asked for, by what they were told", interrupts),
            ("prompts_resolved", "What CLIs asked and is settled, by who settled it", resolved),
        ] {
            registry.register(name, help, counts.clone());
        }
        models.register(registry);
    }
}

fn observe(histograms: &Histograms, labels: &Labels, time: Duration) {
    histograms.get_or_create(labels).observe(time.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::SessionId;

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
    fn what_may_happen_is_there_before_it_has() {
        let all = Measures::new(true);
        assert!(!text(&all).contains("cli_exits_total{"));
        all.of(&TenantId::default()).exited("signal");
        let text = text(&all);
        for line in [
            "p_cli_exits_total{tenant=\"default\",cause=\"signal\"} 1",
            "p_cli_exits_total{tenant=\"default\",cause=\"memory_limit\"} 0",
            "p_interrupts_total{tenant=\"default\",outcome=\"terminated\"} 0",
            "p_prompts_resolved_total{tenant=\"default\",by=\"timeout\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }

    #[test]
    fn names_of_models_are_bounded_whatever_agents_say() {
        let all = Measures::new(false);
        let used = TokenUsage { output_tokens: 1, ..TokenUsage::default() };
        let (mad, sane) = (all.of(&TenantId::default()), TenantId::parse("sane").expect("a name"));
        for i in 0..1000 {
            mad.model_used(&format!("made-up-{i}"), 1.0, &used);
        }
        for odd in ["", "a\"b", "x\ny", "<b>", &"m".repeat(10_000)] {
            mad.model_used(odd, 1.0, &used);
        }
        // One tenant leaves room for others.
        all.of(&sane).model_used("claude-sonnet-4-6", 0.5, &used);
        let text = text(&all);
        let costs: Vec<_> =
            text.lines().filter(|line| line.starts_with("p_model_cost_usd_total{")).collect();
        assert!(costs.len() < 16, "{costs:?}");
        assert!(
            costs.contains(&"p_model_cost_usd_total{model=\"claude-sonnet-4-6\"} 0.5"),
            "{text}"
        );
        let other = costs.iter().find(|line| line.contains("model=\"other\"")).expect("the rest");
        let sum: f64 = other.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("a number");
        assert!(sum > 900.0, "{other}");
        let tokens = "p_model_tokens_total{model=\"claude-sonnet-4-6\",kind=\"output\"} 1";
        assert!(text.lines().any(|it| it == tokens), "{text}");
    }

    #[test]
    fn names_have_units_and_counters_their_suffix() {
        let measures = Measures::default();
        measures.first_event("reused", Duration::from_millis(30));
        let session = SessionId::parse("s").expect("a name");
        let session = SessionKey::new(TenantId::default(), session);
        for _ in 0..100 {
            measures.failed("CLI_EXITED", &session);
        }
        assert_eq!(measures.last_failures().len(), 50, "the last are kept");
        let text = text(&measures);
        let bucket = "p_first_event_seconds_bucket{le=\"0.05\",origin=\"reused\"} 1";
        let counter = "p_turn_failures_total{reason=\"CLI_EXITED\"} 100";
        for line in [bucket, counter] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
