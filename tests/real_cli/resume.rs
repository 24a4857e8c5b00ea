//! Conversations taken up under another session id, as themselves or as a copy.

use session_pool::proto::{SessionOptions, TurnOrigin};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, origin, system_prompt},
    support::{failure, fields, service::query_with},
};

each_version!(
    a_copy_leaves_the_original_alone,
    e1_a_conversation_stays_with_its_session,
    an_unknown_conversation_is_refused,
);

fn resume(id: &str, fork: bool) -> SessionOptions {
    SessionOptions {
        resume: Some(id.into()),
        fork_session: Some(fork),
        ..SessionOptions::default()
    }
}

async fn a_copy_leaves_the_original_alone(version: Version) {
    let bed = Bed::start(version).await;
    let original = bed.query("a", "one").await;
    bed.until_written(&original).await;
    let id = &original.started().cli_session_id;
    let options =
        SessionOptions { system_prompt: Some("You are a copy.".into()), ..resume(id, true) };
    let copy = bed.run(query_with("b", "two", options)).await;
    assert_eq!(origin(&copy), TurnOrigin::Resumed);
    let copy_id = &copy.started().cli_session_id;
    assert_ne!(copy_id, id);
    assert_eq!(&copy.result().cli_session_id, copy_id);
    let memory = "Earlier in this conversation you said: \"one\".";
    assert_eq!(copy.text(), format!("You said: \"two\". {memory}"));
    let system = system_prompt(&bed.last_request(copy_id));
    assert!(system.contains("You are a copy."), "{system}");

    let original = bed.query("a", "three").await;
    assert_eq!(original.text(), format!("You said: \"three\". {memory}"));
    assert_eq!(&original.started().cli_session_id, id);
    // Both go on as themselves after a loss.
    bed.kill_after(&copy).await;
    let copy = bed.query("b", "four").await;
    assert_eq!(&copy.started().cli_session_id, copy_id);
    let memory = "Earlier in this conversation you said: \"one\"; \"two\".";
    assert_eq!(copy.text(), format!("You said: \"four\". {memory}"));
    bed.stop().await;
}

/// What was reported: another session took up the conversation, and each lost what the
/// other said.
async fn e1_a_conversation_stays_with_its_session(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    let id = &first.started().cli_session_id;
    let refused = bed.run(query_with("b", "two", resume(id, false))).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "SESSION_CONFLICT");
    assert_eq!(metadata["owner_session_id"], "a");
    bed.query("a", "three").await;
    bed.service.close("a", false).await.expect("closed");
    let refused = bed.run(query_with("b", "two", resume(id, false))).await;
    failure(refused.error(), Code::FailedPrecondition, "SESSION_CONFLICT");
    let next = bed.query("a", "four").await;
    assert_eq!((origin(&next), &next.started().cli_session_id), (TurnOrigin::Resumed, id));
    let memory = "Earlier in this conversation you said: \"one\"; \"three\".";
    assert_eq!(next.text(), format!("You said: \"four\". {memory}"));
    bed.stop().await;
}

async fn an_unknown_conversation_is_refused(version: Version) {
    let bed = Bed::start(version).await;
    for (id, fork) in [
        ("5f0c1cf0-7c4c-4d0d-9d0b-0f7f6a1f0001", false),
        ("5f0c1cf0-7c4c-4d0d-9d0b-0f7f6a1f0001", true),
        ("--dangerously-skip-permissions", false),
        ("/etc/passwd.jsonl", false),
    ] {
        let turn = bed.run(query_with("a", "hello", resume(id, fork))).await;
        let metadata = failure(turn.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
        let named = fields(turn.error());
        assert_eq!(named, ["options.resume"], "{id}: {metadata:?}");
    }
    // Nothing of it stays: the id serves a new conversation.
    let turn = bed.query("a", "hello").await;
    assert_eq!(origin(&turn), TurnOrigin::Created);
    assert_eq!(turn.text(), "You said: \"hello\".");
    bed.stop().await;
}
