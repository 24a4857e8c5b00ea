//! What a process costs. In every result it tells a sum, not what the turn cost, and the
//! sum does not begin where the one of the process before ended. Owns how a sum becomes
//! costs; knows nothing of budgets or of who pays.
//!
//! Between results a process is asked: subagents work behind a turn's result, some versions
//! hold only the main conversation to `--max-budget-usd`, and a process may end without
//! another result. Its answer is rounded. What it says at least is taken, and the rest is
//! paid with the next result.
//!
//! Source: observed on 2.1.110, 2.1.197, 2.1.260, 2.1.300 and 2.1.330. The first three
//! begin every process at 0. From 2.1.300 on a resumed process begins at what an earlier one
//! wrote into the transcript when it ended in order (`cost-state`), so that a process that
//! was killed has left nothing. Agents write to the same file: it counts only where what
//! the process says, rounded, may stand for it. `/clear` sets the sum to 0. 2.1.330 also tells what was spent
//! since the result before. `get_session_cost` is answered in words, with four decimals up to
//! half a dollar and two above, at any time and within milliseconds; it holds each round of
//! a subagent as soon as that is over (2.1.197, 2.1.332). 2.1.110 and 2.1.150 do not know it.

mod models;
mod wire;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::oneshot::error::TryRecvError, time::Instant};

pub use wire::Wire;

use self::models::ByModel;
use super::{
    connection::{Connection, ControlAnswer},
    frame::{FrameKind, ModelUse, ResultSummary},
    request::ControlRequest,
};
use crate::domain::usage::TokenUsage;

/// What a turn costs at most, in US dollars: more than any does, and far from what a sum
/// of them could not hold.
const DEAREST_TURN: f64 = 1e9;

/// How long after a process has worked it is asked what that has cost.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// Decimals that are worth reading.
const MOST_DECIMALS: usize = 12;

/// Reads the costs of one process off its results, in order. An agent can speak in its
/// CLI's name: whatever it says, a cost is a number from 0 to `DEAREST_TURN`.
#[derive(Debug, Default)]
pub struct Meter {
    /// Counts in its place, where somebody sees what it uses.
    wire: Option<Arc<dyn Wire>>,
    opening: Opening,
    /// The sum as it was told last, in US dollars; before that, where it began.
    sum: f64,
    /// Where it began.
    begun: f64,
    /// The same of each model.
    models: ByModel,
    /// Whether the process has set its sum to 0.
    reset: bool,
    /// What it was asked and has not answered.
    question: Option<ControlAnswer>,
    /// When it began to do what it has not told the sum of.
    worked: Option<Instant>,
    /// Whether it cannot be asked: it does not know the question.
    mute: bool,
}

/// Where the sum began.
#[derive(Debug, Default)]
enum Opening {
    /// That is known, and in the sum. A process that begins a conversation begins at 0.
    #[default]
    Settled,
    /// Found out with the first result.
    Asked {
        /// The process was asked, if it took the question.
        answer: Option<ControlAnswer>,
        /// The sum that is saved in the transcript.
        saved: Option<f64>,
    },
}

impl Meter {
    /// Of a process that took up a conversation in whose transcript this sum is `saved`.
    /// Asks it for its sum and does not wait: the answer comes before the result of any
    /// prompt that is sent later.
    pub fn of_resumed(connection: &mut Connection, saved: Option<f64>) -> Self {
        let opening = Opening::Asked { answer: connection.request(session_cost()).ok(), saved };
        Self { opening, ..Self::default() }
    }

    /// Has what a process uses counted by whoever sees it.
    #[must_use]
    pub fn by_wire(self, wire: Option<Arc<dyn Wire>>) -> Self {
        Self { wire, ..self }
    }

    /// What the process may still spend, as far as anybody can hold it to that in time.
    pub fn allow(&self, left: Option<f64>) {
        if let Some(wire) = &self.wire {
            wire.allow(left);
        }
    }

    /// Takes note of what a process prints: most of what costs something shows in a frame.
    pub fn note(&mut self, kind: &FrameKind) {
        let works = matches!(
            kind,
            FrameKind::Assistant { .. }
                | FrameKind::User { .. }
                | FrameKind::StreamEvent
                | FrameKind::TaskStarted(_)
                | FrameKind::TaskProgress
                | FrameKind::TaskEnded { .. }
        );
        if works {
            self.worked.get_or_insert_with(Instant::now);
        }
    }

    /// Whether the process may have spent what it has not told.
    pub fn is_behind(&self) -> bool {
        match &self.wire {
            Some(wire) => wire.has_more(),
            None => !self.mute && self.worked.is_some(),
        }
    }

    /// When to ask the process for its sum; `None` is not before it works.
    pub fn ask_at(&self) -> Option<Instant> {
        let ready = !self.mute && self.question.is_none();
        self.worked.filter(|_| ready).map(|since| since + ASK_AFTER)
    }

    /// Asks the process for its sum. Its answer comes with what it prints.
    pub fn ask(&mut self, connection: &mut Connection) {
        self.worked = None;
        if self.wire.is_some() {
            return;
        }
        // A process that takes no more input has nobody to ask.
        self.question = connection.request(session_cost()).ok();
    }

    /// Whether an answer is waited for.
    pub fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    /// What was spent by the answer to [`Self::ask`], as far as one has come. `paid` is as
    /// for [`Self::charge`], and results that were printed before are charged after this.
    pub fn heard(&mut self, paid: Option<f64>) -> Charge {
        match &self.wire {
            Some(wire) => Charge::of_wire(wire.as_ref()),
            None => Charge { cost_usd: self.answered(paid), ..Charge::default() },
        }
    }

    fn answered(&mut self, paid: Option<f64>) -> f64 {
        let Some(question) = &mut self.question else { return 0.0 };
        let answer = match question.try_recv() {
            Err(TryRecvError::Empty) => return 0.0,
            Err(TryRecvError::Closed) => None,
            Ok(answer) => Some(answer),
        };
        self.question = None;
        self.mute = matches!(answer, Some(Err(_)));
        let Some(figure) = answer.and_then(Result::ok).as_deref().and_then(Figure::read) else {
            return 0.0;
        };
        let told = figure.at_least();
        self.open(paid, Some(told), None);
        // A smaller sum is of a process that has set it to 0: its next result says so, too.
        let cost = (told - self.sum).clamp(0.0, DEAREST_TURN);
        self.sum += cost;
        cost
    }

    /// Finds out where the sum began, once.
    fn open(&mut self, paid: Option<f64>, total: Option<f64>, since: Option<f64>) {
        let Opening::Asked { answer, saved } = std::mem::take(&mut self.opening) else { return };
        let begin = match total.zip(since) {
            Some((total, since)) => (total - since).max(0.0),
            None => begun_at(answer, paid, saved, total),
        };
        self.sum = paid.map_or(begin, |paid| begin.min(paid));
        self.begun = begin;
    }

    /// What was spent since the result before. `paid` is the sum that an earlier process of
    /// the conversation told last, as far as that is known: a sum that begins above it
    /// holds a turn that ended without a result, which is paid for here.
    pub fn charge(&mut self, result: &ResultSummary, paid: Option<f64>) -> Charge {
        if let Some(wire) = &self.wire {
            self.worked = None;
            return Charge::of_wire(wire.as_ref());
        }
        let cost_usd = self.told(result, paid);
        let models = self.models.since(&result.models, self.begun == 0.0);
        Charge { cost_usd, usage: result.usage, models }
    }

    /// What a result says.
    fn told(&mut self, result: &ResultSummary, paid: Option<f64>) -> f64 {
        let total = result.total_cost_usd.filter(|total| total.is_finite() && *total >= 0.0);
        let since = result.cost_since_last_usd;
        self.open(paid, total, since);
        self.worked = None;
        // One that says nothing of its cost leaves the sum as it was.
        let Some(total) = total else { return 0.0 };
        if total < self.sum {
            self.reset = true;
            self.models.reset();
            self.sum = since.map_or(0.0, |since| (total - since).max(0.0));
        }
        let cost = (total - self.sum).clamp(0.0, DEAREST_TURN);
        self.sum = total;
        cost
    }

    /// Whether the process has set its sum to 0 since it began.
    pub fn was_reset(&self) -> bool {
        self.reset
    }

    /// The sum as it was told last, in US dollars.
    pub fn sum(&self) -> f64 {
        self.wire.as_ref().map_or(self.sum, |wire| wire.sum())
    }
}

/// What has come to be known of what a process has used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Charge {
    /// US dollars.
    pub cost_usd: f64,
    /// Tokens, which a process tells with a result only.
    pub usage: TokenUsage,
    /// The same of each model, where that is known.
    pub models: Option<Vec<ModelUse>>,
}

impl Charge {
    fn of_wire(wire: &dyn Wire) -> Self {
        let models = wire.take();
        let (cost_usd, usage) = wire::sum(&models);
        Self { cost_usd, usage, models: Some(models) }
    }
}

fn session_cost() -> ControlRequest {
    ControlRequest::new(json!({"subtype": "get_session_cost"}))
}

/// Where a sum began, by what the process said when it began: the figure is rounded, so
/// one of the sums that are known is taken if the figure may stand for it. After a kill it
/// stands for the saved one. A version that does not know the question begins at 0. Without
/// an answer the sum is taken to go on if it is no smaller than before.
fn begun_at(
    answer: Option<ControlAnswer>,
    paid: Option<f64>,
    saved: Option<f64>,
    total: Option<f64>,
) -> f64 {
    let answer = answer.and_then(|mut answer| answer.try_recv().ok());
    let figure = match &answer {
        Some(Ok(text)) => Figure::read(text),
        Some(Err(_)) => return 0.0,
        None => None,
    };
    match figure {
        Some(figure) => figure.nearest([Some(0.0), paid, saved].into_iter().flatten()),
        None => paid.filter(|paid| total.is_none_or(|total| total >= *paid)).unwrap_or(0.0),
    }
}

/// An amount in words.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figure {
    dollars: f64,
    /// By how much it may have been rounded.
    rounding: f64,
}

impl Figure {
    /// The first amount behind `cost:` in an answer.
    fn read(answer: &str) -> Option<Self> {
        let (_, rest) = answer.split_once("cost:")?;
        let (_, rest) = rest.split_once('$')?;
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '.' | ',')).unwrap_or(rest.len());
        let digits = rest[..end].replace(',', "");
        let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let decimals = i32::try_from(decimals.min(MOST_DECIMALS)).unwrap_or_default();
        let dollars: f64 = digits.parse().ok()?;
        // What lies just at the edge may have been rounded either way.
        let rounding = 0.500_001 * 10_f64.powi(-decimals);
        dollars.is_finite().then_some(Self { dollars, rounding })
    }

    /// What it stands for at least.
    fn at_least(self) -> f64 {
        (self.dollars - self.rounding).max(0.0)
    }

    /// The nearest of the amounts that it may stand for, else what it says.
    fn nearest(self, amounts: impl Iterator<Item = f64>) -> f64 {
        let distance = |amount: &f64| (amount - self.dollars).abs();
        amounts
            .filter(|amount| distance(amount) <= self.rounding)
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .unwrap_or(self.dollars)
    }
}

#[cfg(test)]
mod tests;
