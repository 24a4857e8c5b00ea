//! Nodes in one process, and a placement that tests decide.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use session_pool::{
    config::Config,
    internals::{
        cluster::{Later, Living, Member, Node, Place, Placement, Placing},
        domain::{failure::Cause, ids::SessionKey},
    },
    proto::{QueryRequest, session_pool_service_client::SessionPoolServiceClient},
};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    metadata::{Ascii, Binary, MetadataKey, MetadataValue},
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::support::{
    service::{Service, bound, fake_cli},
    turn::Turn,
};

/// Where sessions live: whom nobody has placed lives wherever it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    sessions: HashMap<String, String>,
    /// What is answered the first time only.
    once: HashMap<String, String>,
    addresses: HashMap<String, Option<Arc<str>>>,
    lost: bool,
    asked: usize,
}

impl Known {
    fn member(&self, name: &str) -> Member {
        let address = self.addresses.get(name).cloned().flatten();
        let incarnation = format!("life of {name}");
        Member { name: name.into(), address, incarnation, draining: false }
    }
}

impl Places {
    pub fn put(&self, session: &str, node: &str) {
        self.0.lock().expect("no panic").sessions.insert(session.into(), node.into());
    }

    /// The next who asks is told another node, and everybody else the one before.
    pub fn mislead_once(&self, session: &str, node: &str) {
        self.0.lock().expect("no panic").once.insert(session.into(), node.into());
    }

    pub fn reach(&self, node: &str, address: Option<String>) {
        let address = address.map(Into::into);
        self.0.lock().expect("no panic").addresses.insert(node.into(), address);
    }

    /// From now on nobody knows where sessions live.
    pub fn lose(&self) {
        self.0.lock().expect("no panic").lost = true;
    }

    pub fn address_of(&self, node: &str) -> Arc<str> {
        self.0.lock().expect("no panic").addresses[node].clone().expect("it says")
    }

    pub fn asked(&self) -> usize {
        self.0.lock().expect("no panic").asked
    }

    pub fn seen_by(&self, node: &str) -> Arc<dyn Placement> {
        Arc::new(Seen { own: node.into(), places: self.clone() })
    }
}

/// The places as one node sees them.
#[derive(Debug)]
struct Seen {
    own: String,
    places: Places,
}

impl Placement for Seen {
    fn own_name(&self) -> &str {
        &self.own
    }

    fn own(&self) -> Member {
        self.places.0.lock().expect("no panic").member(&self.own)
    }

    fn others(&self) -> Later<'_, Living> {
        Box::pin(async move {
            let known = self.places.0.lock().expect("no panic");
            let names = known.addresses.keys().filter(|name| **name != self.own);
            let others = names.map(|name| known.member(name)).collect();
            let problem = known.lost.then(|| "lost".to_owned());
            Living { others, problem }
        })
    }

    fn place<'a>(&'a self, key: &'a SessionKey) -> Placing<'a> {
        Box::pin(async move {
            let mut known = self.places.0.lock().expect("no panic");
            known.asked += 1;
            if known.lost {
                return Err(Cause::StoreUnavailable { detail: "lost".into() });
            }
            let session = key.session.as_str();
            let placed = known.once.remove(session);
            let Some(node) = placed.or_else(|| known.sessions.get(session).cloned()) else {
                return Ok(Place::Here);
            };
            if node == self.own {
                return Ok(Place::Here);
            }
            let address = known.addresses.get(&node).cloned().flatten();
            Ok(Place::At(Node { name: node.into(), address }))
        })
    }
}

/// Starts a node of this name, which others reach at its ordinary listener, or at the one of
/// nodes if it has such.
pub async fn node(name: &str, places: &Places, change: impl FnOnce(&mut Config)) -> Service {
    let state = TempDir::new().expect("a folder");
    let mut config = fake_cli(state.path());
    // Where it is reached is known once it listens; that it is makes it take nodes' calls.
    config.cluster.advertise = "localhost:1".into();
    change(&mut config);
    let server = bound(config).await.placed_by(places.seen_by(name));
    let address = server.node_address().unwrap_or(server.address().expect("an address"));
    places.reach(name, Some(format!("localhost:{}", address.port())));
    Service::of(server, state)
}

/// Two nodes, `a` and `b`, of which callers ask the first.
pub struct Pair {
    pub asked: Service,
    pub owner: Service,
    pub places: Places,
}

impl Pair {
    pub async fn start(change: impl Fn(&mut Config)) -> Self {
        let places = Places::default();
        let asked = node("a", &places, &change).await;
        let owner = node("b", &places, &change).await;
        Self { asked, owner, places }
    }

    /// A pair in which the session `s` lives at the other node.
    pub async fn with_session_elsewhere() -> Self {
        let pair = Self::start(|_| {}).await;
        pair.places.put("s", "b");
        pair
    }

    pub async fn stop(self) {
        self.asked.stop().await;
        self.owner.stop().await;
    }
}

/// Sends this metadata with every call.
#[derive(Clone)]
pub struct Says(Vec<(String, String)>);

impl tonic::service::Interceptor for Says {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in &self.0 {
            if key.ends_with("-bin") {
                let key: MetadataKey<Binary> = key.parse().expect("a key");
                request.metadata_mut().append_bin(key, MetadataValue::from_bytes(value.as_bytes()));
            } else {
                let key: MetadataKey<Ascii> = key.parse().expect("a key");
                request.metadata_mut().append(key, value.parse().expect("a value"));
            }
        }
        Ok(request)
    }
}

pub type Caller = SessionPoolServiceClient<InterceptedService<Channel, Says>>;

/// A caller who sends this metadata, on a connection of its own.
pub async fn caller(address: &str, metadata: &[(&str, &str)]) -> Caller {
    let endpoint = Endpoint::from_shared(address.to_owned()).expect("an address");
    let channel = endpoint.connect().await.expect("connected");
    let metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    SessionPoolServiceClient::with_interceptor(channel, Says(metadata))
}

pub async fn open(caller: &Caller, request: QueryRequest) -> Result<Turn, Status> {
    Ok(Turn::new(caller.clone().query(request).await?.into_inner()))
}
