//! The gateway to the API among the other parts: started before the supply that gives processes
//! their passes, and told of the pool that knows what tenants may still spend.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::{Enclosure, settings};
use crate::{
    audit::Audit,
    cli::{launch::LaunchSettings, versions::Installed},
    config::{Config, EgressConfig, PriceConfig, TenantCredential},
    domain::ids::TenantId,
    gateway::{Allowances, CredentialFile, CredentialKind, Gateway, Price, Prices, Settings},
    policy::{Policy, egress::Egress},
    pool::SessionPool,
    supply::ProcessSupply,
    tasks::Tasks,
};

/// Starts the gateway on this socket, if there is one.
pub async fn start(
    config: &Config,
    socket: Option<TcpListener>,
    audit: &Audit,
    tasks: &Tasks,
) -> anyhow::Result<Option<Gateway>> {
    match socket {
        Some(socket) => Ok(Some(Gateway::start(settings_of(config, audit)?, socket, tasks).await?)),
        None => Ok(None),
    }
}

/// The way of CLIs to the API. Everything in it was checked when the configuration was read.
fn settings_of(config: &Config, audit: &Audit) -> anyhow::Result<Settings> {
    let (own, tokens) = (&config.gateway, config.policy.tenant_max_tokens_per_minute);
    let files = (own.api_key_file.as_ref(), own.bearer_token_file.as_ref());
    let credential = credential_in(files, ("gateway.api_key_file", "gateway.bearer_token_file"));
    let of_tenant = |it: &TenantCredential| {
        let files = (it.api_key_file.as_ref(), it.bearer_token_file.as_ref());
        let credential = credential_in(files, ("gateway.tenant", "gateway.tenant"))?;
        Some((TenantId::parse(&it.tenant).ok()?, credential))
    };
    let upstream = own.upstream.parse();
    Ok(Settings {
        upstream: upstream.with_context(|| format!("gateway.upstream: {:?}", own.upstream))?,
        ca: own.ca.clone(),
        http2: own.http2,
        connect_timeout: own.connect_timeout,
        credential,
        tenants: own.tenant.iter().filter_map(of_tenant).collect(),
        prices: Prices::new(own.price.iter().map(price).collect()),
        serves_api: own.enabled,
        egress: egress(config)?,
        audit: audit.clone(),
        tokens_per_minute: Some(tokens as u64).filter(|tokens| *tokens > 0),
    })
}

/// Where sessions may connect to. Patterns were checked when the configuration was read.
fn egress(config: &Config) -> anyhow::Result<Egress> {
    let patterns = match &config.policy.egress {
        EgressConfig::Open => return Ok(Egress::Open),
        EgressConfig::Gateway => Ok(Vec::new()),
        EgressConfig::Hosts(hosts) => hosts.iter().map(|text| text.parse()).collect(),
    };
    let patterns: Result<_, String> = patterns;
    Ok(Egress::Hosts(patterns.map_err(|problem| anyhow::anyhow!("policy.egress: {problem}"))?))
}

fn credential_in(
    (api_key, bearer): (Option<&PathBuf>, Option<&PathBuf>),
    (key_of_api_key, key_of_bearer): (&'static str, &'static str),
) -> Option<CredentialFile> {
    let file = |key, kind, path: &PathBuf| CredentialFile { key, kind, path: path.clone() };
    api_key
        .map(|path| file(key_of_api_key, CredentialKind::ApiKey, path))
        .or(bearer.map(|path| file(key_of_bearer, CredentialKind::Bearer, path)))
}

fn price(config: &PriceConfig) -> Price {
    let PriceConfig { model, input, output, cache_write, cache_write_1h, cache_read } = config;
    let usual = Price::of(model, *input, *output);
    Price {
        cache_write: cache_write.unwrap_or(usual.cache_write),
        cache_write_1h: cache_write_1h.unwrap_or(usual.cache_write_1h),
        cache_read: cache_read.unwrap_or(usual.cache_read),
        ..usual
    }
}

/// What starts processes, with a pass for the gateway each if there is one.
pub fn supply(
    config: &Config,
    (enclosure, installed): (&Enclosure, &Installed),
    policy: &Arc<Policy>,
    gateway: Option<Gateway>,
    tasks: &Tasks,
) -> anyhow::Result<ProcessSupply> {
    let launch = settings::launch(config, enclosure.sandbox.clone(), installed.clone());
    let launch = LaunchSettings { groups: enclosure.groups.clone(), ..launch };
    Ok(ProcessSupply::new(
        (launch, gateway),
        settings::limits(config),
        Arc::clone(policy),
        settings::spares(config)?,
        tasks.clone(),
    ))
}

/// What tenants may still spend, as the pool knows it.
#[derive(Debug)]
pub struct OfPool(pub SessionPool);

impl Allowances for OfPool {
    fn left_today(&self, tenant: &TenantId) -> Option<f64> {
        self.0.tenant(tenant).left_today()
    }
}
