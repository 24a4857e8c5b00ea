//! Which process shows itself at the gateway to the API, and whose costs go by what is seen there.

use std::sync::Arc;

use crate::{
    cli::cost::{Meter, Wire},
    domain::options::Options,
    gateway::{OF_ANOTHER_WAY, Pass},
};

/// Whether a session has a way to a model of its own, which the operator lets callers choose.
pub(super) fn brings_a_way(options: &Options) -> bool {
    OF_ANOTHER_WAY.iter().any(|name| options.env.0.contains_key(*name))
}

/// A meter that goes by what a process is seen to use, where that is seen.
pub(super) fn metered(meter: Meter, pass: Option<&Pass>) -> Meter {
    let counted = pass.filter(|pass| pass.counts());
    meter.by_wire(counted.map(|pass| pass.account() as Arc<dyn Wire>))
}
