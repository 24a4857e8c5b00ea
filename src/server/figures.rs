//! The figures of `GetStats` as Prometheus has them: made anew for each scrape, of what is true
//! then and of what this life of the service has counted.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::processes::Used;
use crate::{
    counters::Totals, measures::Labels, os::descriptors, pool::PoolStats, rpc::snapshot::Facts,
};

type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Sums = Family<Labels, Counter<f64, AtomicU64>>;

/// A figure: its name and what it is.
type Named = (&'static str, &'static str);

const TAKEN: Named =
    ("processes_taken", "Processes that turns have begun on, by where they come from");
const STARTS: Named = ("process_starts", "Processes of sessions, started for them or kept ready");
const MISSES: Named = ("spare_misses", "Sessions that no spare was taken for, by the reason");
const TIMEOUTS: Named = ("timeouts", "Turns that a watchdog has ended, by its kind");
const REMOVED: Named = ("sessions_removed", "Sessions that the cleanup has taken out of the pool");

/// A counter, the figure that it is, and its label where several counters are one figure.
type Count = (&'static str, Named, Option<(&'static str, &'static str)>);

const COUNTS: [Count; 27] = [
    ("turns", ("turns", "Turns that were taken"), None),
    ("messages", ("prompts_written", "Prompts that were written to CLIs"), None),
    ("frames", ("frames", "Frames that CLIs have printed"), None),
    ("stray_lines", ("stray_lines", "Lines of CLIs that are not of the protocol"), None),
    ("sessions_created", TAKEN, Some(("origin", "created"))),
    ("sessions_reused", TAKEN, Some(("origin", "reused"))),
    ("sessions_resumed", TAKEN, Some(("origin", "resumed"))),
    ("cold_starts", STARTS, Some(("kind", "cold"))),
    ("from_spare", STARTS, Some(("kind", "spare"))),
    ("connect_failures", ("connect_failures", "Processes that did not start"), None),
    ("spare_misses_none_ready", MISSES, Some(("reason", "none_ready"))),
    ("spare_misses_options", MISSES, Some(("reason", "options"))),
    ("spare_misses_conversation", MISSES, Some(("reason", "conversation"))),
    ("spare_misses_folder", MISSES, Some(("reason", "folder"))),
    ("spare_misses_failed", MISSES, Some(("reason", "failed"))),
    ("interrupted", ("turns_interrupted", "Turns that were interrupted"), None),
    (
        "interrupt_escalations",
        ("interrupt_escalations", "Interrupts that took ending the process"),
        None,
    ),
    ("first_chunk_timeouts", TIMEOUTS, Some(("kind", "first_chunk"))),
    ("stalled", TIMEOUTS, Some(("kind", "stall"))),
    ("stuck", TIMEOUTS, Some(("kind", "stuck"))),
    (
        "credentials_refused",
        ("credentials_refused", "Turns ended because the API refused the credentials"),
        None,
    ),
    ("capacity_refusals", ("capacity_refusals", "Calls refused for want of room"), None),
    ("hibernations", ("hibernations", "Processes let go of sessions with nothing to do"), None),
    (
        "hibernations_under_pressure",
        ("hibernations_under_pressure", "Those of them that were let go for others"),
        None,
    ),
    ("expired", REMOVED, Some(("reason", "expired"))),
    ("idle_removed", REMOVED, Some(("reason", "idle"))),
    (
        "background_work_ended",
        ("background_work_ended", "Times that work behind turns was ended for its age"),
        None,
    ),
];

/// Figures of one scrape.
#[derive(Debug, Default)]
pub struct Figures {
    gauges: BTreeMap<&'static str, (&'static str, Option<Unit>, Gauges)>,
    sums: BTreeMap<&'static str, (&'static str, Sums)>,
}

impl Figures {
    /// What concerns the service as a whole.
    pub fn of_service(&mut self, stats: &PoolStats, facts: &Facts, serving: bool) {
        let none = Labels::new();
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("cli_version", facts.cli_version.clone()),
            ("sandbox", facts.sandbox.to_owned()),
        ];
        self.gauge("build_info", "What runs: 1, with labels", None, &build, 1.0);
        let flag = |holds| f64::from(u8::from(holds));
        let count = |count: usize| count as f64;
        let (usage, store) = (&stats.usage, &stats.store);
        for (name, help, value) in [
            ("serving", "Whether new turns are taken", flag(serving)),
            ("draining", "Whether the service stops", flag(stats.draining)),
            ("sessions_limit", "Sessions at most", count(stats.max_sessions)),
            ("processes", "Live CLI processes, spares included", count(facts.processes)),
            ("processes_limit", "Live CLI processes at most", count(facts.max_processes)),
            ("processes_starting", "CLI processes that start", f64::from(facts.starting)),
            ("spares", "CLI processes that are kept ready", count(facts.spares)),
            ("spares_starting", "Those that start to be kept so", count(facts.spares_starting)),
            ("runtime_tasks", "Tasks of the service's runtime", facts.tasks as f64),
            ("store_failing", "Whether commits fail", flag(store.failing.is_some())),
        ] {
            self.gauge(name, help, None, &none, value);
        }
        let uptime = stats.uptime.as_secs_f64();
        self.gauge("uptime", "How long the service runs", Some(Unit::Seconds), &none, uptime);
        let budget = ("budget", "What prompts, requests and turns' logs may take");
        let used = ("budget_used", "What they take");
        let database = ("store_size", "The database and its log, where the store says so");
        let of = |name: &str| vec![("of", name.to_owned())];
        for ((name, help), labels, value) in [
            (budget, of("memory"), usage.memory_limit),
            (budget, of("disk"), usage.disk_limit),
            (used, of("memory"), usage.memory),
            (used, of("disk"), usage.disk),
            (database, of("database"), store.database_bytes),
            (database, of("log"), store.log_bytes),
        ] {
            self.gauge(name, help, Some(Unit::Bytes), &labels, value as f64);
        }
        for (name, help, value) in [
            ("budget_refusals", "Claims that the budgets refused", usage.refused),
            ("turns_dropped", "Ended turns whose events went before their time", usage.dropped),
            ("store_failures", "Transactions that failed", store.failed_transactions),
        ] {
            self.sum((name, help), &none, value as f64);
        }
    }

    /// What the processes that the service has started use, all together.
    pub fn of_processes(&mut self, used: &Used) {
        let none = Labels::new();
        let help = "Resident memory of all CLI processes and of what they have started";
        self.gauge("processes_memory", help, Some(Unit::Bytes), &none, used.memory as f64);
        let help = "Processor time of all CLI processes, of those that have ended as well";
        self.sum(("processes_cpu_seconds", help), &none, used.cpu.as_secs_f64());
    }

    /// What the service uses itself, by the names that all programs have for it.
    pub fn of_this_process(&mut self, used: &Used) {
        let none = Labels::new();
        let help = "Processor time of the service itself";
        self.sum(("process_cpu_seconds", help), &none, used.own_cpu.as_secs_f64());
        let help = "Resident memory of the service itself";
        let bytes = Some(Unit::Bytes);
        self.gauge("process_resident_memory", help, bytes, &none, used.own_memory as f64);
        if let Some(open) = used.own_descriptors {
            let help = "File descriptors that the service has open";
            self.gauge("process_open_fds", help, None, &none, open as f64);
        }
        let help = "File descriptors that it may have open";
        self.gauge("process_max_fds", help, None, &none, descriptors::limit() as f64);
    }

    /// What concerns sessions, of all tenants or of one that has these labels.
    pub fn of_sessions(&mut self, stats: &PoolStats, totals: &Totals, labels: &Labels) {
        let with = |name: &'static str, value: &str| {
            [labels.as_slice(), &[(name, value.to_owned())]].concat()
        };
        let (active, hibernated) = (stats.active_sessions, stats.hibernated_sessions);
        let others = stats.total_sessions.saturating_sub(active + hibernated);
        for (state, sessions) in [("active", active), ("hibernated", hibernated), ("other", others)]
        {
            let help = "Sessions: with a process at work or ready, without one, or in between";
            self.gauge("sessions", help, None, &with("state", state), sessions as f64);
        }
        let (running, queued) = (stats.streaming_turns as f64, stats.queued_turns as f64);
        self.gauge("turns_running", "Turns that run", None, labels, running);
        let help = "Turns that wait behind others of their session";
        self.gauge("turns_queued", help, None, labels, queued);
        let help = "What CLIs ask and wait for, twenty at most of each session";
        self.gauge("prompts_open", help, None, labels, stats.open_prompts as f64);
        for (counter, figure, label) in COUNTS {
            let count = totals.counts.get(counter).copied().unwrap_or_default();
            let labels = label.map_or_else(|| labels.clone(), |(name, value)| with(name, value));
            self.sum(figure, &labels, count as f64);
        }
        let cost = ("cost_usd", "US dollars, as the CLI estimates them");
        self.sum(cost, labels, totals.spent.cost_usd);
        let usage = &totals.spent.usage;
        for (kind, tokens) in [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_creation", usage.cache_creation_input_tokens),
            ("cache_read", usage.cache_read_input_tokens),
        ] {
            self.sum(("tokens", "Tokens, by their kind"), &with("kind", kind), tokens as f64);
        }
    }

    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        labels: &Labels,
        value: f64,
    ) {
        let (_, _, gauges) =
            self.gauges.entry(name).or_insert_with(|| (help, unit, Gauges::default()));
        gauges.get_or_create(labels).set(value);
    }

    fn sum(&mut self, (name, help): Named, labels: &Labels, value: f64) {
        let (_, sums) = self.sums.entry(name).or_insert_with(|| (help, Sums::default()));
        sums.get_or_create(labels).inc_by(value);
    }

    /// Adds all of them to a registry.
    pub fn register(self, registry: &mut Registry) {
        for (name, (help, unit, gauges)) in self.gauges {
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauges),
                None => registry.register(name, help, gauges),
            }
        }
        for (name, (help, sums)) in self.sums {
            registry.register(name, help, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;

    #[test]
    fn every_counter_of_get_stats_is_a_figure() {
        // Times are in the histograms, and how turns and processes end is told by `Measures`.
        let elsewhere =
            ["cold_start_micros", "resume_micros", "turns_completed", "turns_failed", "cli_exits"];
        for name in Counters::default().totals().counts.keys() {
            let is_figure = COUNTS.iter().any(|(counter, ..)| counter == name);
            assert_ne!(is_figure, elsewhere.contains(&name.as_str()), "{name}");
        }
    }
}
