//! Who calls, and how far a call may reach.

use tonic::{Request, Status};

use super::status::{Rejection, Violation, of_rejection, unauthenticated};
use crate::{
    access::{AuthError, Identity},
    pool::Scope,
};

/// The caller that the authentication layer has let in, also where it lets in everybody. A call that
/// has not passed it is nobody's.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Identity, Status> {
    let identity = request.extensions().get::<Identity>().cloned();
    identity.ok_or_else(|| unauthenticated(AuthError::Missing("")))
}

/// Whose sessions a call is about.
pub(super) fn scope(caller: &Identity, all_tenants: bool) -> Result<Scope, Status> {
    if !all_tenants {
        return Ok(Scope::Tenant(caller.tenant.clone()));
    }
    if caller.admin {
        return Ok(Scope::All);
    }
    Err(of_rejection(&Rejection::Denied(vec![Violation {
        field: "all_tenants".to_owned(),
        description: "only for callers with the role admin".to_owned(),
    }])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TenantId;

    #[test]
    fn a_call_that_did_not_pass_the_gate_is_refused() {
        let mut request = Request::new(());
        assert_eq!(caller(&request).expect_err("nobody's").code(), tonic::Code::Unauthenticated);
        request.extensions_mut().insert(Identity::anonymous());
        assert_eq!(caller(&request).expect("let in"), Identity::anonymous());
    }

    #[test]
    fn only_an_admin_reaches_other_tenants() {
        let tenant = TenantId::parse("a").expect("a name");
        let user = Identity { tenant: tenant.clone(), admin: false, name: None };
        let admin = Identity { admin: true, ..user.clone() };
        assert_eq!(scope(&user, false).expect("own"), Scope::Tenant(tenant.clone()));
        assert_eq!(scope(&admin, false).expect("own"), Scope::Tenant(tenant));
        assert_eq!(scope(&admin, true).expect("all"), Scope::All);
        let refused = scope(&user, true).expect_err("denied");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
}
