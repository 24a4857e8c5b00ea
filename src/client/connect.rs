//! The connection to the service.

use std::{error::Error, time::Duration};

use tonic::transport::{Channel, Endpoint};

use super::exit::Failure;
use crate::proto::session_pool_service_client::SessionPoolServiceClient;

/// How long the service may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A page of sessions may hold many system prompts of 1 MiB. Events are at most 3 MiB
/// each, and larger ones come in parts.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

/// The client that the commands use.
pub type Service = SessionPoolServiceClient<Channel>;

/// Connects to `http://host:port`, the scheme being optional.
pub async fn connect(address: &str) -> Result<Channel, Failure> {
    if address.starts_with("https://") {
        return Err(Failure::Usage("this version does not speak TLS: use http://".into()));
    }
    let url = if address.contains("://") { address.into() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url)
        .map_err(|error| Failure::Usage(format!("{address} is not an address: {error}")))?;
    endpoint.connect_timeout(CONNECT_LIMIT).connect().await.map_err(|error| Failure::Unreachable {
        address: address.into(),
        cause: root_cause(&error),
    })
}

/// A client of the service on this connection.
pub fn service(channel: Channel) -> Service {
    SessionPoolServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE)
}

/// tonic says "transport error"; what happened is at the end of the chain.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
