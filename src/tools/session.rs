//! The tools of one session: what its process is shown, and the calls that it makes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Answer, Failure, MAX_ARGUMENTS, Progress, Tool, ToolServers};
use crate::{
    budget::{Account, Reservation},
    domain::ids::{SessionKey, TurnId},
};

/// Says which turn runs.
type Running = Box<dyn Fn() -> Option<TurnId> + Send + Sync>;

/// The tool servers that a session uses. Cloning gives another handle to the same ones.
#[derive(Clone)]
pub struct SessionTools(Arc<Inner>);

struct Inner {
    servers: ToolServers,
    key: SessionKey,
    names: Vec<String>,
    memory: Account,
    running: Running,
}

impl fmt::Debug for SessionTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTools").field("names", &self.0.names).finish_non_exhaustive()
    }
}

/// What became of a call, and what it holds of the tenant's memory for as long as it is there.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Result<Answer, Failure>,
    _held: Option<Reservation>,
}

impl SessionTools {
    /// The servers of these names, for this session. What its calls hold counts for `memory`;
    /// `running` says for which turn they are.
    pub fn new(
        servers: ToolServers,
        key: SessionKey,
        names: Vec<String>,
        memory: Account,
        running: impl Fn() -> Option<TurnId> + Send + Sync + 'static,
    ) -> Self {
        let running = Box::new(running);
        Self(Arc::new(Inner { servers, key, names, memory, running }))
    }

    /// The same between turns, with memory for everything.
    #[cfg(test)]
    pub fn unbounded(servers: ToolServers, key: SessionKey, names: Vec<String>) -> Self {
        use crate::budget::{Bounds, Budget};
        let bounds = Bounds { key: "all", total: u64::MAX, tenant_key: "own", of_tenant: None };
        let memory = Budget::new(bounds).account(&key.tenant);
        Self::new(servers, key, names, memory, || None)
    }

    /// Whether the session uses a server.
    pub fn has(&self, server: &str) -> bool {
        self.0.names.iter().any(|name| name == server)
    }

    /// The tools of a server that could be called just now, by name.
    pub fn list(&self, server: &str) -> BTreeMap<String, Arc<Tool>> {
        self.0.servers.tools(&self.0.key, server)
    }

    /// Told when [`Self::list`] may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.servers.changes(&self.0.key.tenant)
    }

    /// Calls a tool, and waits for its answer. Dropped before, it is cancelled.
    pub async fn call(
        &self,
        server: &str,
        tool: &str,
        arguments: &str,
        progress: mpsc::Sender<Progress>,
    ) -> Answered {
        let mut held = None;
        let answer = self.answer(server, tool, arguments, progress, &mut held).await;
        Answered { answer, _held: held }
    }

    async fn answer(
        &self,
        server: &str,
        tool: &str,
        arguments: &str,
        progress: mpsc::Sender<Progress>,
        held: &mut Option<Reservation>,
    ) -> Result<Answer, Failure> {
        let Inner { servers, key, memory, running, .. } = &*self.0;
        if arguments.len() > MAX_ARGUMENTS {
            return Err(Failure::Arguments(arguments.len()));
        }
        *held = Some(reserve(memory, arguments.len())?);
        let named = (server, tool);
        let mut open = servers.open(key, running(), named, arguments.to_owned(), progress)?;
        let limit = servers.call_timeout();
        let Ok(answered) = timeout(limit, &mut open.answer).await else {
            open.give_up("its deadline has passed (policy.tool_call_timeout)");
            return Err(Failure::TimedOut { tool: tool.to_owned(), limit });
        };
        let answer = answered.unwrap_or_else(|_| Err(Failure::Gone(tool.to_owned())))?;
        *held = Some(reserve(memory, answer.bytes())?);
        Ok(answer)
    }
}

fn reserve(memory: &Account, bytes: usize) -> Result<Reservation, Failure> {
    memory.reserve(bytes as u64).map_err(|exceeded| Failure::Memory(exceeded.key))
}
