//! Certificates from files, for the handshakes of connections. Knows nothing of what is
//! said over those.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

use crate::os::{pem, regular};

/// The keys of the configuration that name the files, for whoever reads what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsKeys {
    cert: &'static str,
    key: &'static str,
    client_ca: &'static str,
}

/// Towards callers.
pub const CALLERS: TlsKeys =
    TlsKeys { cert: "tls.cert", key: "tls.key", client_ca: "tls.client_ca" };

/// Between nodes.
pub const NODES: TlsKeys =
    TlsKeys { cert: "cluster.cert", key: "cluster.key", client_ca: "cluster.ca" };

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// What the files are called.
    pub keys: &'static TlsKeys,
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
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.cert, &self.key].into_iter().chain(&self.client_ca)
    }

    /// Reads the files, for whoever is connected to.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let (chain, private) = self.own()?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|problem| error(self.keys.cert, &self.cert, problem.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let problem = |problem: String| error(self.keys.client_ca, file, problem);
                let roots = Arc::new(self.roots()?);
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
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
            .map_err(|problem| error(self.keys.key, &self.key, problem.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads the files, for whoever connects to another one that has such files.
    pub fn load_client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let (chain, private) = self.own()?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|problem| error(self.keys.cert, &self.cert, problem.to_string()))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, private)
            .map_err(|problem| error(self.keys.key, &self.key, problem.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    fn own(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(&self.cert)
            .map_err(|problem| error(self.keys.cert, &self.cert, problem))?;
        let private = read(&self.key)
            .and_then(|text| pem::private_key(&text))
            .map_err(|problem| error(self.keys.key, &self.key, problem))?;
        Ok((chain, private))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.authorities()? {
            let added = roots.add(certificate);
            added.map_err(|bad| self.of_authorities(bad.to_string()))?;
        }
        Ok(roots)
    }

    /// The certificates of the authorities.
    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let Some(file) = &self.client_ca else { return Ok(Vec::new()) };
        certificates(file).map_err(|problem| self.of_authorities(problem))
    }

    /// Fails if an authority of these files is one of the others as well: whom the others let in
    /// would be let in by these.
    pub fn keep_apart(&self, others: &Self) -> Result<(), TlsError> {
        let theirs = others.authorities()?;
        match self.authorities()?.iter().any(|own| theirs.contains(own)) {
            true => {
                let key = others.keys.client_ca;
                Err(self.of_authorities(format!("has an authority that {key} has, too")))
            }
            false => Ok(()),
        }
    }

    fn of_authorities(&self, problem: String) -> TlsError {
        let file = self.client_ca.clone().unwrap_or_default();
        TlsError { key: self.keys.client_ca, file, problem }
    }
}

fn error(key: &'static str, file: &Path, problem: String) -> TlsError {
    TlsError { key, file: file.to_owned(), problem }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    pem::certificates(&read(file)?)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    regular::read(file).map_err(|error| error.to_string())
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
        let files =
            TlsFiles { keys: &CALLERS, cert, key, client_ca: None, client_cert_optional: false };
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
