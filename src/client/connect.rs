//! The connection to the service.

use std::{error::Error, io, os::unix::ffi::OsStringExt as _, time::Duration};

use rustls::CertificateError;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{
    args::ServerArgs,
    exit::{Failure, read_file},
    tls,
};
use crate::proto::session_pool_service_client::SessionPoolServiceClient;

/// Holds a token where no file is named.
const TOKEN_VARIABLE: &str = "SESSION_POOL_TOKEN";

/// How long the service may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long it may take to find out why it cannot be talked to.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A page of sessions may hold many system prompts of 1 MiB. Events are at most 3 MiB
/// each, and larger ones come in parts.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

/// The client that the commands use.
pub type Service = SessionPoolServiceClient<InterceptedService<Channel, CallMetadata>>;

/// Connects to `http://host:port` or `https://host:port`; without a scheme it is TLS if
/// an authority or a certificate is given.
pub async fn connect(server: &ServerArgs) -> Result<Channel, Failure> {
    let address = &server.address;
    let tls = tls::configuration(server)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url =
        if address.contains("://") { address.clone() } else { format!("{scheme}://{address}") };
    let secure = url.starts_with("https://");
    if tls.is_some() && !secure {
        // What was meant to be secret must not travel in the open without a word.
        return Err(Failure::Usage(format!(
            "--ca-cert, --cert and --key are for TLS, and {address} is not an https:// address"
        )));
    }
    let endpoint = Endpoint::from_shared(url)
        .map_err(|error| Failure::Usage(format!("{address} is not an address: {error}")))?;
    let endpoint = if secure {
        endpoint
            .tls_config(tls.unwrap_or_default())
            .map_err(|error| Failure::Usage(format!("TLS: {}", root_cause(&error))))?
    } else {
        endpoint
    };
    match endpoint.connect_timeout(CONNECT_LIMIT).connect().await {
        Ok(channel) => Ok(channel),
        Err(error) => Err(explain(server).await.unwrap_or_else(|| Failure::Unreachable {
            address: address.into(),
            cause: certificate_problem(server, &error).unwrap_or_else(|| plain_words(&error)),
        })),
    }
}

/// Why a service could not be talked to, if it is that only one side speaks TLS.
pub async fn explain(server: &ServerArgs) -> Option<Failure> {
    let (scheme, rest) = server.address.split_once("://").unwrap_or(("http", &server.address));
    let authority = rest.split('/').next().unwrap_or_default();
    let speaks_tls = timeout(PROBE_LIMIT, speaks_tls(authority)).await.ok()?.ok()?;
    let cause = match (scheme, speaks_tls) {
        ("http", true) => format!(
            "the service speaks TLS: use https://{authority}, with --ca-cert if its certificate is of an authority of your own"
        ),
        ("https", false) => format!("the service does not speak TLS: use http://{authority}"),
        _ => return None,
    };
    Some(Failure::Unreachable { address: server.address.clone(), cause })
}

/// Greets in plain HTTP/2: a TLS server answers with a TLS alert, or just hangs up.
async fn speaks_tls(authority: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(authority).await?;
    // The preface, and empty settings.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    // The records of TLS are of types 20 to 23; an HTTP/2 server begins with the length of
    // its settings, which is short.
    Ok((20..=23).contains(&first[0]))
}

/// A client of the service on this connection.
pub fn service(channel: Channel, metadata: CallMetadata) -> Service {
    SessionPoolServiceClient::with_interceptor(channel, metadata)
        .max_decoding_message_size(LARGEST_MESSAGE)
}

/// The metadata that goes with every call.
#[derive(Clone, Default)]
pub struct CallMetadata {
    token: Option<MetadataValue<Ascii>>,
    /// By which proxies in front of several services choose the one that has the session.
    session: Option<MetadataValue<Ascii>>,
}

impl CallMetadata {
    /// The token of the file that is named, else of the environment; and the session, if all calls
    /// are about one.
    pub fn read(server: &ServerArgs, session: Option<&str>) -> Result<Self, Failure> {
        // Whatever else somebody may call a session is for the service to refuse.
        let session = session.filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()));
        let session = session.filter(|id| !id.is_empty()).and_then(|id| id.parse().ok());
        Ok(Self { token: token(server)?, session })
    }
}

fn token(server: &ServerArgs) -> Result<Option<MetadataValue<Ascii>>, Failure> {
    let (source, token) = match &server.token_file {
        Some(file) => {
            let text = read_file("--token-file", file)?;
            (format!("--token-file {}", file.display()), text)
        }
        None => match std::env::var_os(TOKEN_VARIABLE) {
            Some(token) => (TOKEN_VARIABLE.to_owned(), token.into_vec()),
            None => return Ok(None),
        },
    };
    let header = [b"Bearer ", token.trim_ascii()].concat();
    let mut value = MetadataValue::try_from(header).map_err(|_| {
        Failure::Usage(format!("{source}: the token has characters that cannot be sent"))
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Interceptor for CallMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in [("authorization", &self.token), ("session-id", &self.session)] {
            if let Some(value) = value {
                request.metadata_mut().insert(key, value.clone());
            }
        }
        Ok(request)
    }
}

/// What is wrong where nobody here vouches for the service's certificate.
fn certificate_problem(server: &ServerArgs, error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    let of_tls = loop {
        // An I/O error hides what it wraps from the chain.
        let wrapped = cause?.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(of_tls) = wrapped.and_then(|it| it.downcast_ref::<rustls::Error>()) {
            break of_tls;
        }
        cause = cause?.source();
    };
    let rustls::Error::InvalidCertificate(
        // The second is of an authority that has the name of one here, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature,
    ) = of_tls
    else {
        return None;
    };
    Some(match &server.ca_cert {
        Some(file) => format!(
            "the service's certificate is not of an authority in --ca-cert {}",
            file.display()
        ),
        None => "nobody here vouches for the service's certificate: name its authority with \
                 --ca-cert"
            .to_owned(),
    })
}

/// What happened, without the words of the libraries that it happened in.
fn plain_words(error: &dyn Error) -> String {
    let cause = root_cause(error);
    let of_library = ["h2", "http2", "hyper", "frame with invalid"];
    if of_library.iter().any(|word| cause.contains(word)) {
        return "what answers there is no gRPC service".to_owned();
    }
    cause
}

/// tonic says "transport error"; what happened is at the end of the chain.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::args::{Arguments, Client, Command};

    /// What a command sends as `session-id`.
    fn sent(line: &[&str]) -> Option<String> {
        let words = [&["session-pool"], line].concat();
        let arguments = Arguments::try_parse_from(words).expect("a command");
        let Command::Client(client) = arguments.command else { panic!("{line:?}") };
        let Client { server, command } = client.into();
        let mut metadata = CallMetadata::read(&server, command.session()).expect("no token");
        let request = metadata.call(Request::new(())).expect("let go");
        let value = request.metadata().get("session-id")?;
        Some(value.to_str().expect("text").to_owned())
    }

    #[test]
    fn proxies_are_told_the_session_that_a_command_is_about() {
        assert_eq!(sent(&["query", "--session", "a.b:c", "hi"]).as_deref(), Some("a.b:c"));
        for command in ["attach", "watch", "show", "interrupt", "close"] {
            assert_eq!(sent(&[command, "s"]).as_deref(), Some("s"), "{command}");
        }
        assert_eq!(sent(&["query", "hi"]), None, "the service gives it a session");
        assert_eq!(sent(&["stats"]), None);
    }

    #[test]
    fn what_cannot_be_sent_is_left_to_the_service_to_refuse() {
        assert_eq!(sent(&["show", "a b"]), None);
        assert_eq!(sent(&["show", "é"]), None);
    }
}
