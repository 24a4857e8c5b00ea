//! `cwd` and `add_dirs`: real folders below the operator's roots, looked at again before
//! every start, and never the service's to remove.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use session_pool::proto::{OptionsMismatchPolicy, QueryRequest, SessionOptions, TurnOrigin};
use tempfile::TempDir;
use tonic::Code;

use super::options;
use crate::support::{
    failure,
    service::{Service, query, query_with, script},
};

struct Place {
    _folder: TempDir,
    base: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let base = folder.path().canonicalize().expect("a real path");
        for name in ["root/a", "root/b", "root/-rf", "root/c d", "outside"] {
            fs::create_dir_all(base.join(name)).expect("made");
        }
        symlink(base.join("outside"), base.join("root/out")).expect("linked");
        symlink(base.join("root/a"), base.join("root/in")).expect("linked");
        Self { _folder: folder, base }
    }

    fn path(&self, name: &str) -> String {
        self.base.join(name).to_str().expect("UTF-8").to_owned()
    }

    async fn service(&self) -> Service {
        Service::start(|config| config.policy.cwd_roots = vec![self.path("root")]).await
    }
}

fn cwd(path: &str) -> SessionOptions {
    options(|o| o.cwd = Some(path.into()))
}

#[tokio::test]
async fn a_session_works_in_the_real_folder_that_was_named() {
    let place = Place::new();
    let service = place.service().await;
    for (session, name, real) in [
        ("a", "root/a", "root/a"),
        ("b", "root/in", "root/a"),
        ("c", "root/-rf", "root/-rf"),
        ("d", "root/c d", "root/c d"),
        ("e", "root", "root"),
    ] {
        let turn =
            service.run(query_with(session, &script(&["cwd"]), cwd(&place.path(name)))).await;
        assert_eq!(turn.text(), place.path(real));
        let shown = service.session(session).await.expect("there").options.expect("options");
        assert_eq!(shown.cwd.as_deref(), Some(place.path(real).as_str()));
    }
    // The link and what it leads to are one folder.
    let turn = service.run(query_with("a", "again", cwd(&place.path("root/in")))).await;
    assert_eq!(turn.started().origin(), TurnOrigin::Reused);
    service.stop().await;
}

#[tokio::test]
async fn what_leads_elsewhere_is_refused() {
    let place = Place::new();
    let service = place.service().await;
    let file = place.path("root/file");
    fs::write(&file, "").expect("written");
    // Nothing tells what exists elsewhere from what does not.
    for path in [
        place.path("outside"),
        place.path("root/out"),
        place.path("root/missing"),
        place.path("missing"),
        file,
        "/".into(),
        "/proc/self/cwd".into(),
    ] {
        let refused = service.open(query_with("a", "hello", cwd(&path))).await.expect_err(&path);
        let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], "options.cwd");
        assert!(metadata["limit"].contains(&place.path("root")), "{metadata:?}");
        let beside = options(|o| o.add_dirs = vec![place.path("root/a"), path.clone()]);
        let refused = service.open(query_with("a", "hello", beside)).await.expect_err(&path);
        let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], "options.add_dirs[1]");
    }
    for path in [
        place.path("root/a/../../outside"),
        place.path("root/.."),
        "root/a".into(),
        "-rf".into(),
        "--dangerously-skip-permissions".into(),
        String::new(),
        place.path("root/a\0"),
        place.path("root/a\n"),
        format!("{}/{}", place.path("root"), "x/".repeat(3000)),
    ] {
        let refused = service.open(query_with("a", "hello", cwd(&path))).await.expect_err(&path);
        failure(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    assert_eq!(service.stats().await.total_sessions, 0);
    service.stop().await;
}

#[tokio::test]
async fn further_folders_are_one_argument_each() {
    let place = Place::new();
    let service = place.service().await;
    let dirs = [place.path("root/-rf"), place.path("root/in")];
    let wanted = options(|o| o.add_dirs = dirs.into());
    let text = service.run(query_with("a", &script(&["argv"]), wanted)).await.text();
    for real in ["root/-rf", "root/a"] {
        let argument = format!("\"--add-dir={}\"", place.path(real));
        assert!(text.contains(&argument), "{argument}: {text}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_folder_is_looked_at_again_before_a_start() {
    let place = Place::new();
    let service = place.service().await;
    service.run(query_with("a", "hello", cwd(&place.path("root/b")))).await.result();
    service.interrupt("a", false).await;
    fs::remove_dir(place.path("root/b")).expect("empty");
    symlink(place.path("outside"), place.path("root/b")).expect("swapped");
    let turn = service.query("a", &script(&["cwd"])).await;
    let metadata = failure(turn.error(), Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["field"], "options.cwd");
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}

#[tokio::test]
async fn a_conversation_moves_with_its_session() {
    let place = Place::new();
    let service = place.service().await;
    let restart = |prompt: &str, name: &str| QueryRequest {
        on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
        ..query_with("a", prompt, cwd(&place.path(name)))
    };
    service.query("a", "one").await.result();
    let prompt = script(&["cwd", "say :", "recite"]);
    let refused = service.run(query_with("a", &prompt, cwd(&place.path("root/a")))).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "cwd");

    let first = service.run(restart(&prompt, "root/a")).await;
    assert!(
        first.text().starts_with(&format!("{}\n:\none", place.path("root/a"))),
        "{}",
        first.text()
    );
    assert_eq!(first.started().origin(), TurnOrigin::Resumed);
    service.run(restart("two", "root/b")).await.result();
    // Back where an older state of the conversation would be, had it been copied.
    let back = service.run(restart(&script(&["recite"]), "root/a")).await;
    assert!(back.text().contains("\ntwo"), "{}", back.text());
    service.stop().await;
}

#[tokio::test]
async fn forgetting_a_session_leaves_the_callers_folder() {
    let place = Place::new();
    let service = place.service().await;
    let kept = place.path("root/a/kept");
    fs::write(&kept, "x").expect("written");
    service.run(query_with("a", "hello", cwd(&place.path("root/a")))).await.result();
    service.close("a", true).await.expect("closed");
    let mut unnamed = query("", "hello");
    unnamed.options = Some(cwd(&place.path("root/a")));
    service.run(unnamed).await.result();
    service.stop().await;
    assert!(Path::new(&kept).is_file());
}
