//! The section `cluster`: this node among those on the same database, how it is reached by the
//! others, and how nodes recognise each other. As in `sections`, each comment ends with the default and the
//! bounds, and `docs/configuration.md` is made from it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// This node and the others. The files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// This node's name among the services that share a PostgreSQL database. A service that
    /// starts under a name takes it over from the one that had it. Default the host name.
    pub node: String,
    /// Time between a node's heartbeats. Default 1 s, over 0, at most a third of
    /// `cluster.lease`.
    pub heartbeat: Duration,
    /// Age of a node's heartbeat, by the database's clock, at which others take its sessions
    /// over. Default 4 s, over 0, at most 1 h.
    pub lease: Duration,
    /// `HOST:PORT` at which other nodes reach this one; with `cluster.ca` its certificate has to be
    /// for that host. Without it calls for sessions that are here are not forwarded by other
    /// nodes but fail there with `SESSION_MOVED`. Default none.
    pub advertise: String,
    /// IP address and port for other nodes alone: whoever is none of them is refused. With
    /// `cluster.ca` it speaks TLS. Default none, which is `server.listen`.
    pub listen: Option<SocketAddr>,
    /// Authorities of the certificates of nodes (PEM). Whoever has a certificate of theirs is a
    /// node and speaks for any caller, so it has to be an authority for nothing else. Default
    /// none.
    pub ca: Option<PathBuf>,
    /// This node's certificate chain (PEM), for both directions. Default none.
    pub cert: Option<PathBuf>,
    /// The private key of `cluster.cert`. Default none.
    pub key: Option<PathBuf>,
    /// A file with the token by which nodes recognise each other, in the place of
    /// certificates: lines of 32 characters or more, the first of which is sent and each of
    /// which is accepted. It travels in plain text. Default none.
    pub token_file: Option<PathBuf>,
}

impl ClusterConfig {
    /// Whether nodes show each other who they are; without it only this machine is trusted.
    pub fn asks(&self) -> bool {
        self.ca.is_some() || self.token_file.is_some()
    }

    /// Whether other nodes are expected to call.
    pub fn is_reachable(&self) -> bool {
        !self.advertise.is_empty() || self.listen.is_some()
    }

    /// The paths in it.
    pub(super) fn paths_mut(&mut self) -> [Option<&mut PathBuf>; 4] {
        let Self { ca, cert, key, token_file, .. } = self;
        [ca, cert, key, token_file].map(Option::as_mut)
    }
}
