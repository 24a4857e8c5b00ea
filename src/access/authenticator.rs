//! Decides who is let in.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use super::{AuthError, Identity, certificate, tokens::Tokens};

/// Lets callers in. Cloning gives another handle to the same authenticator.
#[derive(Debug, Clone, Default)]
pub struct Authenticator(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// `None` where there is no tokens file.
    tokens: RwLock<Option<Arc<Tokens>>>,
    /// Whether client certificates count.
    certificates: bool,
}

impl Authenticator {
    /// An authenticator for tokens, for client certificates, or for both; for nobody in particular
    /// if neither is asked for.
    pub fn new(tokens: Option<Tokens>, certificates: bool) -> Self {
        Self(Arc::new(Shared { tokens: RwLock::new(tokens.map(Arc::new)), certificates }))
    }

    /// Whether callers are asked who they are.
    pub fn asks(&self) -> bool {
        self.tokens().is_some() || self.0.certificates
    }

    /// Whether callers can be of more than one tenant.
    pub fn tells_tenants_apart(&self) -> bool {
        self.0.certificates || self.tokens().is_some_and(|tokens| tokens.are_of_several_tenants())
    }

    /// From now on these tokens count. Calls under way go on.
    pub fn replace_tokens(&self, tokens: Tokens) {
        let mut place = self.0.tokens.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(Arc::new(tokens));
    }

    /// The tokens in force.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        self.0.tokens.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who calls. A token, when one is sent, decides; without one the certificate does.
    pub fn identify(
        &self,
        authorization: Option<&[u8]>,
        certificate: Option<&[u8]>,
    ) -> Result<Identity, AuthError> {
        let tokens = self.tokens();
        if tokens.is_none() && !self.0.certificates {
            return Ok(Identity::anonymous());
        }
        let now = SystemTime::now();
        match (tokens, authorization, certificate) {
            (Some(tokens), Some(header), _) => tokens.find(bearer(header)?, now),
            // Whoever sends a token means to be whom it names, not whom the certificate does.
            (None, Some(header), _) => Err(bearer(header).err().unwrap_or(AuthError::Unknown)),
            (_, None, Some(certificate)) if self.0.certificates => {
                certificate::identity(certificate, now)
            }
            _ if self.0.certificates => Err(AuthError::Missing(" or show a client certificate")),
            _ => Err(AuthError::Missing("")),
        }
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110).
fn bearer(header: &[u8]) -> Result<&str, AuthError> {
    let text = std::str::from_utf8(header).map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Malformed)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthError::Malformed);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::tokens::fresh, domain::ids::TenantId};

    #[test]
    fn where_nobody_is_asked_everybody_is_the_same() {
        let authenticator = Authenticator::default();
        assert_eq!(authenticator.identify(Some(b"Bearer x"), None), Ok(Identity::anonymous()));
    }

    #[test]
    fn a_token_decides_and_can_be_revoked() {
        let tenant = TenantId::parse("a").expect("a name");
        let (token, entry) = fresh(&tenant, false, None);
        let authenticator =
            Authenticator::new(Some(Tokens::parse(&entry).expect("accepted")), true);
        let header = format!("Bearer {token}");
        let identity = Identity { tenant, admin: false, name: None };
        assert_eq!(authenticator.identify(Some(header.as_bytes()), None), Ok(identity.clone()));
        let lower = format!("bearer  {token}");
        assert_eq!(
            authenticator.identify(Some(lower.as_bytes()), Some(b"no certificate")),
            Ok(identity)
        );
        for bad in [&b"Bearer"[..], b"Bearer ", b"Basic x", b"\xff x"] {
            assert_eq!(authenticator.identify(Some(bad), None), Err(AuthError::Malformed));
        }
        assert!(matches!(authenticator.identify(None, None), Err(AuthError::Missing(_))));
        authenticator.replace_tokens(Tokens::default());
        assert_eq!(authenticator.identify(Some(header.as_bytes()), None), Err(AuthError::Unknown));
    }
}
