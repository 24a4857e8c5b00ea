//! The proxy by which sessions reach other hosts: it resolves names itself, connects only to what the
//! operator has listed, and passes bytes on. A session with a network namespace of its own has no
//! other way out; elsewhere the proxy is used by programs that honour `HTTPS_PROXY`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, PROXY_AUTHORIZATION},
    uri::Authority,
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1, upgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tracing::{debug, debug_span, info};

use super::{
    Gateway,
    account::Account,
    body::{AnyBody, full},
    forward::drop_of_connection,
    seat::Seat,
};
use crate::{
    audit::Entry,
    domain::notice::{EgressRefused, Notice},
    policy::egress::Refused,
    tasks::spawn_owned,
    telemetry::log_limit::EGRESS,
};

/// How long a connection may take, and the look-up of a name before it.
const LIMIT: Duration = Duration::from_secs(15);

/// Characters of a host and its port that are recorded: names have 253 at most.
const LONGEST_RECORDED: usize = 260;

/// Why a session is not connected to a host.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("the proxy wants the token of a process of this service that is alive")]
    Unknown,
    #[error("{0:?} is no HOST:PORT")]
    Form(String),
    #[error("{0}: {1}")]
    Refused(String, Refused),
    #[error("{0}: {1}")]
    Unreachable(String, io::Error),
}

impl ProxyError {
    /// The name of the kind, for figures.
    fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unauthenticated",
            Self::Form(_) => "malformed",
            Self::Refused(..) => "refused",
            Self::Unreachable(..) => "unreachable",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::Form(_) => StatusCode::BAD_REQUEST,
            Self::Refused(..) => StatusCode::FORBIDDEN,
            Self::Unreachable(..) => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Gateway {
    /// Whether a request is one for a proxy.
    pub(super) fn is_for_proxy(&self, request: &Request<Incoming>) -> bool {
        self.0.egress.is_closed()
            && (request.method() == Method::CONNECT || request.uri().scheme().is_some())
    }

    /// Connects a session to a host, or says why not.
    pub(super) async fn serve_proxy(
        &self,
        request: Request<Incoming>,
        seat: Arc<Seat>,
    ) -> Response<AnyBody> {
        let account = seat.account().or_else(|| self.account_of_proxy(request.headers()));
        let alive = |it: &Arc<Account>| !it.closed().is_cancelled() && seat.is_of(it);
        let reached = match account.filter(alive) {
            Some(account) => self.reach(request, &account, seat).await,
            None => Err(ProxyError::Unknown),
        };
        self.0.counts.connection(reached.as_ref().map_or_else(ProxyError::name, |_| "connected"));
        reached.unwrap_or_else(|error| {
            let mut response = Response::new(full(format!("session-pool: {error}\n")));
            *response.status_mut() = error.status();
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            response
        })
    }

    async fn reach(
        &self,
        request: Request<Incoming>,
        account: &Arc<Account>,
        seat: Arc<Seat>,
    ) -> Result<Response<AnyBody>, ProxyError> {
        let uri = request.uri();
        let authority = uri.authority().cloned();
        let authority = authority.ok_or_else(|| ProxyError::Form(uri.to_string()))?;
        let default = (request.method() != Method::CONNECT).then_some(80);
        let port = authority.port_u16().or(default).filter(|port| *port > 0);
        let port = port.ok_or_else(|| ProxyError::Form(authority.to_string()))?;
        let connected = self.connect(&authority, port, account).await;
        if let Err(ProxyError::Refused(host, why)) = &connected {
            self.tell_of_refusal(account, host, why);
        }
        let stream = connected?;
        stream.set_nodelay(true).ok();
        if request.method() == Method::CONNECT {
            self.tunnel(request, stream, (Arc::clone(account), seat));
            return Ok(Response::new(full(String::new())));
        }
        self.pass_plain(request, stream, &authority).await
    }

    fn tell_of_refusal(&self, account: &Account, host: &str, why: &Refused) {
        let (tenant, client_id) = (account.tenant(), account.process());
        if EGRESS.admits() {
            info!(%tenant, %client_id, host, reason = %why, "egress_refused");
        }
        let host: String = host.chars().take(LONGEST_RECORDED).collect();
        if account.is_first_refusal(&host) {
            let (tenant, client_id) = (tenant.as_str(), client_id.to_string());
            let reason = why.to_string();
            let told = EgressRefused { host: host.clone(), reason: reason.clone() };
            account.notices().push(Notice::EgressRefused(told));
            self.0.audit.record(&Entry::EgressRefused { tenant, client_id, host: &host, reason });
        }
    }

    /// Connects to what a session names, as far as it may.
    async fn connect(
        &self,
        authority: &Authority,
        port: u16,
        account: &Account,
    ) -> Result<TcpStream, ProxyError> {
        let egress = &self.0.egress;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let shown = || format!("{host}:{port}");
        let refused = |why| ProxyError::Refused(shown(), why);
        let unreachable = |error| ProxyError::Unreachable(shown(), error);
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => {
                egress.check_address(address, port).map_err(refused)?;
                vec![SocketAddr::new(address, port)]
            }
            Err(_) => {
                egress.check_name(host, port).map_err(refused)?;
                let found = self.look_up(host, port, account).await.map_err(unreachable)?;
                let allowed = |it: &&SocketAddr| egress.check_resolved(it.ip(), port).is_ok();
                let allowed: Vec<_> = found.iter().filter(allowed).copied().collect();
                if allowed.is_empty() {
                    return Err(refused(Refused::NotPublic));
                }
                allowed
            }
        };
        // By address: the name may have another one by now.
        let connected = timeout(LIMIT, TcpStream::connect(addresses.as_slice())).await;
        let stream = connected.map_err(io::Error::from).and_then(|stream| stream);
        let stream = stream.map_err(unreachable)?;
        // An address of this machine may be a public one: whoever connects to it has it himself.
        let (own, far) = (stream.local_addr(), stream.peer_addr());
        match (own, far) {
            (Ok(own), Ok(far))
                if own.ip() != far.ip() || egress.check_address(far.ip(), port).is_ok() =>
            {
                Ok(stream)
            }
            _ => Err(refused(Refused::NotPublic)),
        }
    }

    /// The addresses of a name. A look-up goes on when nobody waits for it any more, on a thread that
    /// others need too: so many at once, and so many of one process.
    async fn look_up(
        &self,
        host: &str,
        port: u16,
        account: &Account,
    ) -> io::Result<Vec<SocketAddr>> {
        let own = account.lookup();
        let own = own.ok_or_else(|| io::Error::other("too many names are looked up at once"))?;
        let all = Arc::clone(&self.0.lookups).acquire_owned();
        let place = timeout(LIMIT, all).await?.map_err(io::Error::other)?;
        let host = host.to_owned();
        let looking = spawn_owned(async move {
            let found = lookup_host((host.as_str(), port)).await.map(Iterator::collect::<Vec<_>>);
            drop((own, place));
            found
        });
        timeout(LIMIT, looking).await?.map_err(io::Error::other)?
    }

    /// Passes bytes on both ways, until one side or the process has ended.
    fn tunnel(
        &self,
        request: Request<Incoming>,
        mut stream: TcpStream,
        (account, seat): (Arc<Account>, Arc<Seat>),
    ) {
        let stopping = self.0.tasks.stopping().clone();
        self.0.tasks.spawn(debug_span!("egress"), async move {
            let passing = async {
                let Ok(upgraded) = upgrade::on(request).await else { return };
                if let Err(error) =
                    copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await
                {
                    debug!(%error, "egress_connection_ended");
                }
            };
            tokio::select! {
                () = passing => {}
                () = account.closed().cancelled() => {}
                () = stopping.cancelled() => {}
            }
            // The connection has its place as long as bytes go on it.
            drop(seat);
        });
    }

    /// Sends a request in plain text to its host.
    async fn pass_plain(
        &self,
        mut request: Request<Incoming>,
        stream: TcpStream,
        authority: &Authority,
    ) -> Result<Response<AnyBody>, ProxyError> {
        let failed = |error: hyper::Error| {
            ProxyError::Unreachable(authority.to_string(), io::Error::other(error))
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let stopping = self.0.tasks.stopping().clone();
        self.0.tasks.spawn(debug_span!("egress"), async move {
            tokio::select! {
                _ = connection => {}
                () = stopping.cancelled() => {}
            }
        });
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path: Uri = path.parse().map_err(|_| ProxyError::Form(path.to_owned()))?;
        *request.uri_mut() = path;
        drop_of_connection(request.headers_mut());
        let host = HeaderValue::from_str(authority.as_str());
        request
            .headers_mut()
            .insert(HOST, host.map_err(|_| ProxyError::Form(authority.to_string()))?);
        let mut response = sender.send_request(request).await.map_err(failed)?;
        drop_of_connection(response.headers_mut());
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// Whose token a request to the proxy has as its password or its user.
    fn account_of_proxy(&self, headers: &HeaderMap) -> Option<Arc<Account>> {
        let value = headers.get(PROXY_AUTHORIZATION)?.as_bytes().strip_prefix(b"Basic ")?;
        let decoded = STANDARD.decode(value).ok()?;
        let mut parts = decoded.splitn(2, |byte| *byte == b':');
        parts.find_map(|part| self.0.passes.of(part))
    }
}
