//! What each model was used for between two results of a process. The newest versions tell it; of
//! the others it is what their sums have grown by. Sums of a process that took up a conversation may
//! begin at what an earlier process has told: then its first result says nothing.

use std::collections::HashMap;

use super::DEAREST_TURN;
use crate::cli::frame::{ModelUse, ModelsTold};

/// What a result tells of tokens at most, of each kind: more than any does, and far from what a sum of
/// them could not hold.
const MOST_TOKENS: u64 = 1 << 40;

/// The sums that were told last.
#[derive(Debug, Default)]
pub(super) struct ByModel {
    told: Option<HashMap<String, ModelUse>>,
}

impl ByModel {
    /// The process has set its sums to 0.
    pub(super) fn reset(&mut self) {
        self.told = Some(HashMap::new());
    }

    /// What was used since the result before; `None` if that cannot be known.
    pub(super) fn since(&mut self, told: &ModelsTold, from_zero: bool) -> Option<Vec<ModelUse>> {
        match told {
            ModelsTold::Since(models) => {
                // The next result may not say it.
                self.told = None;
                Some(models.iter().cloned().map(bounded).collect())
            }
            ModelsTold::Sums(sums) if sums.is_empty() => None,
            ModelsTold::Sums(sums) => {
                let now = sums.iter().map(|it| (it.name.clone(), it.clone())).collect();
                let before = self.told.replace(now);
                let before = before.or_else(|| from_zero.then(HashMap::new))?;
                let more = |it: &ModelUse| match before.get(&it.name) {
                    Some(before) if before.cost_usd <= it.cost_usd => ModelUse {
                        name: it.name.clone(),
                        cost_usd: it.cost_usd - before.cost_usd,
                        usage: it.usage.since(&before.usage),
                    },
                    Some(_) | None => it.clone(),
                };
                Some(sums.iter().map(more).map(bounded).collect())
            }
        }
    }
}

fn bounded(mut told: ModelUse) -> ModelUse {
    told.cost_usd = told.cost_usd.clamp(0.0, DEAREST_TURN);
    let usage = &mut told.usage;
    for tokens in [
        &mut usage.input_tokens,
        &mut usage.output_tokens,
        &mut usage.cache_creation_input_tokens,
        &mut usage.cache_read_input_tokens,
    ] {
        *tokens = (*tokens).min(MOST_TOKENS);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::TokenUsage;

    fn used(name: &str, cost_usd: f64, output_tokens: u64) -> ModelUse {
        let usage = TokenUsage { output_tokens, ..TokenUsage::default() };
        ModelUse { name: name.to_owned(), cost_usd, usage }
    }

    #[test]
    fn sums_are_told_apart_into_what_each_turn_used() {
        let mut models = ByModel::default();
        let first = ModelsTold::Sums(vec![used("a", 1.0, 10)]);
        assert_eq!(models.since(&first, true), Some(vec![used("a", 1.0, 10)]));
        let second = ModelsTold::Sums(vec![used("a", 1.5, 12), used("b", 0.5, 3)]);
        let wanted = vec![used("a", 0.5, 2), used("b", 0.5, 3)];
        assert_eq!(models.since(&second, true), Some(wanted));
        models.reset();
        let third = ModelsTold::Sums(vec![used("a", 0.25, 1)]);
        assert_eq!(models.since(&third, true), Some(vec![used("a", 0.25, 1)]));
    }

    #[test]
    fn sums_that_began_elsewhere_say_nothing_until_the_next_result() {
        let mut models = ByModel::default();
        assert_eq!(models.since(&ModelsTold::Sums(vec![used("a", 7.0, 70)]), false), None);
        let next = ModelsTold::Sums(vec![used("a", 7.5, 75)]);
        assert_eq!(models.since(&next, false), Some(vec![used("a", 0.5, 5)]));
        let told = ModelsTold::Since(vec![used("a", 0.25, 1)]);
        assert_eq!(models.since(&told, false), Some(vec![used("a", 0.25, 1)]));
        assert_eq!(models.since(&ModelsTold::default(), true), None);
    }

    #[test]
    fn what_no_model_uses_is_not_believed() {
        let told = ModelsTold::Since(vec![used("a", f64::MAX, u64::MAX)]);
        let more = ByModel::default().since(&told, true).expect("told");
        assert_eq!(more, [used("a", DEAREST_TURN, MOST_TOKENS)]);
    }
}
