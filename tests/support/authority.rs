//! Authorities of certificates.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

/// An authority, and certificates of it in a folder: `ca.pem`, `cert.pem`, `key.pem`.
pub struct Authority {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        let authority = Self { issuer, folder };
        authority.issue("localhost");
        authority
    }

    /// A certificate for this host, and its key.
    pub fn issue(&self, host: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        // What callers' certificates say of tenants and roles says nothing of nodes.
        params.distinguished_name.push(DnType::CommonName, "somebody");
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("issued");
        let issued = (cert.pem(), key.serialize_pem());
        fs::write(self.folder.path().join("cert.pem"), &issued.0).expect("written");
        fs::write(self.folder.path().join("key.pem"), &issued.1).expect("written");
        issued
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
