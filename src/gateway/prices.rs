//! What tokens cost, by the model that the API names. The operator's table goes before the one that
//! is built in; where neither knows a model, it costs what the dearest known one does, so that a
//! budget holds all the same.

use std::sync::Arc;

use super::usage::Used;

/// US dollars for a search that the API makes.
const SEARCH: f64 = 0.01;

/// How many times the usual price the fast mode is taken for. It was not observed: rather too high.
const FAST: f64 = 6.0;

/// Tokens that a price is for.
const MILLION: f64 = 1e6;

/// What a million tokens of a model cost, in US dollars.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    /// What the names of its models begin with.
    pub model: String,
    /// Tokens read.
    pub input: f64,
    /// Tokens written.
    pub output: f64,
    /// Tokens put into the prompt cache for five minutes.
    pub cache_write: f64,
    /// Tokens put into it for an hour.
    pub cache_write_1h: f64,
    /// Tokens that came from it.
    pub cache_read: f64,
}

impl Price {
    /// A price whose parts for the prompt cache are in the API's usual proportions.
    pub fn of(model: impl Into<String>, input: f64, output: f64) -> Self {
        Self {
            model: model.into(),
            input,
            output,
            cache_write: 1.25 * input,
            cache_write_1h: 2.0 * input,
            cache_read: 0.1 * input,
        }
    }

    fn cost(&self, used: &Used) -> f64 {
        let parts = [
            (used.input, self.input),
            (used.output, self.output),
            (used.cached_5m, self.cache_write),
            (used.cached_1h, self.cache_write_1h),
            (used.from_cache, self.cache_read),
        ];
        parts.into_iter().map(|(tokens, price)| count(tokens) * price / MILLION).sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "no request has 2^52 tokens")]
fn count(tokens: u64) -> f64 {
    tokens as f64
}

/// A table of prices. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices(Arc<[Price]>);

/// Beginnings of names, with what a million tokens cost that are read, that are written, and that
/// come from the cache. As of 2026-11-30, when 2.1.332 reckoned with the same for all models that it
/// serves.
const BUILT_IN: [(&str, f64, f64, f64); 18] = [
    ("claude-opus-5-5", 4.0, 20.0, 0.2),
    ("claude-opus-4-0", 15.0, 75.0, 1.5),
    ("claude-opus-4-1", 15.0, 75.0, 1.5),
    ("claude-opus-4-2025", 15.0, 75.0, 1.5),
    ("claude-3-opus", 15.0, 75.0, 1.5),
    ("claude-opus", 5.0, 25.0, 0.5),
    ("claude-sonnet-5-5", 2.0, 10.0, 0.1),
    ("claude-sonnet-5", 2.0, 10.0, 0.2),
    ("claude-sonnet", 3.0, 15.0, 0.3),
    ("claude-3-7-sonnet", 3.0, 15.0, 0.3),
    ("claude-3-5-sonnet", 3.0, 15.0, 0.3),
    ("claude-haiku-5-5", 0.1, 0.5, 0.01),
    ("claude-haiku", 1.0, 5.0, 0.1),
    ("claude-3-5-haiku", 0.8, 4.0, 0.08),
    ("claude-fable-5-2", 8.0, 40.0, 0.2),
    ("claude-mythos-5-2", 8.0, 40.0, 0.2),
    ("claude-fable", 10.0, 50.0, 1.0),
    ("claude-mythos", 10.0, 50.0, 1.0),
];

impl Prices {
    /// The operator's prices, before those that are built in.
    pub fn new(own: Vec<Price>) -> Self {
        let built_in = BUILT_IN.into_iter().map(|(model, input, output, cache_read)| Price {
            cache_read,
            ..Price::of(model, input, output)
        });
        Self(own.into_iter().chain(built_in).collect())
    }

    /// What was used, in US dollars.
    pub(super) fn cost(&self, used: &Used) -> f64 {
        let usual = self.of(&used.model).map_or_else(
            || self.0.iter().map(|price| price.cost(used)).fold(0.0, f64::max),
            |price| price.cost(used),
        );
        let mode = if used.fast { FAST } else { 1.0 };
        usual * mode + count(used.searches) * SEARCH
    }

    /// The price of the longest beginning that fits; of two, the one that comes first.
    fn of(&self, model: &str) -> Option<&Price> {
        let fitting = self.0.iter().filter(|price| model.starts_with(&price.model));
        fitting.rev().max_by_key(|price| price.model.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_costs_what_its_longest_name_does_and_an_unknown_one_the_most() {
        let prices = Prices::new(vec![
            Price::of("claude-opus", 6.0, 30.0),
            Price { cache_read: 2.0, ..Price::of("own-model", 1.0, 1.0) },
        ]);
        let used = |model: &str| Used { model: model.into(), input: 1_000_000, ..Used::default() };
        for (model, cost) in [
            ("claude-opus-4-1-20250805", 15.0),
            // The operator's own goes first.
            ("claude-opus-4-8", 6.0),
            ("claude-opus-5-5", 4.0),
            ("claude-fable-5", 10.0),
            ("claude-haiku-4-5-20251001", 1.0),
            ("own-model-7", 1.0),
            ("claude-something-new", 15.0),
            ("something-new", 15.0),
            ("", 15.0),
        ] {
            let told = prices.cost(&used(model));
            assert!((told - cost).abs() < 1e-9, "{model}: {told}");
        }
        let all = Used {
            model: "own-model".into(),
            input: 1_000_000,
            output: 1_000_000,
            cached_5m: 1_000_000,
            cached_1h: 1_000_000,
            from_cache: 1_000_000,
            searches: 3,
            fast: false,
        };
        assert!((prices.cost(&all) - (1.0 + 1.0 + 1.25 + 2.0 + 2.0 + 0.03)).abs() < 1e-9);
        let fast = Used { fast: true, ..used("claude-haiku-4-5") };
        assert!((prices.cost(&fast) - 6.0).abs() < 1e-9);
    }
}
