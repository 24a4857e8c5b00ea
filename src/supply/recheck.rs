//! A last look at options before a process is started with them. They were allowed when
//! they were asked for; a session that is taken up again may have been asked for under
//! another policy, and a folder may have become a link to elsewhere. Knows whom to ask, and
//! what to make of the answer; not what is allowed. Looks at the file system: not for a
//! runtime's own threads.

use crate::{
    domain::{
        acquired::{Acquired, is_a_name},
        failure::Cause,
        options::Options,
    },
    policy::{Denial, Policy, joined},
};

/// Whether a process may be started with these options, and work in the folders that they
/// name.
pub(super) fn check(policy: &Policy, options: &Options) -> Result<(), Cause> {
    let denials = policy.judge_again(options);
    if denials.is_empty() { Ok(()) } else { Err(refusal(&denials)) }
}

/// What is left of what a session has come to: of the mode, the model, the effort and the
/// folders those that an option could ask for. Rules are a caller's own, as `allowed_tools` are.
pub(super) fn hold(policy: &Policy, acquired: Acquired) -> Acquired {
    let allows = |options: Options| policy.judge_again(&options).is_empty();
    let mode = |mode: &String| {
        allows(Options { permission_mode: Some(mode.clone()), ..Options::default() })
    };
    let folder =
        |folder: &String| allows(Options { add_dirs: vec![folder.clone()], ..Options::default() });
    let mut held = acquired;
    held.mode = held.mode.filter(mode);
    // Any model is allowed that has a name, and any effort.
    held.model = held.model.filter(|model| is_a_name(model));
    held.effort = held.effort.filter(|effort| is_a_name(effort));
    held.grants.folders.retain(folder);
    held
}

/// All that is refused, and each reason once.
fn refusal(denials: &[Denial]) -> Cause {
    let fields: Vec<_> = denials.iter().map(|denial| format!("options{}", denial.at)).collect();
    let mut reasons: Vec<String> = Vec::new();
    for Denial { allowed, .. } in denials {
        if !reasons.contains(allowed) {
            reasons.push(allowed.clone());
        }
    }
    Cause::NotAllowed { field: joined(&fields, ","), allowed: joined(&reasons, "; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{grants::Grants, redacted::Redacted},
        policy::Roots,
    };

    /// What a refusal says: the fields and the reason.
    fn told(refused: &Cause) -> (&str, &str) {
        match refused {
            Cause::NotAllowed { field, allowed } => (field, allowed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_that_was_closed_since_is_obeyed() {
        let options = Options {
            permission_mode: Some("plan".into()),
            settings: Some(Redacted("{\"secret\":1}".into())),
            ..Options::default()
        };
        let open =
            Policy { permission_modes: vec!["plan".into()], settings: true, ..Policy::default() };
        assert_eq!(check(&open, &options), Ok(()));
        assert_eq!(check(&Policy::default(), &Options::default()), Ok(()));
        let refused = check(&Policy::default(), &options).expect_err("closed");
        let (field, allowed) = told(&refused);
        assert_eq!(field, "options.permission_mode,options.settings");
        assert!(!allowed.contains("secret"), "{allowed}");
    }

    #[test]
    fn a_reason_that_fields_have_in_common_is_given_once() {
        let env = (0..100).map(|index| (format!("N{index}"), String::new())).collect();
        let options = Options { env: Redacted(env), ..Options::default() };
        let policy = Policy { env: vec!["A".into(), "B".into()], ..Policy::default() };
        let refused = check(&policy, &options).expect_err("refused");
        let (fields, reason) = told(&refused);
        assert_eq!(reason, "A, B, and none that are reserved (policy.env)");
        assert!(fields.len() < 2048 && fields.contains("N0,") && fields.ends_with(" more"));
    }

    #[test]
    fn e3_of_what_a_session_has_come_to_only_what_is_allowed_stays() {
        let slot = tempfile::tempdir().expect("a folder");
        let real = slot.path().canonicalize().expect("a real path");
        let path = |name: &str| real.join(name).to_str().expect("UTF-8").to_owned();
        for name in ["stays", "closed"] {
            std::fs::create_dir(path(name)).expect("made");
        }
        std::os::unix::fs::symlink(path("stays"), path("link")).expect("linked");
        let policy = Policy {
            permission_modes: vec!["plan".into()],
            cwd_roots: Roots::open(&[path("stays")]).expect("opened"),
            ..Policy::default()
        };
        let acquired = |mode: &str, model: &str, folders: &[&str]| Acquired {
            mode: Some(mode.to_owned()),
            model: Some(model.to_owned()),
            grants: Grants {
                deny: vec!["Write".to_owned()],
                folders: folders.iter().map(|name| path(name)).collect(),
                ..Grants::default()
            },
            ..Acquired::default()
        };
        let allowed = acquired("plan", "m", &["stays"]);
        assert_eq!(hold(&policy, allowed.clone()), allowed);
        let come_to = acquired("acceptEdits", "\0", &["closed", "stays", "link", "gone"]);
        let held = hold(&policy, come_to);
        assert_eq!(held, Acquired { mode: None, model: None, ..allowed });
    }

    #[test]
    fn a_folder_that_became_a_link_is_refused() {
        let slot = tempfile::tempdir().expect("a folder");
        let root = slot.path().canonicalize().expect("a real path");
        let cwd = root.join("work");
        std::fs::create_dir(&cwd).expect("made");
        let options = Options { cwd: cwd.to_str().map(str::to_owned), ..Options::default() };
        let roots = Roots::open(&[root.display().to_string()]).expect("opened");
        let policy = Policy { cwd_roots: roots, ..Policy::default() };
        assert_eq!(check(&policy, &options), Ok(()));
        std::fs::remove_dir(&cwd).expect("removed");
        assert!(check(&policy, &options).is_err());
        // Neither out of the root nor within it.
        for target in ["/".as_ref(), root.as_path()] {
            std::os::unix::fs::symlink(target, &cwd).expect("swapped");
            assert!(check(&policy, &options).is_err());
            std::fs::remove_file(&cwd).expect("removed");
        }
    }
}
