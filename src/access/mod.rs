//! Who a caller is: by a bearer token of the tokens file, or by its client certificate.
//! Knows tenants, roles and credentials; nothing of what callers ask for.
//!
//! - [`tokens`] reads the tokens file and finds a token in it.
//! - [`certificate`] reads tenant and roles from a client certificate.
//! - [`authenticator`] decides; it can be given another set of tokens while it is in use.
//! - [`nodes`] tells other nodes from callers, and reads for whom they speak; [`node_files`] and
//!   `node_tokens` are what they recognise each other by.
//! - [`files`] says when files have changed.
//! - [`credentials`] reads all of them at the start, and again when they change; [`tls`] is
//!   the certificate by which the service itself is known.

pub mod authenticator;
pub mod certificate;
pub mod credentials;
pub mod files;
pub mod node_files;
mod node_tokens;
pub mod nodes;
pub mod tls;
pub mod tokens;

use std::sync::Arc;

use crate::domain::ids::TenantId;

/// A caller that has been let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose sessions it may use.
    pub tenant: TenantId,
    /// Whether it may look at, and interrupt, what belongs to other tenants.
    pub admin: bool,
    /// What the operator calls its token, for logs.
    pub name: Option<Arc<str>>,
}

impl Identity {
    /// Whoever reaches a service that asks nobody who they are.
    pub fn anonymous() -> Self {
        Self { tenant: TenantId::default(), admin: true, name: None }
    }
}

/// Why a caller is not let in. Says nothing of the credential itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither a token nor a certificate.
    #[error("credentials are missing: send `authorization: Bearer TOKEN`{0}")]
    Missing(&'static str),
    /// The header is of another form.
    #[error("the authorization metadata is not of the form `Bearer TOKEN`")]
    Malformed,
    /// Sent more than once: it would depend on who reads it which one counts.
    #[error("the authorization metadata is sent more than once")]
    Repeated,
    /// No such token, or none any more.
    #[error("the token is not known, or has been revoked")]
    Unknown,
    /// The token was good until a time that has passed.
    #[error("the token has expired")]
    Expired,
    /// A certificate whose time has passed, or has not come.
    #[error("the client certificate has expired, or is not good yet")]
    CertificateExpired,
    /// A certificate without a usable name.
    #[error(
        "the client certificate names no tenant: its subject needs a CN of 1 to 128 characters of A-Z a-z 0-9 . _ : -"
    )]
    Nameless,
    /// A node's token that is not known.
    #[error("the node's token is not known (cluster.token_file)")]
    UnknownNode,
    /// A caller, where only nodes are let in.
    #[error("only other nodes may call here (cluster.listen)")]
    NotANode,
    /// A node that does not say for whom it speaks, or not in a form that has a meaning.
    #[error("the node does not say for whom it calls in a form that this version knows")]
    Unspoken,
}
