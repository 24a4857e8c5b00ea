//! What a process uses, counted where it cannot lie: on its way to the API. Where there is such a
//! count, what the process says of its costs counts for nothing.

use crate::{cli::frame::ModelUse, domain::usage::TokenUsage};

/// A count of what one process uses, by model.
pub trait Wire: Send + Sync + std::fmt::Debug {
    /// What was used since it was taken last.
    fn take(&self) -> Vec<ModelUse>;
    /// Whether there is something to take.
    fn has_more(&self) -> bool;
    /// US dollars since the process began.
    fn sum(&self) -> f64;
    /// What the process may still spend, in US dollars, beside what was taken; `None` is no bound.
    fn allow(&self, left: Option<f64>);
}

/// The sum of what several models were used for: US dollars and tokens.
pub(super) fn sum(models: &[ModelUse]) -> (f64, TokenUsage) {
    let mut tokens = TokenUsage::default();
    models.iter().for_each(|model| tokens.add(&model.usage));
    (models.iter().map(|model| model.cost_usd).sum(), tokens)
}
