//! Tenant and roles from a client certificate: the subject's CN is the tenant, an O of
//! `session-pool:admin` makes an admin. Kubernetes reads user and groups from the same
//! two places.

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Identity, Refusal};
use crate::ids::TenantId;

/// The organization whose members are admins.
pub const ADMINS: &str = "session-pool:admin";

/// Whose certificate it is. Whether it is good has been checked when it was shown.
pub fn identity(der: &[u8]) -> Result<Identity, Refusal> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Refusal::Nameless)?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let (Some(name), None) = (names.next(), names.next()) else { return Err(Refusal::Nameless) };
    let tenant = TenantId::parse(name).map_err(|_| Refusal::Nameless)?;
    let admin = subject.iter_organization().any(|organization| organization.as_str() == Ok(ADMINS));
    Ok(Identity { tenant, admin })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_common_name_is_the_tenant_and_the_organization_the_role() {
        let user = certificate(&[(DnType::CommonName, "team-a"), (DnType::OrganizationName, "x")]);
        let user = identity(&user).expect("named");
        assert_eq!((user.tenant.as_str(), user.admin), ("team-a", false));
        let admin = certificate(&[(DnType::CommonName, "ops"), (DnType::OrganizationName, ADMINS)]);
        assert!(identity(&admin).expect("named").admin);
    }

    #[test]
    fn a_certificate_without_a_usable_name_is_nobodys() {
        let nameless = certificate(&[(DnType::OrganizationName, ADMINS)]);
        let odd = certificate(&[(DnType::CommonName, "../a")]);
        for der in [&nameless[..], &odd, b"rubbish"] {
            assert_eq!(identity(der), Err(Refusal::Nameless));
        }
    }
}
