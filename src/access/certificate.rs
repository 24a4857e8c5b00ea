//! Tenant and roles from a client certificate: the subject's CN is the tenant, an O of
//! `session-pool:admin` makes an admin. Kubernetes reads user and groups from the same
//! two places.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use super::{AuthError, Identity};
use crate::domain::ids::TenantId;

/// The organization whose members are admins.
pub const ADMINS: &str = "session-pool:admin";

/// Whose certificate it is. Who issued it was checked when it was shown; how long it is
/// good is looked at again, because a connection may outlive it.
pub fn identity(der: &[u8], now: SystemTime) -> Result<Identity, AuthError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| AuthError::Nameless)?;
    in_time(&certificate, now)?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let (Some(name), None) = (names.next(), names.next()) else { return Err(AuthError::Nameless) };
    let tenant = TenantId::parse(name).map_err(|_| AuthError::Nameless)?;
    let admin = subject.iter_organization().any(|organization| organization.as_str() == Ok(ADMINS));
    Ok(Identity { tenant, admin, name: None })
}

/// Whether a certificate that was checked when it was shown is good now.
pub fn is_good(der: &[u8], now: SystemTime) -> Result<(), AuthError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| AuthError::Nameless)?;
    in_time(&certificate, now)
}

fn in_time(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<(), AuthError> {
    let good = moment(now).is_some_and(|now| certificate.validity().is_valid_at(now));
    if good { Ok(()) } else { Err(AuthError::CertificateExpired) }
}

fn moment(time: SystemTime) -> Option<ASN1Time> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    ASN1Time::from_timestamp(i64::try_from(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let user = identity(&user, SystemTime::now()).expect("named");
        assert_eq!((user.tenant.as_str(), user.admin), ("team-a", false));
        let admin = certificate(&[(DnType::CommonName, "ops"), (DnType::OrganizationName, ADMINS)]);
        assert!(identity(&admin, SystemTime::now()).expect("named").admin);
    }

    #[test]
    fn a_certificate_is_good_within_its_time_only() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a");
        let (begin, end) = (rcgen::date_time_ymd(2030, 1, 1), rcgen::date_time_ymd(2031, 1, 1));
        (params.not_before, params.not_after) = (begin, end);
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("a certificate").der().to_vec();
        let day = Duration::from_secs(24 * 3600);
        let (begin, end) = (SystemTime::from(begin), SystemTime::from(end));
        for (now, good) in
            [(begin - day, false), (begin + day, true), (end - day, true), (end + day, false)]
        {
            assert_eq!(identity(&der, now).err(), (!good).then_some(AuthError::CertificateExpired));
        }
    }

    #[test]
    fn a_certificate_without_a_usable_name_is_nobodys() {
        let nameless = certificate(&[(DnType::OrganizationName, ADMINS)]);
        let odd = certificate(&[(DnType::CommonName, "../a")]);
        for der in [&nameless[..], &odd, b"rubbish"] {
            assert_eq!(identity(der, SystemTime::now()), Err(AuthError::Nameless));
        }
    }
}
