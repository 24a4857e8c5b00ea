//! The files that say who may call and by which certificate the service is known: read at
//! the start, and again when they change or at SIGHUP. What cannot be read then leaves
//! in force what was read before, and says so in the log.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, info_span, warn};

use crate::{
    auth::{files::Files, gate::Gate, tokens::Tokens},
    config::Config,
    tasks::Tasks,
    tls::TlsFiles,
};

/// Who may call, and by which certificate the service is known.
#[derive(Debug)]
pub struct Credentials {
    gate: Gate,
    tokens_file: Option<PathBuf>,
    tls: Option<(TlsFiles, watch::Sender<Arc<ServerConfig>>)>,
}

impl Credentials {
    /// Reads the files that the configuration names.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let tokens_file = config.auth.tokens_file.clone();
        let tokens = tokens_file.as_deref().map(read_tokens).transpose()?;
        let tls = match (&config.tls.cert, &config.tls.key) {
            (Some(cert), Some(key)) => {
                let files = TlsFiles {
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
        let gate = Gate::new(tokens, config.tls.client_ca.is_some());
        Ok(Self { gate, tokens_file, tls })
    }

    /// What decides who is let in.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// The certificates in force, where there is TLS.
    pub fn certificates(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        self.tls.as_ref().map(|(_, current)| current.subscribe())
    }

    /// Reads the files again whenever they change, until the tasks end.
    pub fn keep_up_to_date(self, tasks: &Tasks) {
        let paths: Vec<PathBuf> =
            self.tokens_file.iter().cloned().chain(self.tls_paths()).collect();
        if paths.is_empty() {
            return;
        }
        let files = Files::watch(&paths);
        let stopping = tasks.stopping().clone();
        tasks.spawn(info_span!("credentials"), async move {
            tokio::select! {
                () = self.follow(files) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    fn tls_paths(&self) -> Vec<PathBuf> {
        self.tls.as_ref().map(|(files, _)| files.paths()).unwrap_or_default()
    }

    async fn follow(&self, files: notify::Result<Files>) {
        let mut files = match files {
            Ok(files) => Some(files),
            Err(error) => {
                warn!(%error, "credentials_not_watched");
                None
            }
        };
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                warn!(%error, "sighup_not_heard");
                return;
            }
        };
        loop {
            tokio::select! {
                () = changed(files.as_mut()) => {}
                _ = hangup.recv() => {}
            }
            self.reload();
        }
    }

    /// Reads the files again.
    fn reload(&self) {
        match self.tokens_file.as_deref().map(read_tokens) {
            Some(Ok(tokens)) => {
                info!(tokens = tokens.len(), "tokens_reloaded");
                self.gate.replace_tokens(tokens);
            }
            Some(Err(problem)) => error!(error = format!("{problem:#}"), "tokens_not_reloaded"),
            None => {}
        }
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

fn read_tokens(file: &Path) -> anyhow::Result<Tokens> {
    Tokens::read(file).with_context(|| format!("auth.tokens_file: {}", file.display()))
}

async fn changed(files: Option<&mut Files>) {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}
