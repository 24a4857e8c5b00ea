//! The files that say who may call and by which certificate the service is known: read at
//! the start, and again when they change or at SIGHUP. What cannot be read then leaves
//! in force what was read before, except for tokens that were taken out, and says so in
//! the log.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{error, error_span, info, warn};

use crate::{
    access::{
        authenticator::Authenticator,
        files::Files,
        node_files::NodeFiles,
        nodes::Nodes,
        tls::{CALLERS, TlsFiles},
        tokens::Tokens,
    },
    config::{ClusterConfig, Config, TlsConfig},
    os::regular,
    tasks::Tasks,
};

/// Who may call, and by which certificate the service is known.
#[derive(Debug)]
pub struct Credentials {
    authenticator: Authenticator,
    tokens_file: Option<PathBuf>,
    tls: Option<(TlsFiles, watch::Sender<Arc<ServerConfig>>)>,
    nodes: NodeFiles,
    /// Says when the files have changed since they were read; `None` if nobody asked, or
    /// if there are none.
    changes: Option<notify::Result<Files>>,
}

impl Credentials {
    /// Reads the files that the configuration names, to be kept up to date. They are
    /// watched before they are read: what changes while the service starts counts too.
    pub fn watched(config: &Config) -> anyhow::Result<Self> {
        let paths = paths(config);
        let changes = (!paths.is_empty()).then(|| Files::watch(&paths));
        Ok(Self { changes, ..Self::read(config)? })
    }

    /// Reads the files that the configuration names.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let tokens_file = config.auth.tokens_file.clone();
        let tokens = tokens_file.as_deref().map(read_tokens).transpose()?;
        let tls = match (&config.tls.cert, &config.tls.key) {
            (Some(cert), Some(key)) => {
                let files = TlsFiles {
                    keys: &CALLERS,
                    cert: cert.clone(),
                    key: key.clone(),
                    client_ca: config.tls.client_ca.clone(),
                    // Whoever has a token need not have a certificate.
                    client_cert_optional: tokens_file.is_some(),
                };
                let loaded = files.load()?;
                Some((files, watch::Sender::new(loaded)))
            }
            _ => None,
        };
        let nodes = NodeFiles::read(&config.cluster, tls.as_ref().map(|(files, _)| files))?;
        let authenticator = Authenticator::new(tokens, config.tls.client_ca.is_some());
        Ok(Self { authenticator, tokens_file, tls, nodes, changes: None })
    }

    /// What decides who is let in.
    pub fn authenticator(&self) -> Authenticator {
        self.authenticator.clone()
    }

    /// The certificates in force, where there is TLS.
    pub fn certificates(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        self.tls.as_ref().map(|(_, current)| current.subscribe())
    }

    /// What tells other nodes from callers.
    pub fn nodes(&self) -> Nodes {
        self.nodes.nodes()
    }

    /// The certificates in force towards other nodes, where they have such.
    pub fn node_certificates(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        self.nodes.certificates()
    }

    /// Reads the files again whenever they change and at SIGHUP, until the tasks end.
    /// Without any files SIGHUP means what it means to every process.
    pub fn keep_up_to_date(mut self, tasks: &Tasks) {
        if self.tokens_file.is_none() && self.tls.is_none() && self.nodes.is_empty() {
            return;
        }
        let files = self.changes.take();
        // From here on, not from when the task runs: until then SIGHUP ends the process.
        let hangup = signal(SignalKind::hangup());
        let stopping = tasks.stopping().clone();
        tasks.spawn(error_span!("credentials"), async move {
            tokio::select! {
                () = self.follow(files, hangup) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn follow(&self, files: Option<notify::Result<Files>>, hangup: io::Result<Signal>) {
        let mut files = files.and_then(|files| {
            files.inspect_err(|error| warn!(%error, "credentials_not_watched")).ok()
        });
        let mut hangup = hangup.inspect_err(|error| warn!(%error, "sighup_not_heard")).ok();
        let mut seen = None;
        loop {
            let asked = tokio::select! {
                () = changed(files.as_mut()) => false,
                () = hung_up(hangup.as_mut()) => true,
            };
            // Other files lie in the same folders, such as a log that this would be written to.
            let found = Some(self.fingerprint());
            if asked || found != seen {
                seen = found;
                self.reload();
            }
        }
    }

    /// Tells whether the files have changed, and nothing of what is in them.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let tls = self.tls.iter().flat_map(|(files, _)| files.paths());
        for file in self.tokens_file.iter().chain(tls).chain(self.nodes.paths()) {
            regular::read(file).map_err(|error| error.to_string()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Reads the files again.
    fn reload(&self) {
        if let Some(file) = &self.tokens_file {
            self.reload_tokens(file);
        }
        self.nodes.reload(self.tls.as_ref().map(|(files, _)| files));
        let Some((files, current)) = &self.tls else { return };
        match files.load() {
            Ok(loaded) => {
                info!("certificates_reloaded");
                current.send_replace(loaded);
            }
            Err(error) => error!(%error, "certificates_not_reloaded"),
        }
    }
}

impl Credentials {
    fn reload_tokens(&self, file: &Path) {
        let problem = match read_tokens(file) {
            Ok(tokens) => {
                info!(tokens = tokens.len(), "tokens_reloaded");
                return self.authenticator.replace_tokens(tokens);
            }
            Err(problem) => problem,
        };
        let before = self.authenticator.tokens().unwrap_or_default();
        let kept = regular::read_text(file).map(|text| before.still_in(&text)).unwrap_or_default();
        // A file with none of them is another one, put there by mistake, or half written.
        let (in_force, revoked) = match kept.len() {
            0 => (before.len(), 0),
            kept => (kept, before.len() - kept),
        };
        if revoked > 0 {
            self.authenticator.replace_tokens(kept);
        }
        error!(error = format!("{problem:#}"), in_force, revoked, "tokens_not_reloaded");
    }
}

/// The files that say who may call.
fn paths(config: &Config) -> Vec<PathBuf> {
    let TlsConfig { cert, key, client_ca } = &config.tls;
    let ClusterConfig { ca, cert: own, key: own_key, token_file, .. } = &config.cluster;
    let of_nodes = [ca, own, own_key, token_file];
    let files = [&config.auth.tokens_file, cert, key, client_ca].into_iter().chain(of_nodes);
    files.flatten().cloned().collect()
}

fn read_tokens(file: &Path) -> anyhow::Result<Tokens> {
    let named = || format!("auth.tokens_file: {}", file.display());
    let tokens = Tokens::read(file).with_context(named)?;
    // Nobody could call. It is a file that was emptied or cut off, not a decision.
    anyhow::ensure!(!tokens.is_empty(), "{}: has no tokens", named());
    Ok(tokens)
}

async fn changed(files: Option<&mut Files>) {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}

async fn hung_up(signal: Option<&mut Signal>) {
    let heard = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        // It cannot be heard, or not any more.
        std::future::pending().await
    }
}
