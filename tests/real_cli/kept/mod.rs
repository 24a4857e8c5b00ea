//! What a caller was told is in the next turn's conversation, whatever happens to the CLI,
//! to its files or to the service in between.

mod files;
mod kills;
mod turns;

use std::path::PathBuf;

use crate::{
    bed::Bed,
    stand_in::RecordedRequest,
    support::{eventually, processes::kill, turn::Turn},
};

/// What the stand-in answers when it is shown these prompts and then another one.
fn answer(prompt: &str, before: &[String]) -> String {
    let said: Vec<String> = before.iter().map(|prompt| format!("\"{prompt}\"")).collect();
    match said.join("; ").as_str() {
        "" => format!("You said: \"{prompt}\"."),
        said => {
            format!("You said: \"{prompt}\". Earlier in this conversation you said: {said}.")
        }
    }
}

/// Checks that a request shows a conversation of so many turns before its own, each with
/// what was asked and what was answered.
#[track_caller]
fn shows(request: &RecordedRequest, before: &[String]) {
    let messages = request.body["messages"].as_array().expect("messages");
    let roles: Vec<&str> = messages.iter().filter_map(|message| message["role"].as_str()).collect();
    let expected: Vec<&str> =
        before.iter().flat_map(|_| ["user", "assistant"]).chain(["user"]).collect();
    assert_eq!(roles, expected, "{messages:#?}");
    for (turn, prompt) in messages.chunks(2).zip(before) {
        assert!(turn[0].to_string().contains(prompt), "{prompt} in {}", turn[0]);
        let answer = format!("You said: \\\"{prompt}\\\".");
        assert!(turn[1].to_string().contains(&answer), "{answer} in {}", turn[1]);
    }
}

/// Kills the process that served a turn, at once, and waits until the service knows.
async fn kill_now(bed: &Bed, turn: &Turn) {
    let session = &turn.started().session_id;
    let pid = bed.pid(session).await;
    kill(pid);
    eventually("the loss is noticed", async || (bed.pid(session).await == 0).then_some(())).await;
}

/// The folders of the CLI's transcripts.
fn projects(bed: &Bed) -> PathBuf {
    bed.service.state.path().join("tenants/default/claude/projects")
}
