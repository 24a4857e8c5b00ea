//! Cost and tokens by model. A model's name is what a CLI says, and an agent can speak in its CLI's
//! name: a name is a label only if it looks like one of a model and while there is room, of the
//! tenant's share and of all. What has no label of its own is `other`.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::Labels;
use crate::domain::usage::TokenUsage;

/// Names that are labels, of all tenants and of one.
const MOST: usize = 40;
const MOST_OF_A_TENANT: usize = 10;
/// Characters of a name.
const LONGEST: usize = 80;
/// What has no label of its own.
const OTHER: &str = "other";

/// The names that a tenant has made labels of.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<BTreeSet<String>>);

/// What models have cost and read and written.
#[derive(Debug, Default)]
pub(super) struct Models {
    known: Mutex<BTreeSet<String>>,
    cost: Family<Labels, Counter<f64, AtomicU64>>,
    tokens: Family<Labels, Counter>,
}

impl Models {
    /// The label of a model that a tenant uses, who has made labels of these before.
    pub(super) fn label<'a>(&self, name: &'a str, of_tenant: &Known) -> &'a str {
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(of_a_model) {
            return OTHER;
        }
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains(name) {
            return name;
        }
        let mut own = of_tenant.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST || own.len() >= MOST_OF_A_TENANT {
            return OTHER;
        }
        all.insert(name.to_owned());
        own.insert(name.to_owned());
        name
    }

    /// Adds what was used.
    pub(super) fn add(&self, tenant: &Labels, name: &str, cost_usd: f64, usage: &TokenUsage) {
        let mut labels = tenant.clone();
        labels.push(("model", name.to_owned()));
        self.cost.get_or_create(&labels).inc_by(cost_usd);
        for (kind, tokens) in [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_creation", usage.cache_creation_input_tokens),
            ("cache_read", usage.cache_read_input_tokens),
        ] {
            let labels = [labels.as_slice(), &[("kind", kind.to_owned())]].concat();
            self.tokens.get_or_create(&labels).inc_by(tokens);
        }
    }

    /// Adds both to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "US dollars by model, as CLIs tell them with results";
        registry.register("model_cost_usd", help, self.cost.clone());
        let help = "Tokens by model and kind, those of subagents as well";
        registry.register("model_tokens", help, self.tokens.clone());
    }
}

/// Whether a character may be in a model's name.
fn of_a_model(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.:/@[]".contains(character)
}
