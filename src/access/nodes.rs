//! Which calls come from other nodes, and for whom they speak. A node has asked its caller who
//! that is, and says so in metadata of its own; whoever is not a node may write the same
//! metadata, and it means nothing: [`Nodes::strip`] takes it away from every call before
//! anybody else reads it.
//!
//! Where nodes show each other nothing, whoever is on this machine is taken for one. It can
//! then say that a call was forwarded, and not for whom: agents are on this machine, too.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::ClientConfig;

use super::{AuthError, Identity, certificate, node_tokens::NodeTokens};
use crate::domain::ids::TenantId;

/// What all metadata between nodes begins with.
const FAMILY: &str = "x-session-pool-";
/// The node that forwards the call.
const HOP: &str = "x-session-pool-hop";
/// By what nodes with a token recognise each other.
const TOKEN: &str = "x-session-pool-node-token";
/// Whose sessions the caller may use.
const TENANT: &str = "x-session-pool-tenant";
/// There for an admin, with the value `true`.
const ADMIN: &str = "x-session-pool-admin";
/// What the operator calls the caller, in base64 as the names of binary metadata ask for.
const CALLER: &str = "x-session-pool-caller-bin";

/// Bytes that this metadata adds to that of a call, with room to spare.
pub const METADATA_BYTES: u32 = 2048;

/// The name of the node that has forwarded a call; among the call's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedBy(pub Arc<str>);

/// Tells nodes from callers, and has what this node shows to others. Cloning gives another
/// handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<Trust>);

/// By what nodes recognise each other.
#[derive(Debug, Default)]
enum Trust {
    /// By nothing: they are on one machine.
    #[default]
    ThisMachine,
    /// By certificates, which were checked when the connection began.
    Certificates(RwLock<Arc<ClientConfig>>),
    /// By a token.
    Token(RwLock<Arc<NodeTokens>>),
}

/// Where a call comes from, as far as its connection says.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The address.
    pub address: Option<SocketAddr>,
    /// The certificate that was shown.
    pub certificate: Option<&'a [u8]>,
}

/// A node that calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: ForwardedBy,
    /// For whom it calls; `None` where it is not trusted with that, and its caller is whoever
    /// this node takes it for.
    pub caller: Option<Identity>,
}

impl Nodes {
    /// Nodes that recognise each other by certificates.
    pub(super) fn by_certificates(client: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Trust::Certificates(RwLock::new(client))))
    }

    /// Nodes that recognise each other by a token.
    pub(super) fn by_token(tokens: NodeTokens) -> Self {
        Self(Arc::new(Trust::Token(RwLock::new(Arc::new(tokens)))))
    }

    /// From now on connections to other nodes are made by this.
    pub(super) fn replace_client(&self, client: Arc<ClientConfig>) {
        if let Trust::Certificates(place) = &*self.0 {
            *place.write().unwrap_or_else(PoisonError::into_inner) = client;
        }
    }

    /// From now on these tokens count.
    pub(super) fn replace_tokens(&self, tokens: NodeTokens) {
        if let Trust::Token(place) = &*self.0 {
            *place.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
        }
    }

    /// How a connection to another node is secured; `None` is plain text.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        let Trust::Certificates(place) = &*self.0 else { return None };
        Some(Arc::clone(&place.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The node that calls; `None` if it is a caller. Fails for what says to be a node and is
    /// not believed. A certificate counts only where it was checked for being a node's.
    pub fn recognise(
        &self,
        headers: &HeaderMap,
        from: Origin<'_>,
    ) -> Result<Option<Node>, AuthError> {
        let trusted = match &*self.0 {
            Trust::ThisMachine => {
                let near = from.address.is_some_and(|it| it.ip().to_canonical().is_loopback());
                if !near || !headers.contains_key(HOP) {
                    return Ok(None);
                }
                return Ok(Some(Node { name: hop(headers)?, caller: None }));
            }
            Trust::Certificates(_) => match from.certificate {
                Some(shown) => certificate::is_good(shown, SystemTime::now()).map(|()| true)?,
                None => false,
            },
            Trust::Token(tokens) => match only(headers, TOKEN)? {
                Some(token) => {
                    let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner);
                    if !tokens.accept(token.as_bytes()) {
                        return Err(AuthError::UnknownNode);
                    }
                    true
                }
                None => false,
            },
        };
        if !trusted {
            return Ok(None);
        }
        Ok(Some(Node { name: hop(headers)?, caller: Some(caller(headers)?) }))
    }

    /// Takes away whatever stands in metadata that only nodes write.
    pub fn strip(headers: &mut HeaderMap) {
        let written: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(FAMILY)).cloned().collect();
        for name in written {
            headers.remove(name);
        }
    }

    /// Writes that the node of this name forwards a call, and for whom. `None` if the name
    /// cannot be written.
    pub fn speak_for(&self, headers: &mut HeaderMap, node: &str, caller: &Identity) -> Option<()> {
        Self::strip(headers);
        let Identity { tenant, admin, name } = caller;
        headers.insert(HOP, node.parse().ok()?);
        headers.insert(TENANT, tenant.as_str().parse().ok()?);
        if *admin {
            headers.insert(ADMIN, HeaderValue::from_static("true"));
        }
        if let Some(name) = name {
            headers.insert(CALLER, STANDARD_NO_PAD.encode(name.as_bytes()).parse().ok()?);
        }
        if let Trust::Token(tokens) = &*self.0 {
            let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner);
            headers.insert(TOKEN, tokens.own());
        }
        Some(())
    }
}

/// The one value of a key. Of two it would depend on who reads them which one counts.
fn only<'a>(headers: &'a HeaderMap, key: &str) -> Result<Option<&'a HeaderValue>, AuthError> {
    let mut values = headers.get_all(key).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(AuthError::Unspoken),
    }
}

fn text<'a>(headers: &'a HeaderMap, key: &str) -> Result<Option<&'a str>, AuthError> {
    let value = only(headers, key)?.map(HeaderValue::to_str);
    value.transpose().map_err(|_| AuthError::Unspoken)
}

fn hop(headers: &HeaderMap) -> Result<ForwardedBy, AuthError> {
    let name = text(headers, HOP)?.filter(|name| !name.is_empty());
    Ok(ForwardedBy(name.ok_or(AuthError::Unspoken)?.into()))
}

/// For whom a node calls.
fn caller(headers: &HeaderMap) -> Result<Identity, AuthError> {
    let tenant = text(headers, TENANT)?.ok_or(AuthError::Unspoken)?;
    let tenant = TenantId::parse(tenant).map_err(|_| AuthError::Unspoken)?;
    let admin = match text(headers, ADMIN)? {
        None => false,
        Some("true") => true,
        Some(_) => return Err(AuthError::Unspoken),
    };
    let name = match text(headers, CALLER)? {
        None => None,
        Some(encoded) => {
            let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| AuthError::Unspoken)?;
            Some(String::from_utf8(bytes).map_err(|_| AuthError::Unspoken)?.into())
        }
    };
    Ok(Identity { tenant, admin, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: &str = "127.0.0.1:1";
    const FAR: &str = "10.0.0.1:1";

    fn from(address: &str) -> Origin<'static> {
        Origin { address: Some(address.parse().expect("an address")), certificate: None }
    }

    fn tokens(text: &str) -> NodeTokens {
        NodeTokens::parse(text).expect("accepted")
    }

    fn identity(admin: bool) -> Identity {
        let tenant = TenantId::parse("team-a").expect("a name");
        Identity { tenant, admin, name: Some("nächtlich".into()) }
    }

    const OLD: &str = "old-old-old-old-old-old-old-old-";
    const NEW: &str = "new-new-new-new-new-new-new-new-";

    #[test]
    fn a_node_with_the_token_speaks_for_its_caller() {
        let sender = Nodes::by_token(tokens(OLD));
        // The tokens are being exchanged: the receiver sends the new one already.
        let receiver = Nodes::by_token(tokens(&format!("{NEW}\n{OLD}\n")));
        for admin in [false, true] {
            let mut headers = HeaderMap::new();
            sender.speak_for(&mut headers, "node-a", &identity(admin)).expect("written");
            let size: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
            assert!(size < METADATA_BYTES as usize);
            let node = receiver.recognise(&headers, from(FAR)).expect("believed").expect("a node");
            assert_eq!(node.name, ForwardedBy("node-a".into()));
            assert_eq!(node.caller, Some(identity(admin)));
            assert!(headers[TOKEN].is_sensitive());
        }
        sender.replace_tokens(tokens(NEW));
        let mut headers = HeaderMap::new();
        sender.speak_for(&mut headers, "node-a", &identity(false)).expect("written");
        let stale = Nodes::by_token(tokens(OLD));
        assert_eq!(stale.recognise(&headers, from(NEAR)), Err(AuthError::UnknownNode));
    }

    #[test]
    fn whoever_has_no_token_is_a_caller_and_what_it_writes_is_taken_away() {
        let nodes = Nodes::by_token(tokens(NEW));
        let mut headers = HeaderMap::new();
        Nodes::default().speak_for(&mut headers, "node-a", &identity(true)).expect("written");
        headers.insert("session-id", "s".parse().expect("a value"));
        assert_eq!(nodes.recognise(&headers, from(NEAR)), Ok(None));
        Nodes::strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["session-id"]);
    }

    #[test]
    fn what_a_node_says_has_one_meaning() {
        let nodes = Nodes::by_token(tokens(NEW));
        let mut good = HeaderMap::new();
        nodes.speak_for(&mut good, "node-a", &identity(true)).expect("written");
        for key in [HOP, TENANT] {
            let mut headers = good.clone();
            headers.remove(key);
            assert_eq!(nodes.recognise(&headers, from(FAR)), Err(AuthError::Unspoken), "{key}");
        }
        for key in [HOP, TENANT, ADMIN, CALLER, TOKEN] {
            let mut headers = good.clone();
            headers.append(key, headers[key].clone());
            assert_eq!(nodes.recognise(&headers, from(FAR)), Err(AuthError::Unspoken), "{key}");
        }
        for (key, value) in [(TENANT, "a b"), (ADMIN, "yes"), (CALLER, "="), (HOP, "")] {
            let mut headers = good.clone();
            headers.insert(key, value.parse().expect("a value"));
            assert_eq!(nodes.recognise(&headers, from(FAR)), Err(AuthError::Unspoken), "{key}");
        }
    }

    #[test]
    fn where_nodes_show_nothing_this_machine_may_forward_and_speaks_for_nobody() {
        let nodes = Nodes::default();
        let mut headers = HeaderMap::new();
        nodes.speak_for(&mut headers, "node-a", &identity(true)).expect("written");
        let node = nodes.recognise(&headers, from(NEAR)).expect("believed").expect("a node");
        assert_eq!(node, Node { name: ForwardedBy("node-a".into()), caller: None });
        assert_eq!(nodes.recognise(&headers, from(FAR)), Ok(None));
        assert_eq!(nodes.recognise(&HeaderMap::new(), from(NEAR)), Ok(None));
    }
}
