//! What the CLI says of its mode and its model, in the order in which it says it.

use bytes::Bytes;

use super::{Session, SessionTask, settings};
use crate::{
    cli::frame::Frame,
    domain::options::{LiveChange, Options},
};

fn in_force(task: &SessionTask) -> Options {
    task.status.acquired.in_force(&task.status.options)
}

fn frame(line: &str) -> Frame {
    Frame::parse(Bytes::copy_from_slice(line.as_bytes())).expect("a frame")
}

/// A turn that the CLI begins by itself is read only after a change that came behind its
/// beginning: it must not take the change back.
#[tokio::test(start_paused = true)]
async fn e3_what_the_cli_said_before_a_change_does_not_undo_it() {
    let (mut task, _session) = Session::task(settings());
    let init = r#"{"type":"system","subtype":"init","permissionMode":"plan","model":"m"}"#;
    let status = r#"{"type":"system","subtype":"status","permissionMode":"default"}"#;
    let mut aside = [frame(init), frame(status)];
    task.hear_states(&mut aside);
    assert_eq!(in_force(&task).permission_mode.as_deref(), Some("default"));
    task.hear_answer(
        &LiveChange::PermissionMode("acceptEdits".into()),
        r#"{"mode":"acceptEdits"}"#,
    );
    for frame in &aside {
        task.hear_state(frame);
    }
    let wanted = Options {
        model: Some("m".into()),
        permission_mode: Some("acceptEdits".into()),
        ..Options::default()
    };
    assert_eq!(in_force(&task), wanted);
    assert_eq!(task.status.options.model, None, "nobody asked for it");
    // A mode that the CLI chose in the place of the one that was asked for is in force.
    task.hear_answer(&LiveChange::PermissionMode("plan".into()), r#"{"mode":"default"}"#);
    assert_eq!(in_force(&task).permission_mode.as_deref(), Some("default"));
    task.hear_answer(&LiveChange::PermissionMode("plan".into()), "null");
    assert_eq!(in_force(&task).permission_mode.as_deref(), Some("plan"));
}
