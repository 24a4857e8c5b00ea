//! Where sessions live, by the store that nodes share; and what this node tells the others of
//! itself.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::warn;

use crate::{
    cluster::{Later, Living, Member, Node, Place, Placement, Placing},
    domain::ids::SessionKey,
    pool::SessionPool,
    session::store_failed,
    store::{self, PostgresStore},
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

    fn own(&self) -> Member {
        let own = self.store.own();
        Member { draining: self.pool.is_draining(), ..member(&own) }
    }

    fn others(&self) -> Later<'_, Living> {
        Box::pin(async move {
            let (living, problem) = self.store.living().await;
            let others = living.iter().filter(|node| node.name != self.name).map(member);
            Living { others: others.collect(), problem: problem.map(|error| error.to_string()) }
        })
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

fn member(node: &store::Node) -> Member {
    let address = (!node.address.is_empty()).then(|| node.address.as_str().into());
    let (name, incarnation) = (node.name.as_str().into(), node.incarnation.clone());
    Member { name, address, incarnation, draining: node.draining }
}

/// Between attempts to tell other nodes.
const AGAIN: Duration = Duration::from_millis(200);

/// Tells other nodes that this one takes no new sessions; ends when that is written.
pub async fn tell_draining(node: Option<&PostgresStore>) {
    let Some(node) = node else { return };
    let mut told = false;
    while let Err(error) = node.drain().await {
        if !std::mem::replace(&mut told, true) {
            warn!(%error, "node_not_drained");
        }
        sleep(AGAIN).await;
    }
}
