//! A CLI that was killed: the conversation goes on in another process.

use session_pool::proto::TurnOrigin;
use tonic::Code;

use crate::{
    bed::{Bed, Version, both_versions, in_pieces, origin},
    lossless,
    support::{eventually, failure, processes::kill, service::query},
};

both_versions!(killed_between_turns, killed_in_mid_turn, killed_in_a_tool_call);

async fn killed_between_turns(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    let second = bed.query("a", "two").await;
    bed.kill_after(&second).await;
    let third = bed.query("a", "three").await;

    assert_eq!(origin(&third), TurnOrigin::Resumed);
    let answer = "You said: \"three\". Earlier in this conversation you said: \"one\"; \"two\".";
    assert_eq!(third.result().result, answer);
    assert_eq!(second.started().client_id, first.started().client_id);
    assert_ne!(third.started().client_id, first.started().client_id);
    assert_eq!(third.started().cli_session_id, first.started().cli_session_id);
    assert_eq!(third.result().cli_session_id, first.started().cli_session_id);
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn killed_in_mid_turn(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.run(in_pieces(query("a", "one"))).await;
    bed.until_written(&first).await;
    let mut turn = bed.open(in_pieces(query("a", "[[words 200 every 50]]"))).await;
    turn.until_text("word2").await;
    kill(bed.pid("a").await);
    turn.finish().await;
    lossless::check(&turn);
    let metadata = failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    let entry = |key: &str| metadata.get(key).map(String::as_str);
    assert_eq!(entry("signal"), Some("9"));
    assert_eq!(entry("tool_use_seen"), Some("false"));
    assert_eq!(entry("client_id"), Some(first.started().client_id.as_str()));
    assert_eq!(entry("turn_id"), Some(turn.started().turn_id.as_str()));

    let next = bed.query("a", "two").await;
    assert_eq!(origin(&next), TurnOrigin::Resumed);
    assert!(next.text().contains("\"one\""), "{}", next.text());
    assert_eq!(next.started().cli_session_id, first.started().cli_session_id);
    bed.stop().await;
}

/// The command is a process group of its own, which the CLI's end does not reach.
async fn killed_in_a_tool_call(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[bash echo x; sleep 302]]")).await;
    bed.until_running("sleep 302").await;
    // The CLI says that the tool runs, and then is killed.
    turn.until_init().await;
    kill(bed.pid("a").await);
    turn.finish().await;
    let metadata = failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!(metadata.get("tool_use_seen").map(String::as_str), Some("true"));
    eventually("nothing is left", async || bed.service.processes().is_empty().then_some(())).await;
    bed.stop().await;
}
