//! The way of CLIs to the Messages API, where the service has the credential. A CLI is given the
//! address of a loopback listener and a token that is good for as long as its process lives; the
//! credential is put in here, so that no agent can read it.
//!
//! ```text
//! CLI ──▶ listener ──▶ forward ──▶ upstream ──▶ the API
//!                        │  └── credentials (files, read anew when they change)
//!                        ├── passes   (which token is whose; what each may still spend)
//!                        └── usage ──▶ prices   (what the API says that it has counted)
//! ```
//!
//! What always holds: a request without a living process's token reaches nobody; no header that
//! carries a credential is passed on in either direction; bodies stream through and are never held
//! whole; what a process has used is what the API said, not what the CLI says. Knows nothing of
//! sessions or of the contract: `supply` gives each process its pass, `cli::cost` reads it.

mod account;
mod body;
mod credentials;
mod forward;
mod listener;
mod passes;
mod prices;
mod refusal;
mod upstream;
mod usage;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::Uri;
use tokio::net::TcpListener;

pub use credentials::{CredentialFile, CredentialKind};
pub use passes::Pass;
pub use prices::{Price, Prices};
pub use upstream::UpstreamError;

use crate::{
    domain::ids::{ClientId, TenantId},
    tasks::Tasks,
};
use credentials::Credentials;
use passes::Passes;
use upstream::Upstream;

/// The variables by which a CLI finds the API, and what it shows there. Where a gateway is, nobody
/// else sets them.
pub const VARIABLES: [&str; 2] = ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"];

/// Variables by which a session brings a way to a model of its own.
pub const OF_ANOTHER_WAY: [&str; 7] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_VERTEX",
];

/// How requests are passed on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The API: scheme, host, port, and a path that goes before those of requests.
    pub upstream: Uri,
    /// Authorities (PEM) that its certificate may be from; without it those of the system.
    pub ca: Option<PathBuf>,
    /// Whether HTTP/2 is spoken to it where it can.
    pub http2: bool,
    /// How long a connection to it may take.
    pub connect_timeout: Duration,
    /// Of tenants that have none of their own.
    pub credential: Option<CredentialFile>,
    /// Of single tenants.
    pub tenants: BTreeMap<TenantId, CredentialFile>,
    /// What tokens cost.
    pub prices: Prices,
    /// Tokens that a tenant may use in a minute.
    pub tokens_per_minute: Option<u64>,
}

/// What tenants may still spend, as whoever keeps their sums knows it.
pub trait Allowances: Send + Sync + fmt::Debug {
    /// US dollars that are left to a tenant today; `None` is no bound. What was used and is not in
    /// the sums yet is not in this either.
    fn left_today(&self, tenant: &TenantId) -> Option<f64>;
}

/// The gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    upstream: Upstream,
    credentials: Credentials,
    passes: Passes,
    prices: Prices,
    allowances: OnceLock<Arc<dyn Allowances>>,
}

impl Gateway {
    /// Serves on this socket until the tasks end. Fails where a credential cannot be read now, or
    /// an authority cannot be used.
    pub async fn start(
        settings: Settings,
        socket: TcpListener,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let Settings { credential, tenants, prices, tokens_per_minute, .. } = &settings;
        let credentials = Credentials::new(credential.clone(), tenants.clone());
        credentials.read_all().await.map_err(StartError::Credential)?;
        let gateway = Self(Arc::new(Inner {
            address: socket.local_addr().map_err(StartError::Socket)?,
            upstream: Upstream::new(&settings).map_err(StartError::Upstream)?,
            credentials,
            passes: Passes::new(*tokens_per_minute),
            prices: prices.clone(),
            allowances: OnceLock::new(),
        }));
        listener::serve(gateway.clone(), socket, tasks);
        Ok(gateway)
    }

    /// Who knows what tenants may still spend. Said once, before the first process.
    pub fn hold_to(&self, allowances: Arc<dyn Allowances>) {
        self.0.allowances.set(allowances).ok();
    }

    /// A pass for a process: its token is good until it is dropped.
    pub fn pass(&self, tenant: &TenantId, process: ClientId) -> Pass {
        self.0.passes.issue(tenant, process)
    }

    /// What the process is told by its environment.
    pub fn variables(&self, pass: &Pass) -> BTreeMap<String, String> {
        let values = [format!("http://{}", self.0.address), pass.token().to_owned()];
        VARIABLES.map(str::to_owned).into_iter().zip(values).collect()
    }
}

/// Why a gateway cannot be.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A credential cannot be read.
    #[error(transparent)]
    Credential(credentials::Unreadable),
    /// The way to the API cannot be set up.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// The socket has no address.
    #[error("gateway.listen: {0}")]
    Socket(std::io::Error),
}

#[cfg(test)]
mod tests;
