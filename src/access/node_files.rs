//! The files by which nodes recognise each other: certificates, or a token. Read at the start,
//! and again when they change; what cannot be read then leaves in force what was before.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::sync::watch;
use tracing::{error, info};

use super::{
    node_tokens::NodeTokens,
    nodes::Nodes,
    tls::{NODES, TlsFiles},
};
use crate::{config::ClusterConfig, os::regular};

/// The files.
#[derive(Debug)]
pub struct NodeFiles {
    nodes: Nodes,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    None,
    Token(PathBuf),
    Certificates(TlsFiles, watch::Sender<Arc<ServerConfig>>),
}

impl NodeFiles {
    /// Reads the files that the configuration names. `callers` are those of the ordinary listener.
    pub fn read(config: &ClusterConfig, callers: Option<&TlsFiles>) -> anyhow::Result<Self> {
        let ClusterConfig { ca, cert, key, token_file, .. } = config;
        if let (Some(ca), Some(cert), Some(key)) = (ca, cert, key) {
            let files = TlsFiles {
                keys: &NODES,
                cert: cert.clone(),
                key: key.clone(),
                client_ca: Some(ca.clone()),
                client_cert_optional: false,
            };
            if let Some(callers) = callers {
                files.keep_apart(callers)?;
            }
            let nodes = Nodes::by_certificates(files.load_client()?);
            let server = watch::Sender::new(files.load()?);
            return Ok(Self { nodes, kind: Kind::Certificates(files, server) });
        }
        let Some(file) = token_file else {
            return Ok(Self { nodes: Nodes::default(), kind: Kind::None });
        };
        let nodes = Nodes::by_token(read_tokens(file)?);
        Ok(Self { nodes, kind: Kind::Token(file.clone()) })
    }

    /// What tells nodes from callers.
    pub fn nodes(&self) -> Nodes {
        self.nodes.clone()
    }

    /// The certificates in force towards other nodes, where they have such.
    pub fn certificates(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        match &self.kind {
            Kind::Certificates(_, current) => Some(current.subscribe()),
            Kind::None | Kind::Token(_) => None,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::None)
    }

    /// All of them.
    pub fn paths(&self) -> Vec<&PathBuf> {
        match &self.kind {
            Kind::None => Vec::new(),
            Kind::Token(file) => vec![file],
            Kind::Certificates(files, _) => files.paths().collect(),
        }
    }

    /// Reads the files again.
    pub fn reload(&self, callers: Option<&TlsFiles>) {
        match &self.kind {
            Kind::None => {}
            Kind::Token(file) => match read_tokens(file) {
                Ok(tokens) => {
                    self.nodes.replace_tokens(tokens);
                    info!("node_token_reloaded");
                }
                Err(problem) => error!(error = format!("{problem:#}"), "node_token_not_reloaded"),
            },
            Kind::Certificates(files, current) => {
                let apart = callers.map_or(Ok(()), |callers| files.keep_apart(callers));
                let loaded = apart.and_then(|()| Ok((files.load()?, files.load_client()?)));
                match loaded {
                    Ok((server, client)) => {
                        current.send_replace(server);
                        self.nodes.replace_client(client);
                        info!("node_certificates_reloaded");
                    }
                    Err(error) => error!(%error, "node_certificates_not_reloaded"),
                }
            }
        }
    }
}

fn read_tokens(file: &Path) -> anyhow::Result<NodeTokens> {
    let named = || format!("cluster.token_file: {}", file.display());
    let text = regular::read_text(file).with_context(named)?;
    NodeTokens::parse(&text).map_err(anyhow::Error::msg).with_context(named)
}
