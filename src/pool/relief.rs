//! When processes are scarce: sessions that have nothing to do let theirs go, the least
//! recently used first, one for each session that waits for a place. Woken when somebody
//! joins the line or a session comes to rest, never by a clock.

use std::collections::HashSet;

use tokio::{task::JoinSet, time::Instant};
use tracing::debug;

use super::{Scope, SessionPool};
use crate::{
    ids::{SessionKey, TenantId},
    session::{LetGo, SessionHandle},
};

/// A session that is letting its process go, and for whose sake.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Relief {
    key: SessionKey,
    /// `None`: for anybody's.
    of_tenant: Option<TenantId>,
}

impl SessionPool {
    /// Lets processes go for as long as others need their places.
    pub(super) async fn relieve_for_ever(&self) {
        let (joined, rested) = (self.shared().parts.supply.joined(), self.rested());
        let mut under_way: Vec<Relief> = Vec::new();
        let mut reliefs = JoinSet::new();
        loop {
            // Enabled before anything is looked at, so that no news is missed.
            let (joined, rested) = (joined.notified(), rested.notified());
            tokio::pin!(joined, rested);
            joined.as_mut().enable();
            rested.as_mut().enable();
            for (relief, handle) in self.due_reliefs(&under_way) {
                debug!(session_id = %relief.key.session, "session_gives_its_place");
                under_way.push(relief.clone());
                reliefs.spawn(async move {
                    handle.let_go(LetGo::Pressure).await;
                    relief
                });
            }
            tokio::select! {
                () = joined => {}
                () = rested => {}
                Some(done) = reliefs.join_next() => match done {
                    Ok(relief) => under_way.retain(|other| *other != relief),
                    // Only a panic ends one without its name: none is known to be under way.
                    Err(_) => under_way.clear(),
                },
            }
        }
    }

    /// The sessions that are to let their processes go now.
    fn due_reliefs(&self, under_way: &[Relief]) -> Vec<(Relief, SessionHandle)> {
        let shortage = self.shared().parts.supply.shortage();
        let wanted = shortage
            .of_tenant
            .into_iter()
            .map(|(tenant, count)| (Some(tenant), count))
            .chain([(None, shortage.of_any)]);
        let wanted: Vec<_> = wanted
            .map(|(tenant, count)| {
                let coming = under_way.iter().filter(|relief| relief.of_tenant == tenant).count();
                (tenant, count.saturating_sub(coming))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut taken: HashSet<SessionKey> =
            under_way.iter().map(|relief| relief.key.clone()).collect();
        let resting = self.resting();
        let mut reliefs = Vec::new();
        for (of_tenant, count) in wanted {
            let candidates = resting.iter().filter(|(_, key, _)| {
                of_tenant.as_ref().is_none_or(|tenant| key.tenant == *tenant)
            });
            let free: Vec<_> =
                candidates.filter(|(_, key, _)| !taken.contains(key)).take(count).collect();
            for (_, key, handle) in free {
                taken.insert(key.clone());
                let relief = Relief { key: key.clone(), of_tenant: of_tenant.clone() };
                reliefs.push((relief, handle.clone()));
            }
        }
        reliefs
    }

    /// Sessions whose processes have nothing to do, the least recently used first.
    fn resting(&self) -> Vec<(Instant, SessionKey, SessionHandle)> {
        let mut resting: Vec<_> = self
            .handles(&Scope::All)
            .into_iter()
            .filter_map(|(key, handle)| {
                let status = handle.status();
                let at = status.can_rest.then_some(status.last_used_at);
                drop(status);
                at.map(|at| (at, key, handle))
            })
            .collect();
        resting.sort_by_key(|(at, ..)| *at);
        resting
    }
}
