//! What a process costs. In every result it tells a sum, not what the turn cost, and the
//! sum does not begin where the one of the process before ended. Owns how a sum becomes
//! costs; knows nothing of budgets or of who pays.
//!
//! Source: observed on 2.1.110, 2.1.197, 2.1.260, 2.1.300 and 2.1.330. The first three
//! begin every process at 0. From 2.1.300 on a resumed process begins at what an earlier one
//! wrote into the transcript when it ended in order (`cost-state`), so that a process that
//! was killed has left nothing. `/clear` sets the sum to 0. 2.1.330 also tells what was spent
//! since the result before. `get_session_cost` is answered in words, with four decimals up to
//! half a dollar and two above; 2.1.110 does not know it.

use serde_json::json;

use super::{
    connection::{Connection, ControlAnswer},
    frame::ResultSummary,
    request::ControlRequest,
};

/// What a turn costs at most, in US dollars: more than any does, and far from what a sum
/// of them could not hold.
const DEAREST_TURN: f64 = 1e9;

/// Decimals that are worth reading.
const MOST_DECIMALS: usize = 12;

/// Reads the costs of one process off its results, in order. An agent can speak in its
/// CLI's name: whatever it says, a cost is a number from 0 to `DEAREST_TURN`.
#[derive(Debug, Default)]
pub struct Meter {
    opening: Opening,
    /// The sum by the last result, in US dollars; by the first one, where it began.
    sum: f64,
    /// Whether the process has set its sum to 0.
    reset: bool,
}

/// Where the sum began.
#[derive(Debug, Default)]
enum Opening {
    /// That is known, and in the sum. A process that begins a conversation begins at 0.
    #[default]
    Settled,
    /// Found out with the first result. The process was asked, if it took the question.
    Asked(Option<ControlAnswer>),
}

impl Meter {
    /// Of a process that took up a conversation. Asks it for its sum and does not wait: the
    /// answer comes before the result of any prompt that is sent later.
    pub fn of_resumed(connection: &mut Connection) -> Self {
        let question = ControlRequest::new(json!({"subtype": "get_session_cost"}));
        Self { opening: Opening::Asked(connection.request(question).ok()), ..Self::default() }
    }

    /// What was spent since the result before. `paid` is the sum that an earlier process of
    /// the conversation told last, as far as that is known: a sum that begins above it
    /// holds a turn that ended without a result, which is paid for here.
    pub fn charge(&mut self, result: &ResultSummary, paid: Option<f64>) -> f64 {
        let total = result.total_cost_usd.filter(|total| total.is_finite() && *total >= 0.0);
        let since = result.cost_since_last_usd;
        if let Opening::Asked(answer) = std::mem::take(&mut self.opening) {
            let begin = match total.zip(since) {
                Some((total, since)) => (total - since).max(0.0),
                None => begun_at(answer, paid, total),
            };
            self.sum = paid.map_or(begin, |paid| begin.min(paid));
        }
        // One that says nothing of its cost leaves the sum as it was.
        let Some(total) = total else { return 0.0 };
        if total < self.sum {
            self.reset = true;
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

    /// The sum by the last result, in US dollars.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// Where a sum began, by what the process said when it began: the figure is rounded, so
/// one of the sums that are known is taken if the figure may stand for it. A version that
/// does not know the question begins at 0. Without an answer the sum is taken to go on if
/// it is no smaller than before.
fn begun_at(answer: Option<ControlAnswer>, paid: Option<f64>, total: Option<f64>) -> f64 {
    let answer = answer.and_then(|mut answer| answer.try_recv().ok());
    let figure = match &answer {
        Some(Ok(text)) => Figure::read(text),
        Some(Err(_)) => return 0.0,
        None => None,
    };
    match figure {
        Some(figure) => figure.nearest([Some(0.0), paid].into_iter().flatten()),
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
