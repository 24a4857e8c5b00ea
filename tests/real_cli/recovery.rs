//! A CLI that was killed: the conversation goes on in another process.

use session_pool::proto::TurnOrigin;
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, in_pieces, origin},
    lossless,
    support::{
        eventually, failure,
        processes::{kill, signal},
        service::query,
    },
};

each_version!(
    killed_between_turns,
    killed_in_mid_turn,
    killed_in_a_tool_call,
    e5_killed_at_its_result
);

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

/// In every other round whether the prompt finds a dying process or a dead one is a matter
/// of luck; in the others it finds one that reads nothing any more and dies then. It runs
/// once in each case, and is told to run where it does.
async fn e5_killed_at_its_result(version: Version) {
    let bed = Bed::start(version).await;
    let mut before = bed.query("a", "one").await;
    for round in 0..6 {
        let prompt = format!("round {round}");
        let (pid, asked) = (bed.pid("a").await, query("a", &prompt));
        let turn = if round % 2 == 0 {
            kill(pid);
            bed.run(asked).await
        } else {
            signal(pid, rustix::process::Signal::STOP);
            let mut turn = bed.open(asked).await;
            let sent = async || {
                let session = bed.service.session("a").await.expect("a session");
                (session.message_count == round + 2).then_some(())
            };
            eventually("the prompt is sent", sent).await;
            kill(pid);
            turn.finish().await;
            turn
        };
        lossless::check(&turn);
        assert!(turn.result().result.starts_with(&format!("You said: \"{prompt}\"")), "{round}");
        assert_eq!(origin(&turn), TurnOrigin::Resumed, "{round}");
        assert_ne!(turn.started().client_id, before.started().client_id, "{round}");
        assert_eq!(turn.started().cli_session_id, before.started().cli_session_id);
        before = turn;
    }
    let answer = before.text();
    let mut asked = bed.api.requests_of(&before.started().cli_session_id);
    asked.retain(|request| request.path == "/v1/messages");
    assert_eq!(asked.len(), 7, "each prompt was paid once");
    for round in 0..5 {
        assert_eq!(answer.matches(&format!("\"round {round}\"")).count(), 1, "{answer}");
    }
    bed.stop().await;
}
