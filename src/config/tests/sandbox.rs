//! What sessions are not to see: the section `sandbox`, and the folder of the audit log.

use super::*;

#[test]
fn paths_are_absolute_and_never_the_root() {
    let paths = "['/opt/ca.pem', '/mnt/data/']";
    let config = with_flags(&[("sandbox.readable", paths), ("sandbox.hidden", paths)]);
    let sandbox = config.expect("accepted").sandbox;
    assert_eq!((sandbox.readable.len(), sandbox.hidden.len()), (2, 2));
    for key in ["sandbox.readable", "sandbox.hidden"] {
        for value in ["['certificates']", "['/']", "['//']", "['']", "['/fine', '~/x']"] {
            let told = refusal(&[(key, value)]);
            assert!(told.starts_with(key) && told.contains("must be an absolute path"), "{told}");
        }
    }
}

#[test]
fn the_audit_log_has_a_folder_that_can_be_hidden() {
    for value in ["/audit.log", "/", "/srv/../audit.log", "/srv/audit/../../audit.log"] {
        let told = refusal(&[("audit.file", value)]);
        assert!(
            told.starts_with("audit.file") && told.contains("a folder below the root"),
            "{told}"
        );
    }
    assert!(with_flags(&[("audit.file", "/audit/log")]).is_ok());
    let file = |value| with_flags(&[("audit.file", value)]).expect("accepted").audit;
    assert!(file("stdout").is_to_stdout() && file("stdout").files().is_none());
    assert!(file("/srv/audit/audit.log").files().is_some());
    // A relative path counts from the working folder.
    assert!(file("audit/log").files().expect("a path").is_absolute());
}

#[test]
fn a_former_name_is_answered_with_the_present_one() {
    let told = refusal(&[("cli.visible_paths", "['/opt/ca.pem']")]);
    assert!(told.contains("is called sandbox.readable now"), "{told}");
    let variable = [("SESSION_POOL__CLI__VISIBLE_PATHS", "['/opt/ca.pem']")];
    let sources = Sources { file: None, env: environment(&variable), flags: Vec::new() };
    let told = load(sources).expect_err("refused").to_string();
    assert!(told.contains("is called SESSION_POOL__SANDBOX__READABLE now"), "{told}");
}
