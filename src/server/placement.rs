//! Where sessions live, by the store that nodes share; and what this node tells the others of
//! itself.

use std::{future::pending, sync::Arc};

use tracing::warn;

use crate::{
    cluster::{Node, Place, Placement, Placing},
    domain::ids::SessionKey,
    pool::SessionPool,
    session::store_failed,
    store::PostgresStore,
};

/// Asks the store.
#[derive(Debug)]
pub struct ByStore {
    pub store: Arc<PostgresStore>,
    pub pool: SessionPool,
    pub name: String,
}

impl Placement for ByStore {
    fn own_name(&self) -> &str {
        &self.name
    }

    fn place<'a>(&'a self, key: &'a SessionKey) -> Placing<'a> {
        Box::pin(async move {
            // Whoever has a process has the claim. One that is at hand without a process may
            // have been taken by another node meanwhile.
            if self.pool.has_process(key) {
                return Ok(Place::Here);
            }
            let owner = self.store.elsewhere(key).await.map_err(store_failed)?;
            Ok(owner.map_or(Place::Here, |owner| {
                let address = (!owner.address.is_empty()).then(|| owner.address.into());
                Place::At(Node { name: owner.name.into(), address })
            }))
        })
    }
}

/// Tells other nodes that this one takes no new sessions. Never ends.
pub async fn drain(node: Option<&PostgresStore>) {
    if let Some(node) = node
        && let Err(error) = node.drain().await
    {
        warn!(%error, "node_not_drained");
    }
    pending().await
}
