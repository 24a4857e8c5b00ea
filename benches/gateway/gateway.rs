//! The gateway: the service as it is released, with sessions on the fake CLI, whose tokens the client borrows.

use session_pool::proto::{
    QueryRequest, query_response::Item,
    session_pool_service_client::SessionPoolServiceClient as Client, turn_event::Kind,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{Outcome, client::Way, service::Running, upstream::Upstream};

const FAKE: &str = env!("CARGO_BIN_EXE_fake-claude");

/// A service with a folder of its own.
pub struct Service {
    running: Running,
    /// Its calls.
    pub client: Client<Channel>,
    _folder: TempDir,
}

impl Service {
    /// Starts it with further settings; behind the gateway if there is an upstream.
    pub async fn start(upstream: Option<&Upstream>, settings: &[(&str, &str)]) -> Outcome<Self> {
        let folder = TempDir::new()?;
        let (key, state) = (folder.path().join("key"), folder.path().join("state"));
        std::fs::write(&key, "sk-ant-bench")?;
        std::fs::create_dir(&state)?;
        let mut all = vec![
            ("SERVER__LISTEN", "127.0.0.1:0"),
            ("CLI__PATH", FAKE),
            // Tokens are good for as long as their processes live.
            ("POOL__HIBERNATE_AFTER", "0s"),
            ("POOL__IDLE_THRESHOLD", "1h"),
        ];
        let key = key.to_string_lossy();
        let address = upstream.map(|it| format!("http://{}", it.address)).unwrap_or_default();
        if upstream.is_some() {
            all.extend([("GATEWAY__API_KEY_FILE", &*key), ("GATEWAY__UPSTREAM", &*address)]);
        }
        all.extend(settings);
        let running = Running::start(&state, &all)?;
        let channel = Channel::from_shared(running.address.clone())?.connect().await?;
        Ok(Self { running, client: Client::new(channel), _folder: folder })
    }

    /// What its CLI says to a prompt in the end.
    async fn said(&self, session: &str, prompt: &str) -> Outcome<String> {
        let request = QueryRequest {
            session_id: session.into(),
            prompt: prompt.into(),
            ..QueryRequest::default()
        };
        let mut events = self.client.clone().query(request).await?.into_inner();
        while let Some(message) = events.message().await? {
            if let Some(Item::Event(event)) = message.item
                && let Some(Kind::Result(result)) = event.kind
            {
                return Ok(result.result);
            }
        }
        Err("no result".into())
    }

    /// User and system time so far, in seconds.
    pub fn cpu(&self) -> Outcome<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.running.pid))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        // Linux counts these in hundredths of a second.
        Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
    }
}

/// The service, and ways through it.
pub struct Gateway {
    /// The service.
    pub service: Service,
    /// A way by the token of each of two processes: one has fewer connections than there are streams.
    pub ways: [Way; 2],
}

impl Gateway {
    /// Starts it.
    pub async fn start(upstream: &Upstream) -> Outcome<Self> {
        let service = Service::start(Some(upstream), &[]).await?;
        let ways = [way(&service, "one").await?, way(&service, "two").await?];
        Ok(Self { service, ways })
    }
}

/// The way that a session's CLI is told.
async fn way(service: &Service, session: &str) -> Outcome<Way> {
    let told = service.said(session, "#!fake\nenv ANTHROPIC_BASE_URL").await?;
    let address = told.strip_prefix("http://").ok_or_else(|| format!("no address: {told}"))?;
    let token = service.said(session, "#!fake\nenv ANTHROPIC_API_KEY").await?;
    Ok(Way { address: address.parse()?, token })
}

/// The way that passes the gateway by.
pub fn straight(upstream: &Upstream) -> Way {
    Way { address: upstream.address, token: "sk-ant-bench".into() }
}
