//! The way of CLIs to the Messages API, where the service has the credential. A CLI is given the
//! address of a loopback listener and a token that is good for as long as its process lives; the
//! credential is put in here, so that no agent can read it.
//!
//! ```text
//! CLI ──▶ listener ──▶ forward ──▶ upstream ──▶ the API
//!                 └──▶ proxy ──▶ other hosts, where the operator has listed them
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
mod counted;
mod counts;
mod credentials;
mod forward;
mod listener;
mod notices;
mod pacing;
mod passes;
mod prices;
mod proxy;
mod refusal;
mod seat;
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
use tokio::{net::TcpListener, sync::Semaphore};

pub use counts::Counts;
pub use credentials::{CredentialFile, CredentialKind};
pub use passes::Pass;
pub use prices::{Price, Prices};
pub use upstream::UpstreamError;

use crate::{
    audit::Audit,
    domain::{
        ids::{ClientId, TenantId},
        notice::RateLimited,
    },
    os::{descriptors, handed_socket},
    policy::egress::Egress,
    tasks::Tasks,
};
use credentials::Credentials;
use pacing::Pacing;
use passes::Passes;
use seat::Seats;
use upstream::Upstream;

/// The variables by which a CLI finds the API, and what it shows there. Where a gateway is, nobody
/// else sets them.
const VARIABLES: [&str; 2] = ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"];

/// The variables by which programs find a proxy, in both spellings that they have.
const OF_PROXY: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];

/// Those that say for whom they need none.
const BESIDE_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Connections of processes at once: each has another one to the API or to a host, so that all of
/// them take a quarter of the descriptors.
pub fn connections() -> usize {
    usize::try_from(descriptors::limit() / 8).unwrap_or(usize::MAX)
}

/// Names of hosts that are looked up at once.
const LOOKUPS: usize = 64;

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
    /// Whether processes come here for the API; otherwise only for other hosts.
    pub serves_api: bool,
    /// Which other hosts they may connect to.
    pub egress: Egress,
    /// Where it is recorded which credentials are used, and which hosts are refused.
    pub audit: Audit,
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
    pacing: Pacing,
    counts: Counts,
    seats: Seats,
    lookups: Arc<Semaphore>,
    serves_api: bool,
    egress: Egress,
    audit: Audit,
    tasks: Tasks,
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
        let Settings { credential, tenants, prices, tokens_per_minute, serves_api, egress, .. } =
            &settings;
        let credentials = Credentials::new(credential.clone(), tenants.clone());
        credentials.read_all().await.map_err(StartError::Credential)?;
        let gateway = Self(Arc::new(Inner {
            address: socket.local_addr().map_err(StartError::Socket)?,
            upstream: Upstream::new(&settings).map_err(StartError::Upstream)?,
            credentials,
            passes: Passes::new(*tokens_per_minute),
            prices: prices.clone(),
            pacing: Pacing::default(),
            counts: Counts::default(),
            seats: Seats::new(connections()),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            serves_api: *serves_api,
            egress: egress.clone(),
            audit: settings.audit.clone(),
            tasks: tasks.clone(),
            allowances: OnceLock::new(),
        }));
        listener::serve(gateway.clone(), socket, None);
        Ok(gateway)
    }

    /// Who knows what tenants may still spend. Said once, before the first process.
    pub fn hold_to(&self, allowances: Arc<dyn Allowances>) {
        self.0.allowances.set(allowances).ok();
    }

    /// What it counts.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// A pass for a process, whose token is good until it is dropped; `None` where it has no use for
    /// one. `own_way` is whether its session brings a way to a model.
    pub fn pass(&self, tenant: &TenantId, process: ClientId, own_way: bool) -> Option<Pass> {
        let by_api = self.0.serves_api && !own_way;
        let wanted = by_api || self.0.egress.is_closed();
        wanted.then(|| self.0.passes.issue(tenant, process, by_api))
    }

    /// What the process is told by its environment. `own_network` is whether it has one, in which
    /// the way out is at another place.
    pub fn variables(&self, pass: &Pass, own_network: bool) -> BTreeMap<String, String> {
        let address = if own_network { handed_socket::address() } else { self.0.address };
        let mut variables = BTreeMap::new();
        if pass.counts() {
            let values = [format!("http://{address}"), pass.token().to_owned()];
            variables.extend(VARIABLES.map(str::to_owned).into_iter().zip(values));
        }
        if self.0.egress.is_closed() {
            // Where many processes come to one place, each has to say who it is.
            let who = if own_network { String::new() } else { format!("{}@", pass.token()) };
            for name in OF_PROXY {
                variables.insert(name.to_owned(), format!("http://{who}{address}"));
            }
            for name in BESIDE_PROXY {
                variables.insert(name.to_owned(), "127.0.0.1,localhost,::1".to_owned());
            }
        }
        variables
    }

    /// The limits for which requests wait now: those of a tenant's credential, or all.
    pub async fn limits(&self, tenant: Option<&TenantId>) -> Vec<RateLimited> {
        let credential = match tenant {
            None => None,
            Some(tenant) => match self.0.credentials.of(tenant).await {
                Ok(credential) => Some(passes::hash_of(&credential.value)),
                // Nobody waits with a credential that is not there.
                Err(_) => return Vec::new(),
            },
        };
        self.0.pacing.limits(credential)
    }

    /// Serves the socket that leads out of the network of a process, as long as that lives.
    pub fn serve(&self, socket: TcpListener, pass: &Pass) {
        listener::serve(self.clone(), socket, Some(pass.account()));
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
