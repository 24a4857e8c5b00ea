//! Connections over TLS: certificates from files, read again when those change, and
//! handshakes side by side, each within a bound. Knows nothing of what is said over them.

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, error_span, warn};

use crate::tasks::Tasks;

/// How long a client may take for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at the same time. More wait in the system's queue.
const HANDSHAKES: usize = 256;
/// After this the oldest handshake gives way, when all places are taken: whoever connects
/// and says nothing does not keep others out, and a rush of callers is not turned away.
const GIVE_WAY: Duration = Duration::from_secs(1);
/// Connections that are ready and wait to be served.
const READY: usize = 16;
/// The wait after a failure to accept, which is the machine's (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, in PEM; without it clients show none.
    pub client_ca: Option<PathBuf>,
    /// Whether a client may come without a certificate all the same.
    pub client_cert_optional: bool,
}

/// Why certificates cannot be used. Says which file, and nothing that is in it.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {}: {problem}", .file.display())]
pub struct TlsError {
    /// The key of the configuration.
    key: &'static str,
    file: PathBuf,
    problem: String,
}

impl TlsFiles {
    /// Reads the files.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let error =
            |key, file: &PathBuf, problem: String| TlsError { key, file: file.clone(), problem };
        let chain =
            certificates(&self.cert).map_err(|problem| error("tls.cert", &self.cert, problem))?;
        let private = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|bad| error("tls.key", &self.key, pem_problem(&bad)))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|problem| error("tls.cert", &self.cert, problem.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                let problem = |problem: String| error("tls.client_ca", file, problem);
                for certificate in certificates(file).map_err(problem)? {
                    roots.add(certificate).map_err(|bad| problem(bad.to_string()))?;
                }
                let mut verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                if self.client_cert_optional {
                    verifier = verifier.allow_unauthenticated();
                }
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|bad| problem(bad.to_string()))?,
                )
            }
        };
        let mut config = builder
            .with_single_cert(chain, private)
            .map_err(|problem| error("tls.key", &self.key, problem.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(|sections| sections.collect());
    match all {
        Ok(all) if all.is_empty() => Err("holds no certificate".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(pem_problem(&error)),
    }
}

/// What is wrong with a file of PEM. The error's own text repeats lines of the file, and
/// those may be the key.
fn pem_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "holds nothing of the kind in PEM".to_owned(),
        pem::Error::Base64Decode(_) => "its base64 is damaged".to_owned(),
        pem::Error::SectionTooLarge => "a section is too large".to_owned(),
        _ => "is not PEM: `-----BEGIN ...-----`, base64, and `-----END ...-----` stand on \
              lines of their own"
            .to_owned(),
    }
}

/// Connections whose handshake is done. Accepting is among `tasks`, and ends with them or
/// when nobody takes connections any more.
pub fn accept(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    tasks: &Tasks,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (ready, connections) = mpsc::channel(READY);
    let stopping = tasks.stopping().clone();
    tasks.spawn(error_span!("tls"), async move {
        tokio::select! {
            () = accept_for_ever(&listener, &config, &ready) => {}
            () = stopping.cancelled() => {}
            () = ready.closed() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept_for_ever(
    listener: &TcpListener,
    config: &watch::Receiver<Arc<ServerConfig>>,
    ready: &mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let mut handshakes = Handshakes::default();
    loop {
        handshakes.until_room().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "connection_not_accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
        let ready = ready.clone();
        handshakes.start(async move {
            stream.set_nodelay(true).ok();
            match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                // Whoever served connections may have stopped.
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(error)) => debug!(%error, "handshake_failed"),
                Err(_) => debug!("handshake_timeout"),
            }
        });
    }
}

/// Handshakes under way, side by side.
#[derive(Default)]
struct Handshakes {
    running: JoinSet<()>,
    /// In the order of their start, each with the time from which it gives way.
    order: VecDeque<(AbortHandle, Instant)>,
}

impl Handshakes {
    /// Returns once there is room for one more, which is after [`GIVE_WAY`] at the latest.
    async fn until_room(&mut self) {
        while self.running.try_join_next().is_some() {}
        self.order.retain(|(handshake, _)| !handshake.is_finished());
        while self.running.len() >= HANDSHAKES {
            let Some((oldest, gives_way)) = self.order.front() else { return };
            tokio::select! {
                _ = self.running.join_next() => {}
                () = sleep_until(*gives_way) => {
                    debug!("handshake_gave_way");
                    oldest.abort();
                    self.order.pop_front();
                    self.running.join_next().await;
                }
            }
        }
    }

    fn start(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        let handle = self.running.spawn(handshake);
        self.order.push_back((handle, Instant::now() + GIVE_WAY));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is told about a key file with this text.
    fn told(text: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("issued");
        fs::write(&cert, issued.cert.pem()).expect("written");
        fs::write(&key, text).expect("written");
        let files = TlsFiles { cert, key, client_ca: None, client_cert_optional: false };
        let error = files.load().expect_err("refused");
        format!("{error} {error:?}")
    }

    #[test]
    fn what_is_wrong_with_a_key_is_told_without_the_key() {
        let secret = "MIGHAgEAMBMGByqGSM49";
        // On one line, as it comes out of a variable; cut off; with a sign too many.
        for text in [
            format!("-----BEGIN PRIVATE KEY----- {secret}"),
            format!("-----BEGIN PRIVATE KEY----- {secret} -----END PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}*\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
            secret.to_owned(),
        ] {
            let told = told(&text);
            assert!(told.starts_with("tls.key: "), "{told}");
            // Nor as the numbers of its bytes.
            for hidden in [secret, "77, 73, 71", "[45"] {
                assert!(!told.contains(hidden), "{told}");
            }
        }
    }
}
