//! Certificates and private keys in PEM. What is wrong with a file is told without anything
//! that is in it.

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};

/// All certificates of a file; there is at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => Err("holds no certificate".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(problem(&error)),
    }
}

/// The first private key of a file.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => "holds no private key".to_owned(),
        error => problem(&error),
    })
}

/// The error's own text repeats lines of the file, and those may be the key.
fn problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Base64Decode(_) => "its base64 is damaged".to_owned(),
        pem::Error::SectionTooLarge => "a section is too large".to_owned(),
        _ => "is not PEM: `-----BEGIN ...-----`, base64, and `-----END ...-----` stand on \
              lines of their own"
            .to_owned(),
    }
}
