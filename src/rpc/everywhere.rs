//! What is told of all nodes together: figures summed, interrupts listed, and pages of sessions
//! that have of each what the node knows where it lives.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;
use tokio::time::Instant;

use super::{
    figures::{self, Row},
    others::{Asked, Cluster},
    snapshot,
    status::of_failure,
};
use crate::{
    access::Identity,
    domain::ids::{SessionId, TenantId},
    pool::{PoolStats, Scope, SessionPool},
    proto,
    session::status::Status as Shown,
};

/// How long a node may take to say what it knows.
const LOOK_LIMIT: Duration = Duration::from_millis(1500);
/// How long it may take to stop its turns. One that is gone, or stopped, is found out before.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// What of the caller's time is left to tell what became of it.
const TO_TELL: Duration = Duration::from_millis(200);

/// The figures of all nodes.
pub async fn stats(
    (pool, cluster): (&SessionPool, &Cluster),
    (caller, scope): (&Identity, &Scope),
    own: (&PoolStats, proto::GetStatsResponse),
) -> Result<proto::GetStatsResponse, tonic::Status> {
    let (stats, told) = own;
    let all_tenants = *scope == Scope::All;
    let request = proto::GetStatsRequest { all_tenants, scope: proto::StatsScope::Node.into() };
    let asked = cluster.ask(caller, LOOK_LIMIT, move |node| node.stats(request)).await;
    let own_row = figures::own_row(&cluster.own(), stats, pool.counts_as(), &told);
    let mut rows = vec![Row::own(own_row)];
    rows.extend(asked.answers.into_iter().map(|(node, answer)| Row::of(&node, answer)));
    rows.sort_by(|a, b| a.told.name.cmp(&b.told.name));
    let (stored, counting) = figures::told_of(&rows);
    let beyond = pool.beyond(scope, stored, &counting).await;
    let beyond = beyond.map_err(|failure| of_failure(&failure))?;
    let mut all = figures::sum(told, rows, &beyond);
    if !caller.admin {
        // Where nodes are reached is the operator's business.
        all.nodes.iter_mut().for_each(|row| row.address.clear());
    }
    Ok(all)
}

/// Stops the turns of all sessions, at all nodes.
pub async fn interrupt_all(
    (pool, cluster): (&SessionPool, &Cluster),
    (caller, scope): (&Identity, &Scope),
    deadline: Option<Instant>,
) -> proto::InterruptAllResponse {
    let request = proto::InterruptAllRequest { all_tenants: *scope == Scope::All };
    let left = deadline
        .map(|deadline| deadline.saturating_duration_since(Instant::now()).saturating_sub(TO_TELL));
    let limit = left.map_or(STOP_LIMIT, |left| left.min(STOP_LIMIT));
    let (own, asked) = tokio::join!(
        pool.interrupt_all(scope),
        cluster.ask(caller, limit, move |node| node.interrupt_all(request)),
    );
    let mut all = snapshot::interrupt_all(&own, &cluster.name());
    all.unreached_nodes = asked.unreached();
    for (node, answer) in asked.answers {
        let Ok(mut theirs) = answer else { continue };
        all.interrupted_count = all.interrupted_count.saturating_add(theirs.interrupted_count);
        all.session_count = all.session_count.saturating_add(theirs.session_count);
        theirs.results.iter_mut().for_each(|result| result.node = node.name.to_string());
        all.results.append(&mut theirs.results);
    }
    all.results.sort_by(|a, b| (&a.tenant, &a.session_id).cmp(&(&b.tenant, &b.session_id)));
    all
}

/// Up to so many sessions, as many as are not too long together. `known` is the session up to which
/// they are all that there are; `None` if there are no more at all.
fn page(
    shown: impl IntoIterator<Item = proto::Session>,
    size: usize,
    mut known: Option<String>,
) -> proto::ListSessionsResponse {
    let (mut sessions, mut bytes) = (Vec::<proto::Session>::new(), 0);
    for session in shown {
        bytes += session.encoded_len();
        let is_too_long = bytes > snapshot::SHOWN_BYTES && !sessions.is_empty();
        if is_too_long || sessions.len() == size {
            known = sessions.last().map(|session| session.session_id.clone());
            break;
        }
        sessions.push(session);
    }
    let next_page_token = known.unwrap_or_default();
    proto::ListSessionsResponse { sessions, next_page_token, unreached_nodes: Vec::new() }
}

/// A page of the sessions of a tenant that live at this node.
pub fn list_here(
    (pool, cluster): (&SessionPool, &Cluster),
    caller: &Identity,
    (size, after): (usize, Option<SessionId>),
) -> proto::ListSessionsResponse {
    let (here, more) = pool.list_here(&caller.tenant, after, size);
    let (name, known) = (cluster.name(), last(&here, more));
    page(here.iter().map(|status| snapshot::session(status, &name)), size, known)
}

/// The session up to which these are all that there are.
fn last(sessions: &[Shown], more: bool) -> Option<String> {
    sessions.last().filter(|_| more).map(|status| status.session_id.to_string())
}

/// A page of the sessions of a tenant, wherever they live.
pub async fn list(
    (pool, cluster): (&SessionPool, &Cluster),
    caller: &Identity,
    (size, after): (usize, Option<SessionId>),
) -> Result<proto::ListSessionsResponse, tonic::Status> {
    let (tenant, name) = (&caller.tenant, cluster.name());
    let request = proto::ListSessionsRequest {
        page_size: u32::try_from(size).unwrap_or(u32::MAX),
        page_token: after.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let (listed, asked) = tokio::join!(
        pool.list(tenant, after.clone(), size),
        cluster.ask(caller, LOOK_LIMIT, move |node| node.sessions(request.clone())),
    );
    let (own, more) = listed.map_err(|failure| of_failure(&failure))?;
    let owners = owners(pool, tenant, after.as_ref(), &own).await?;
    let last = last(&own, more);
    let unreached_nodes = asked.unreached();
    let mut merged = Merged { sessions: BTreeMap::new(), owners, last };
    for status in &own {
        merged.add_own(status, &name);
    }
    merged.add_theirs(asked);
    let Merged { mut sessions, last, .. } = merged;
    if let Some(last) = &last {
        // What of another source comes behind is not known to be next.
        sessions.retain(|id, _| id <= last);
    }
    Ok(proto::ListSessionsResponse { unreached_nodes, ..page(sessions.into_values(), size, last) })
}

/// At which other nodes the sessions of a page live that have nothing here that the store has not.
async fn owners(
    pool: &SessionPool,
    tenant: &TenantId,
    after: Option<&SessionId>,
    own: &[Shown],
) -> Result<BTreeMap<SessionId, String>, tonic::Status> {
    let last = own.iter().rfind(|status| status.client_id.is_none());
    let last = last.map(|status| &status.session_id);
    pool.owners(tenant, after, last).await.map_err(|failure| of_failure(&failure))
}

/// Sessions of several nodes.
struct Merged {
    sessions: BTreeMap<String, proto::Session>,
    /// Where those live that are not here, by the store.
    owners: BTreeMap<SessionId, String>,
    /// The last session up to which all sources have told all of theirs; `None` if they have
    /// to the end.
    last: Option<String>,
}

impl Merged {
    fn add_own(&mut self, status: &Shown, name: &str) {
        let mut session = snapshot::session(status, name);
        if let Some(owner) = self.owners.get(&status.session_id)
            && status.client_id.is_none()
        {
            // What is known of it here is older than what its owner has committed.
            session.node.clone_from(owner);
            session.set_status(proto::SessionStatus::Unknown);
        }
        self.sessions.insert(session.session_id.clone(), session);
    }

    fn add_theirs(&mut self, asked: Asked<proto::ListSessionsResponse>) {
        for (node, answer) in asked.answers {
            let Ok(answer) = answer else { continue };
            let proto::ListSessionsResponse { sessions, next_page_token, .. } = answer;
            if !next_page_token.is_empty() {
                let earlier = self.last.take().filter(|last| *last < next_page_token);
                self.last = Some(earlier.unwrap_or(next_page_token));
            }
            for session in sessions {
                self.add_their(&node.name, session);
            }
            // What it does not have although it has claimed it, it has just let go of.
            for session in self.sessions.values_mut() {
                let is_its = session.node == *node.name;
                if is_its && session.status() == proto::SessionStatus::Unknown {
                    session.set_status(proto::SessionStatus::Hibernated);
                    session.node.clear();
                }
            }
        }
    }

    /// A session that a node says lives there.
    fn add_their(&mut self, node: &str, mut session: proto::Session) {
        let owner = SessionId::parse(&session.session_id).ok();
        let owner = owner.and_then(|id| self.owners.get(&id)).map(String::as_str);
        // A node of an earlier version says nothing of where sessions live, and lists them all.
        let lives_there = match session.node.is_empty() {
            true => owner == Some(node),
            false => session.node == node,
        };
        if !lives_there {
            return;
        }
        let known = self.sessions.get(&session.session_id);
        // Of one without a process, that nobody has claimed, the store knows as much or more.
        let is_at_work = session.process_id != 0 || session.queued_turns > 0;
        let is_better =
            known.is_none_or(|known| known.process_id == 0 && (is_at_work || owner == Some(node)));
        if is_better {
            session.node = node.to_owned();
            self.sessions.insert(session.session_id.clone(), session);
        }
    }
}
