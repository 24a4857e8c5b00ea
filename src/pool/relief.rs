//! When processes are scarce: sessions that have nothing to do let theirs go, the least
//! recently used first, one for each session that waits for a place. Woken when somebody
//! joins the line or a session comes to rest. A process that works in the background is not
//! idle; but a tenant that holds fewer processes waits for those of others at most
//! `pool.background_grace`: then the one that was used least recently gives its place.

use std::{cmp::Reverse, collections::HashSet};

use tokio::{
    task::JoinSet,
    time::{Duration, Instant, sleep},
};
use tracing::debug;

use super::{Scope, SessionPool};
use crate::{
    domain::ids::{SessionKey, TenantId},
    session::{HibernateReason, SessionHandle, status::SessionState},
    supply::Contest,
    tasks::at,
};

/// How long after a session has declined the next one is asked.
const DECLINED: Duration = Duration::from_millis(100);

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
        let (joined, hibernatable) = (self.shared().parts.supply.joined(), self.hibernatable());
        let mut under_way: Vec<Relief> = Vec::new();
        let mut reliefs = JoinSet::new();
        loop {
            // Enabled before anything is looked at, so that no news is missed.
            let (joined, hibernatable) = (joined.notified(), hibernatable.notified());
            tokio::pin!(joined, hibernatable);
            joined.as_mut().enable();
            hibernatable.as_mut().enable();
            let (contested, next_contest) = self.due_contest(&under_way);
            if let Some((relief, handle)) = contested {
                under_way.push(relief.clone());
                reliefs.spawn(async move {
                    if !handle.hibernate(HibernateReason::Fairness).await {
                        // It has begun something: it is not asked again at once.
                        sleep(DECLINED).await;
                    }
                    relief
                });
            }
            for (relief, handle) in self.due_reliefs(&under_way) {
                debug!(session_id = %relief.key.session, "session_gives_its_place");
                under_way.push(relief.clone());
                reliefs.spawn(async move {
                    handle.hibernate(HibernateReason::Pressure).await;
                    relief
                });
            }
            tokio::select! {
                () = joined => {}
                () = hibernatable => {}
                () = at(next_contest) => {}
                Some(done) = reliefs.join_next() => match done {
                    Ok(relief) => under_way.retain(|other| *other != relief),
                    // Only a panic ends one without its name: none is known to be under way.
                    Err(_) => under_way.clear(),
                },
            }
        }
    }

    /// A session whose background work is to end for a tenant that holds fewer processes,
    /// and when to look again. One at a time: a place that is given changes who holds more.
    fn due_contest(
        &self,
        under_way: &[Relief],
    ) -> (Option<(Relief, SessionHandle)>, Option<Instant>) {
        let grace = self.shared().settings.background_grace;
        let contests = self.shared().parts.supply.contests();
        let now = Instant::now();
        if grace.is_zero() || contests.is_empty() || !under_way.is_empty() {
            return (None, None);
        }
        for Contest { since, holders, .. } in &contests {
            if *since + grace > now {
                return (None, Some(*since + grace));
            }
            let yielding = |(key, handle): (SessionKey, SessionHandle)| {
                let held = *holders.get(&key.tenant)?;
                let status = handle.status();
                let idle = status.condition == SessionState::Active && !status.is_busy();
                let rank = (Reverse(held), status.last_used_at);
                drop(status);
                idle.then_some((rank, key, handle))
            };
            let sessions = self.handles(&Scope::All).into_iter().filter_map(yielding);
            if let Some((_, key, handle)) = sessions.min_by_key(|(rank, ..)| *rank) {
                return (Some((Relief { key, of_tenant: None }, handle)), None);
            }
        }
        // All of them run turns; whoever comes to rest may have begun something else.
        (None, Some(now + grace))
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
                let at = status.can_hibernate.then_some(status.last_used_at);
                drop(status);
                at.map(|at| (at, key, handle))
            })
            .collect();
        resting.sort_by_key(|(at, ..)| *at);
        resting
    }
}
