//! What a session spends, and whether it may spend more. A process tells sums of its own;
//! its lease reads the cost of each turn off them, and here they become the session's and
//! its tenant's. A budget is the session's too: each process is given what is left of it.

use super::task::SessionTask;
use crate::{
    cli::{cost::Meter, frame::ResultSummary, options::Options},
    counters::Spent,
    failure::Cause,
    store::Record,
    supply::Lease,
};

/// The option that says what a session may spend, by its name in the contract.
pub const BUDGET: &str = "max_budget_usd";

/// Less than this share of a budget is a rounding error of sums, and no money.
const DUST: f64 = 1e-9;

impl SessionTask {
    /// Takes note of what a turn cost.
    pub(super) fn spend(&mut self, meter: &mut Meter, summary: &ResultSummary) -> Spent {
        let cost_usd = meter.charge(summary, self.reported_cost());
        let spent = Spent { cost_usd, usage: summary.usage };
        self.reported = Some((self.status.cli_session_id, meter.sum()));
        self.status.spent.add(&spent);
        self.around.tenant.spend(&spent);
        spent
    }

    /// The sum that a process told last in the conversation that the session has now.
    pub(super) fn reported_cost(&self) -> Option<f64> {
        let (conversation, sum) = self.reported?;
        (conversation == self.status.cli_session_id).then_some(sum)
    }

    /// Takes over what an earlier life of the session kept of it. Nothing told and nothing
    /// spent are kept alike, and nothing spent is nothing to go by.
    pub(super) fn recall_cost(&mut self, record: &Record) {
        let told = Some(record.reported_cost_usd).filter(|sum| *sum > 0.0);
        self.reported = told.map(|sum| (record.cli_session_id, sum));
    }

    /// What these options leave the session to spend; `None` is no bound.
    fn left(&self, options: &Options) -> Option<f64> {
        options.max_budget_usd.map(|budget| budget - self.status.spent.cost_usd)
    }

    /// Whether a turn with these options may spend anything.
    pub(super) fn check_budget(&self, options: &Options) -> Result<(), Cause> {
        let limit = options.max_budget_usd.unwrap_or(f64::INFINITY);
        match self.left(options) {
            Some(left) if left <= limit * DUST => {
                Err(Cause::BudgetExhausted { limit, spent: self.status.spent.cost_usd })
            }
            _ => Ok(()),
        }
    }

    /// Whether a process was born with options that hold no longer. One that has set its sum
    /// to 0 may take its budget for full again.
    pub(super) fn is_outdated(&self, lease: &Lease) -> bool {
        let refilled = lease.meter.was_reset() && self.status.options.max_budget_usd.is_some();
        lease.outdated || refilled
    }

    /// The options that the next process is born with: its budget is what is left, since it
    /// counts by itself, from its own beginning.
    pub(super) fn options_at_start(&self) -> Options {
        let options = self.status.acquired.to_start(&self.status.options);
        Options { max_budget_usd: self.left(&options), ..options }
    }
}
