//! The files that the client speaks TLS with. Each is checked before it is used, so that an
//! error says which of them it is about: the library that takes them says only what is wrong.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{
    args::ServerArgs,
    exit::{Failure, read_file},
};
use crate::os::pem;

/// What the files say about TLS, if any is given.
pub fn configuration(server: &ServerArgs) -> Result<Option<ClientTlsConfig>, Failure> {
    let ServerArgs { ca_cert, cert, key, .. } = server;
    if ca_cert.is_none() && cert.is_none() {
        return Ok(None);
    }
    let mut tls = ClientTlsConfig::new();
    if let Some(file) = ca_cert {
        tls = tls.ca_certificate(Certificate::from_pem(authorities(file)?));
    }
    if let (Some(cert), Some(key)) = (cert, key) {
        tls = tls.identity(identity(cert, key)?);
    }
    Ok(Some(tls))
}

fn authorities(file: &Path) -> Result<Vec<u8>, Failure> {
    const OPTION: &str = "--ca-cert";
    let text = read_file(OPTION, file)?;
    let mut roots = RootCertStore::empty();
    for certificate in
        pem::certificates(&text).map_err(|problem| Failure::file(OPTION, file, problem))?
    {
        roots.add(certificate).map_err(|error| Failure::file(OPTION, file, error))?;
    }
    Ok(text)
}

fn identity(cert: &Path, key: &Path) -> Result<Identity, Failure> {
    let (chain_text, key_text) = (read_file("--cert", cert)?, read_file("--key", key)?);
    let chain =
        pem::certificates(&chain_text).map_err(|problem| Failure::file("--cert", cert, problem))?;
    let private =
        pem::private_key(&key_text).map_err(|problem| Failure::file("--key", key, problem))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::file("--key", key, error))?;
    builder
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, private)
        .map_err(|error| match error {
            rustls::Error::InvalidCertificate(_) => Failure::file("--cert", cert, error),
            rustls::Error::InconsistentKeys(_) => {
                Failure::file("--key", key, format!("is not the key of --cert {}", cert.display()))
            }
            error => Failure::file("--key", key, error),
        })?;
    Ok(Identity::from_pem(chain_text, key_text))
}
