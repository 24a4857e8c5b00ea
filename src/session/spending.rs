//! What a session spends, and whether it may spend more. A process tells sums of its own;
//! its lease reads the cost of each turn off them, and here they become the session's and
//! its tenant's. A budget is the session's too: each process is given what is left of it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::{
    command::CloseReason,
    process::Process,
    state::{Active, DetachReason, Phase},
    task::SessionTask,
};
use crate::{
    cli::{
        cost::{Charge, Meter},
        frame::{Frame, ModelUse, ResultSummary},
        process::StopGrace,
        turn::Aside,
    },
    counters::Spent,
    domain::{
        failure::Cause,
        options::Options,
        usage::{TokenUsage, is_spent},
    },
    store::Record,
    supply::Lease,
};

/// The option that says what a session may spend, by its name in the contract.
pub const BUDGET: &str = "max_budget_usd";

/// How long a process that is about to end may take to say what it has spent: milliseconds
/// were seen.
const LAST_ANSWER: Duration = Duration::from_secs(1);

impl SessionTask {
    /// Takes note of what a turn cost.
    pub(super) fn spend(&mut self, meter: &mut Meter, summary: &ResultSummary) -> Spent {
        let charge = meter.charge(summary, self.reported_cost());
        self.measure_models(charge.models, charge.cost_usd, &charge.usage);
        self.pay(meter, charge.cost_usd, charge.usage)
    }

    /// Counts what was used by model. Where a process does not say it, that is the session's own.
    fn measure_models(&self, told: Option<Vec<ModelUse>>, cost_usd: f64, usage: &TokenUsage) {
        let measures = &self.ctx.tenant.measures;
        match told {
            Some(models) => {
                for ModelUse { name, cost_usd, usage } in &models {
                    measures.model_used(name, *cost_usd, usage);
                }
            }
            None if cost_usd == 0.0 && *usage == TokenUsage::default() => {}
            None => {
                let (acquired, asked) = (&self.status.acquired, &self.status.options);
                let own = acquired.model.as_deref().or(asked.model.as_deref());
                measures.model_used(own.unwrap_or_default(), cost_usd, usage);
            }
        }
    }

    /// Takes note of what a process says that it has spent since it was asked: between the
    /// results of turns, too.
    pub(super) fn hear_cost(&mut self, meter: &mut Meter) -> Spent {
        let Charge { cost_usd, usage, models } = meter.heard(self.reported_cost());
        if cost_usd == 0.0 && usage == TokenUsage::default() {
            return Spent::default();
        }
        self.journal.remember_soon();
        if models.is_some() {
            self.measure_models(models, cost_usd, &usage);
        }
        let spent = self.pay(meter, cost_usd, usage);
        self.show();
        spent
    }

    fn pay(&mut self, meter: &Meter, cost_usd: f64, usage: TokenUsage) -> Spent {
        let spent = Spent { cost_usd, usage };
        self.reported = Some((self.status.cli_session_id, meter.sum()));
        self.status.note_spent(&spent);
        self.ctx.tenant.spend(&spent);
        spent
    }

    /// What a process says of itself that is about to end, or has ended.
    pub(super) fn hear_last(&mut self, meter: &mut Meter, frames: Vec<Frame>) {
        self.hear_cost(meter);
        for frame in frames {
            self.hear(&frame);
            if let Aside::Over(summary) = Aside::of(&frame) {
                self.spend(meter, summary);
                self.journal.remember();
            }
        }
    }

    /// Asks a process what it has spent since it said so last. What others have counted is there
    /// at once.
    pub(super) fn ask_cost(&mut self, lease: &mut Lease) {
        lease.ask_cost();
        self.hear_cost(&mut lease.meter);
    }

    /// The same of a process that has a turn.
    pub(super) fn ask_of_turn(&mut self, active: &mut Active) {
        let lease = &mut active.process.lease;
        lease.ask_cost();
        let looked = self.hear_cost(&mut lease.meter);
        active.turn.spent.add(&looked);
        active.turn.note_spending(self.check_running(active.turn.reader.is_asked_for()));
    }

    /// Says what a process may spend in a turn that begins, to whoever can hold it to that.
    pub(super) fn allow_spending(&self, lease: &Lease) {
        lease.meter.allow(self.left(&self.status.options));
    }

    /// Asks a process that is about to end what it has spent since it said so last: nobody
    /// will be able to ask it later.
    pub(super) async fn ask_last(&mut self, lease: &mut Lease) {
        if !lease.meter.is_behind() {
            return;
        }
        self.ask_cost(lease);
        let deadline = Instant::now() + LAST_ANSWER;
        while lease.meter.is_asked() {
            let mut frames = Vec::new();
            let read = timeout_at(deadline, lease.connection.read(&mut frames));
            let read = self.while_busy(read).await;
            self.hear_last(&mut lease.meter, frames);
            if !matches!(read, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Whether anything may be spent that no caller waits for: by a subagent behind a turn,
    /// or in a turn that the CLI begins by itself.
    pub(super) fn check_unasked(&self) -> Result<(), Cause> {
        self.check_budget(&self.status.options)?;
        self.ctx.tenant.admit_cost()
    }

    /// Whether a turn that runs may spend more. The day's bound of the tenant lets turns
    /// end that somebody has asked for.
    pub(super) fn check_running(&self, asked_for: bool) -> Result<(), Cause> {
        if asked_for { self.check_budget(&self.status.options) } else { self.check_unasked() }
    }

    /// Whether a process spends between turns what the session does not have.
    pub(super) fn spends_too_much(&self, process: &Process) -> bool {
        // The end of a task that the process has announced may begin a turn that nobody pays.
        let works = process.traits.quiet_from(Instant::now()).is_none()
            || process.lease.meter.is_behind()
            || !process.announced.is_empty();
        works && self.check_unasked().is_err()
    }

    /// Ends a process that may spend nothing more, with all that works in its
    /// background. If the budget grows, the next turn resumes.
    pub(super) async fn stop_spending(&mut self, process: Box<Process>) -> Phase {
        info!(
            session_id = %self.status.session_id,
            client_id = %process.lease.client_id,
            cost_usd = self.status.spent.cost_usd,
            "budget_exhausted"
        );
        self.part_with(process, StopGrace::FIRM).await;
        if self.ephemeral && self.queue.is_empty() {
            return Phase::Closing(None, CloseReason::Ephemeral);
        }
        self.detach_reason = DetachReason::Hibernated;
        Phase::Detached
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
            Some(left) if is_spent(limit, left) => {
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
