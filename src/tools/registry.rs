//! All backends of all tenants, and which of them a call goes to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Answer, Call, Failure, MAX_BACKENDS, MAX_TOOLS, Message, Offer, Progress, Tool,
    backend::{Link, OpenCall},
};
use crate::domain::ids::{SessionKey, TenantId, TurnId};

/// The backends of all tenants. Cloning gives another handle to the same ones.
#[derive(Debug, Clone)]
pub struct ToolServers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    call_timeout: Duration,
    tenants: Mutex<HashMap<TenantId, Backends>>,
    calls: AtomicU64,
    closed: CancellationToken,
}

/// The backends of one tenant, in the order in which they came.
#[derive(Debug, Default)]
struct Backends {
    links: Vec<Arc<Link>>,
    /// Told when one comes or goes.
    changes: watch::Sender<()>,
}

/// Why tools cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The tenant has [`MAX_BACKENDS`] already.
    TooManyBackends,
    /// The server would have so many different tools, more than [`MAX_TOOLS`].
    TooManyTools(usize),
}

/// One who offers tools, for as long as this lives.
#[derive(Debug)]
pub struct Backend {
    servers: ToolServers,
    tenant: TenantId,
    link: Arc<Link>,
}

impl Backend {
    /// The next thing that it is to be told. Cancel safe.
    pub async fn next(&self) -> Message {
        self.link.next().await
    }

    /// Answers a call of its own that is open; an error says what is wrong with the answer.
    pub fn answer(&self, id: u64, answer: Result<Answer, String>) {
        self.link.answer(id, answer);
    }

    /// Says how far a call of its own has come.
    pub fn progress(&self, id: u64, progress: Progress) {
        self.link.progress(id, progress);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Out of sight first: no call comes to one that is gone.
        self.servers.remove(&self.tenant, &self.link);
        self.link.end();
        debug!(tenant = %self.tenant, server = self.link.server, "tool_backend_gone");
    }
}

impl ToolServers {
    /// Nobody offers anything yet. A call may take so long.
    pub fn new(call_timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            call_timeout,
            tenants: Mutex::default(),
            calls: AtomicU64::new(0),
            closed: CancellationToken::new(),
        }))
    }

    /// How long a call may take.
    pub fn call_timeout(&self) -> Duration {
        self.0.call_timeout
    }

    /// No session is left that could call.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Ends when no session is left that could call.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Offers tools to sessions of this tenant.
    pub fn register(&self, tenant: &TenantId, offer: Offer) -> Result<Backend, Refused> {
        let mut tenants = self.tenants();
        let backends = tenants.entry(tenant.clone()).or_default();
        if backends.links.len() >= MAX_BACKENDS {
            return Err(Refused::TooManyBackends);
        }
        let others = backends.links.iter().filter(|link| link.server == offer.server);
        let mut names: BTreeSet<&str> =
            others.flat_map(|link| link.tools.keys().map(String::as_str)).collect();
        names.extend(offer.tools.iter().map(|tool| tool.name.as_str()));
        if names.len() > MAX_TOOLS {
            return Err(Refused::TooManyTools(names.len()));
        }
        let link = Arc::new(Link::new(offer));
        backends.links.push(Arc::clone(&link));
        backends.changes.send_replace(());
        drop(tenants);
        debug!(%tenant, server = link.server, tools = link.tools.len(), "tool_backend_registered");
        Ok(Backend { servers: self.clone(), tenant: tenant.clone(), link })
    }

    /// The tools of a server that a session could call just now, by name.
    pub(super) fn tools(&self, key: &SessionKey, server: &str) -> BTreeMap<String, Arc<Tool>> {
        let tenants = self.tenants();
        let links = tenants.get(&key.tenant).into_iter().flat_map(|backends| &backends.links);
        let offering = links.filter(|link| link.serves(server, &key.session));
        // Of two with one name, the later one takes the place of the earlier.
        offering.flat_map(|link| link.tools.clone()).collect()
    }

    /// Opens a call at the backend that is to answer it.
    pub(super) fn open(
        &self,
        key: &SessionKey,
        turn: Option<TurnId>,
        (server, tool): (&str, &str),
        arguments: String,
        progress: mpsc::Sender<Progress>,
    ) -> Result<OpenCall, Failure> {
        let link = self.least_busy(key, server, tool)?;
        let call = Call {
            id: self.0.calls.fetch_add(1, Ordering::Relaxed) + 1,
            session: key.session.clone(),
            turn,
            tool: tool.to_owned(),
            arguments,
            deadline: SystemTime::now() + self.0.call_timeout,
        };
        link.give(call, progress)
    }

    fn least_busy(&self, key: &SessionKey, server: &str, tool: &str) -> Result<Arc<Link>, Failure> {
        let tenants = self.tenants();
        let links = tenants.get(&key.tenant).into_iter().flat_map(|backends| &backends.links);
        let mut offering = links.filter(|link| link.serves(server, &key.session)).peekable();
        if offering.peek().is_none() {
            return Err(Failure::NoServer(server.to_owned()));
        }
        let able = offering.filter(|link| link.tools.contains_key(tool));
        let least = able.min_by_key(|link| link.load()).cloned();
        least.ok_or_else(|| Failure::NoTool { server: server.to_owned(), tool: tool.to_owned() })
    }

    /// Told when a backend of this tenant comes or goes.
    pub(super) fn changes(&self, tenant: &TenantId) -> watch::Receiver<()> {
        self.tenants().entry(tenant.clone()).or_default().changes.subscribe()
    }

    fn remove(&self, tenant: &TenantId, link: &Arc<Link>) {
        if let Some(backends) = self.tenants().get_mut(tenant) {
            backends.links.retain(|other| !Arc::ptr_eq(other, link));
            backends.changes.send_replace(());
        }
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Backends>> {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
