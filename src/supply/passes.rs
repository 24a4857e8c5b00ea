//! Which processes show themselves at the API gateway, whose costs go by what is counted there, and
//! what is to be told of them.

use std::sync::Arc;

use crate::{
    cli::cost::{Meter, Wire},
    domain::options::Options,
    gateway::Pass,
    policy::variables::WAYS_TO_A_MODEL,
};

/// Whether a session brings credentials or an API of its own, which the operator lets callers choose.
pub(super) fn brings_a_way(options: &Options) -> bool {
    WAYS_TO_A_MODEL.iter().any(|name| options.env.0.contains_key(*name))
}

/// Waits until there is something to tell of a process that shows this pass; for ever without one.
pub async fn noticed(pass: Option<&Pass>) {
    match pass {
        Some(pass) => pass.noticed().await,
        None => std::future::pending().await,
    }
}

/// The meter of a process that begins: it goes by the gateway's count, where there is one.
pub(super) fn metered(pass: Option<&Pass>) -> Meter {
    let counted = pass.filter(|pass| pass.counts());
    Meter::default().by_wire(counted.map(|pass| pass.account() as Arc<dyn Wire>))
}
