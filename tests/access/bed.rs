//! A service that asks its callers who they are, and callers with and without an answer.

use std::{fs, path::PathBuf, time::Duration};

use session_pool::{
    config::Config,
    internals::{access::tokens::fresh, domain::ids::TenantId},
    proto::{GetStatsRequest, session_pool_service_client::SessionPoolServiceClient},
};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::support::service::{Service, fake_cli};

/// Says who calls.
#[derive(Clone)]
pub struct Bearer(pub Option<String>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            let value = MetadataValue::try_from(header).expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub type Client = SessionPoolServiceClient<InterceptedService<Channel, Bearer>>;

/// A service with a tokens file.
pub struct Bed {
    pub service: Service,
    pub folder: TempDir,
    channel: Channel,
}

/// A token and its entry in the file.
pub struct Token {
    pub secret: String,
    pub entry: String,
}

pub fn token(tenant: &str, admin: bool, lifetime: Option<Duration>) -> Token {
    let tenant = TenantId::parse(tenant).expect("a name");
    let (secret, entry) = fresh(&tenant, admin, lifetime);
    Token { secret, entry }
}

pub fn file_of(tokens: &[&Token]) -> String {
    tokens.iter().map(|token| token.entry.as_str()).collect::<Vec<_>>().join("\n")
}

impl Bed {
    pub async fn start(tokens: &[&Token]) -> Self {
        Self::with(tokens, |_| {}).await
    }

    pub async fn with(tokens: &[&Token], change: impl FnOnce(&mut Config)) -> Self {
        let (state, folder) =
            (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let file = folder.path().join("tokens.toml");
        fs::write(&file, file_of(tokens)).expect("written");
        let mut config = fake_cli(state.path());
        config.auth.tokens_file = Some(file);
        change(&mut config);
        let service = Service::with(config, state).await;
        let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
        let channel = endpoint.connect().await.expect("connected");
        Self { service, folder, channel }
    }

    pub fn tokens_file(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    pub fn client(&self, token: &Token) -> Client {
        self.client_saying(Some(format!("Bearer {}", token.secret)))
    }

    pub fn client_saying(&self, header: Option<String>) -> Client {
        SessionPoolServiceClient::with_interceptor(self.channel.clone(), Bearer(header))
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// Whether a caller is let in.
pub async fn knock(client: &Client) -> Result<(), Status> {
    client.clone().get_stats(GetStatsRequest::default()).await.map(drop)
}
