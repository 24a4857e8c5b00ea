//! The section `gateway`: the way of CLIs to the API where the service has the credential. As in
//! `sections`, each comment ends with the default and the bounds, and `docs/configuration.md` is made
//! from it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use toml::Value;

use super::tables;
use crate::policy::rules::check_tenant;

/// Tables of one kind at most.
const MOST_TABLES: usize = 1000;

/// US dollars for a million tokens at most.
const DEAREST: f64 = 1e6;

/// Characters of the beginning of a model's name.
const LONGEST_MODEL: usize = 128;

/// The gateway to the API.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayConfig {
    /// Whether CLIs reach the API through the service, which alone has the credential: in
    /// bubblewrap agents cannot read it, and costs are counted by what the API says ([gateway.md](gateway.md)).
    /// Default false, but true where a credential is configured here.
    pub enabled: bool,
    /// Loopback address and port where CLIs reach it; port 0 picks one. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The API, as `https://HOST`, with a port and a path if it has them. Default
    /// `https://api.anthropic.com`.
    pub upstream: String,
    /// The file of the API key that is shown in `x-api-key`, read again when it changes, and hidden
    /// from sessions. Default none.
    pub api_key_file: Option<PathBuf>,
    /// The file of a token that is shown as `Authorization: Bearer` in place of a key, likewise.
    /// Default none.
    pub bearer_token_file: Option<PathBuf>,
    /// A credential of one tenant, as a table: `tenant`, and `api_key_file` or `bearer_token_file`.
    /// Tenants without one use that of `gateway`, and where that has none, nobody's. Default none, at most 1000 tables.
    pub tenant: Vec<TenantCredential>,
    /// What a million tokens cost in US dollars, as a table: `model` (what names begin with; the
    /// longest counts), `input`, `output`, and `cache_write`, `cache_write_1h`, `cache_read`, which
    /// are 1.25, 2 and 0.1 of `input` if left out. Goes before the table that is built in. Default
    /// none, at most 1000 tables.
    pub price: Vec<PriceConfig>,
    /// Authorities (PEM) that the API's certificate may be from. Default none, which is those of the
    /// system.
    pub ca: Option<PathBuf>,
    /// Whether HTTP/2 is spoken to the API: all requests share one connection then. Default false.
    pub http2: bool,
    /// How long a connection to the API may take. Default 10 s, over 0, at most 5 min.
    pub connect_timeout: Duration,
}

/// The credential of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantCredential {
    /// Whose.
    pub tenant: String,
    /// A key of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// A bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token_file: Option<PathBuf>,
}

/// What a million tokens cost, in US dollars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// What the names of its models begin with.
    pub model: String,
    /// Tokens read.
    pub input: f64,
    /// Tokens written.
    pub output: f64,
    /// Tokens put into the prompt cache for five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Tokens put into it for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<f64>,
    /// Tokens that came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<f64>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            upstream: "https://api.anthropic.com".into(),
            api_key_file: None,
            bearer_token_file: None,
            tenant: Vec::new(),
            price: Vec::new(),
            ca: None,
            http2: false,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl GatewayConfig {
    /// Whether there is a credential in it.
    pub fn has_credential(&self) -> bool {
        self.api_key_file.is_some() || self.bearer_token_file.is_some() || !self.tenant.is_empty()
    }

    /// The files of all credentials.
    pub fn credential_files(&self) -> impl Iterator<Item = &PathBuf> {
        let own = [&self.api_key_file, &self.bearer_token_file].into_iter().flatten();
        own.chain(self.tenant.iter().filter_map(TenantCredential::file))
    }

    /// The paths in it.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = Option<&mut PathBuf>> {
        let Self { api_key_file, bearer_token_file, tenant, ca, .. } = self;
        let own = [api_key_file.as_mut(), bearer_token_file.as_mut(), ca.as_mut()];
        let of_tenants =
            tenant.iter_mut().map(|it| it.api_key_file.as_mut().or(it.bearer_token_file.as_mut()));
        own.into_iter().chain(of_tenants)
    }
}

impl TenantCredential {
    fn file(&self) -> Option<&PathBuf> {
        self.api_key_file.as_ref().or(self.bearer_token_file.as_ref())
    }
}

/// Reads `[[gateway.tenant]]`.
pub(super) fn read_tenants(value: &Value) -> Result<Vec<TenantCredential>, String> {
    let all = tables::read(value, ("gateway.tenant", MOST_TABLES), check_credential)?;
    let mut seen = BTreeSet::new();
    match all.iter().find(|it| !seen.insert(it.tenant.as_str())) {
        Some(twice) => Err(format!("tenant {:?} has two tables", twice.tenant)),
        None => Ok(all),
    }
}

fn check_credential(credential: &TenantCredential) -> Result<(), String> {
    if credential.tenant.is_empty() {
        return Err("tenant must be a name".to_owned());
    }
    check_tenant(&credential.tenant).map_err(|problem| format!("tenant {problem}"))?;
    match (&credential.api_key_file, &credential.bearer_token_file) {
        (Some(path), None) | (None, Some(path)) if !path.as_os_str().is_empty() => Ok(()),
        _ => Err("must have either api_key_file or bearer_token_file".to_owned()),
    }
}

/// Reads `[[gateway.price]]`.
pub(super) fn read_prices(value: &Value) -> Result<Vec<PriceConfig>, String> {
    tables::read(value, ("gateway.price", MOST_TABLES), check_price)
}

fn check_price(price: &PriceConfig) -> Result<(), String> {
    if price.model.is_empty() || price.model.len() > LONGEST_MODEL {
        return Err(format!("model must have from 1 to {LONGEST_MODEL} bytes"));
    }
    let parts = [
        ("input", Some(price.input)),
        ("output", Some(price.output)),
        ("cache_write", price.cache_write),
        ("cache_write_1h", price.cache_write_1h),
        ("cache_read", price.cache_read),
    ];
    for (name, amount) in parts {
        if let Some(amount) = amount.filter(|amount| !(0.0..=DEAREST).contains(amount)) {
            return Err(format!("{name} must be from 0 to {DEAREST}, is {amount}"));
        }
    }
    Ok(())
}
