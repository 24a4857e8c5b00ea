//! The credentials of the API: files, read anew for every request, so that a key can be rotated at
//! any time. A file that cannot be read for a moment, because it is being replaced, leaves in force
//! what it held before.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use http::{HeaderName, HeaderValue, header};
use tracing::warn;

use super::refusal::Refusal;
use crate::{domain::ids::TenantId, os::regular, tasks::apart, telemetry::log_limit::CREDENTIAL};

/// Bytes of a credential.
const LONGEST: u64 = 16 << 10;

/// The header that has a key of the API.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How a credential is shown to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// In `x-api-key`.
    ApiKey,
    /// In `authorization`, as `Bearer`.
    Bearer,
}

/// A credential in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFile {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// How it is shown.
    pub kind: CredentialKind,
    /// Where it is.
    pub path: PathBuf,
}

/// A credential, as the header that shows it.
#[derive(Debug)]
pub(super) struct Credential {
    /// The key of the configuration that names it.
    pub(super) key: &'static str,
    /// The header's name.
    pub(super) name: HeaderName,
    /// The header's value.
    pub(super) value: HeaderValue,
}

/// A credential that cannot be had. Says nothing of what is in the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}: {error}", file.key, file.path.display())]
pub struct Unreadable {
    file: CredentialFile,
    error: io::Error,
}

/// Which credential is whose.
#[derive(Debug)]
pub(super) struct Credentials {
    of_all: Option<CredentialFile>,
    of_tenants: BTreeMap<TenantId, CredentialFile>,
    last: Mutex<HashMap<PathBuf, HeaderValue>>,
}

impl Credentials {
    pub(super) fn new(
        of_all: Option<CredentialFile>,
        of_tenants: BTreeMap<TenantId, CredentialFile>,
    ) -> Self {
        Self { of_all, of_tenants, last: Mutex::default() }
    }

    /// Reads all of them, as the start of the service does.
    pub(super) async fn read_all(&self) -> Result<(), Unreadable> {
        for file in self.of_all.iter().chain(self.of_tenants.values()) {
            self.read(file).await?;
        }
        Ok(())
    }

    /// A tenant's credential.
    pub(super) async fn of(&self, tenant: &TenantId) -> Result<Credential, Refusal> {
        let file = self.of_tenants.get(tenant).or(self.of_all.as_ref());
        let file = file.ok_or_else(|| Refusal::NoCredential(tenant.to_string()))?;
        let value = match self.read(file).await {
            Ok(value) => value,
            Err(error) => {
                if CREDENTIAL.admits() {
                    warn!(%error, "gateway_credential_unreadable");
                }
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                last.get(&file.path).cloned().ok_or(Refusal::Credential)?
            }
        };
        let name = match file.kind {
            CredentialKind::ApiKey => API_KEY,
            CredentialKind::Bearer => header::AUTHORIZATION,
        };
        Ok(Credential { key: file.key, name, value })
    }

    async fn read(&self, file: &CredentialFile) -> Result<HeaderValue, Unreadable> {
        let (path, kind) = (file.path.clone(), file.kind);
        let read =
            apart(move || value(&regular::read_bounded(regular::open(&path)?, LONGEST)?, kind));
        let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let value = read.map_err(|error| Unreadable { file: file.clone(), error })?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(file.path.clone(), value.clone());
        Ok(value)
    }
}

/// A file's text as the value of a header that no log shows.
fn value(text: &[u8], kind: CredentialKind) -> io::Result<HeaderValue> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
        return Err(io::Error::other("must hold one credential, without spaces, and nothing else"));
    }
    let shown = match kind {
        CredentialKind::ApiKey => text.to_vec(),
        CredentialKind::Bearer => [b"Bearer ", text].concat(),
    };
    let mut value = HeaderValue::from_bytes(&shown).map_err(io::Error::other)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_tenant_s_credential_is_what_its_file_has_now_or_had_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let file = |name: &str, kind| CredentialFile { key: "gateway.x", kind, path: at(name) };
        let own = TenantId::parse("own").expect("an id");
        let credentials = Credentials::new(
            Some(file("all", CredentialKind::ApiKey)),
            [(own.clone(), file("own", CredentialKind::Bearer))].into(),
        );
        let error = credentials.read_all().await.expect_err("not there").to_string();
        assert!(error.starts_with("gateway.x: "), "{error}");
        fs::write(at("all"), "key-1\n").expect("written");
        fs::write(at("own"), "token").expect("written");
        credentials.read_all().await.expect("read");
        let shown = async |tenant: &TenantId| {
            let Credential { name, value, key: _ } =
                credentials.of(tenant).await.expect("a credential");
            format!("{name}: {}", value.to_str().expect("a text"))
        };
        assert_eq!(shown(&TenantId::default()).await, "x-api-key: key-1");
        assert_eq!(shown(&own).await, "authorization: Bearer token");
        fs::write(at("all"), "key-2").expect("written");
        assert_eq!(shown(&TenantId::default()).await, "x-api-key: key-2");
        for broken in ["", "two words", "line\nbreak", "\u{e9}"] {
            fs::write(at("all"), broken).expect("written");
            assert_eq!(shown(&TenantId::default()).await, "x-api-key: key-2", "{broken:?}");
            let error = credentials.read_all().await.expect_err("refused").to_string();
            assert!(broken.is_empty() || !error.contains(broken), "{error}");
        }
        assert!(!format!("{credentials:?}").contains("key-2"), "{credentials:?}");
        let nobody = Credentials::new(None, BTreeMap::new());
        assert!(matches!(nobody.of(&own).await, Err(Refusal::NoCredential(_))));
    }
}
