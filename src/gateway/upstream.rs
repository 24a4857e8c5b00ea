//! Connections to the API: HTTP/1.1, as the CLI itself speaks it, or HTTP/2 where the operator wants
//! that; plain or encrypted, as its address says.

use std::{fmt, io, path::PathBuf, time::Duration};

use http::{
    Request, Response, Uri,
    uri::{PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::{Settings, body::Begun, refusal::Refusal};
use crate::os::{pem, regular};

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(60);

/// Why the way to the API cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// An authority cannot be used.
    #[error("gateway.ca: {}: {problem}", path.display())]
    Authority {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is none to go by.
    #[error("gateway.upstream: no authority of the system can be read: {0}")]
    NoAuthority(String),
    /// TLS cannot be set up.
    #[error("gateway.upstream: {0}")]
    Tls(#[from] rustls::Error),
}

/// The API.
pub(super) struct Upstream {
    base: Uri,
    client: Client<HttpsConnector<HttpConnector>, Begun>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Upstream {
    pub(super) fn new(settings: &Settings) -> Result<Self, UpstreamError> {
        let mut plain = HttpConnector::new();
        plain.enforce_http(false);
        plain.set_nodelay(true);
        plain.set_connect_timeout(Some(settings.connect_timeout));
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls(settings)?).https_or_http();
        let connector = match settings.http2 {
            true => tls.enable_all_versions().wrap_connector(plain),
            false => tls.enable_http1().wrap_connector(plain),
        };
        let mut client = Client::builder(TokioExecutor::new());
        client.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        client.http2_adaptive_window(true);
        let is_encrypted = settings.upstream.scheme() == Some(&Scheme::HTTPS);
        client.http2_only(settings.http2 && !is_encrypted);
        Ok(Self { base: settings.upstream.clone(), client: client.build(connector) })
    }

    /// Sends a request, whose address is that of the gateway, to the API.
    pub(super) async fn send(
        &self,
        mut request: Request<Begun>,
    ) -> Result<Response<Incoming>, Refusal> {
        *request.uri_mut() = self.address(request.uri()).map_err(|error| failed(&error))?;
        self.client.request(request).await.map_err(|error| failed(&error))
    }

    fn address(&self, asked: &Uri) -> Result<Uri, http::Error> {
        let path = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path.parse()?);
        Ok(Uri::from_parts(parts)?)
    }
}

/// An error with its causes: the first of them only says that a request has failed.
fn failed(error: &dyn std::error::Error) -> Refusal {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.dedup();
    Refusal::Upstream(texts.join(": "))
}

fn tls(settings: &Settings) -> Result<ClientConfig, UpstreamError> {
    let roots = match &settings.ca {
        Some(path) => {
            let problem =
                |problem: String| UpstreamError::Authority { path: path.clone(), problem };
            authorities(path).map_err(problem)?
        }
        None if settings.upstream.scheme() == Some(&Scheme::HTTP) => RootCertStore::empty(),
        None => of_system()?,
    };
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(path: &std::path::Path) -> Result<RootCertStore, String> {
    let text = regular::read(path).map_err(|error: io::Error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(&text)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, UpstreamError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problems: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(UpstreamError::NoAuthority(problems.join("; ")));
    }
    Ok(roots)
}
