//! The audit log: every call with who made it, on which session, and how it ended, and nothing of
//! what was said.

use std::{fs, path::Path};

use serde_json::{Value, json};
use session_pool::proto::{
    GetSessionRequest, PromptDeny, RespondRequest, SessionOptions, respond_request::Decision,
    turn_event::Kind,
};
use tempfile::TempDir;

use crate::{
    bed::{Bed, Client, knock, token},
    support::{
        eventually,
        service::{query, query_with, script},
        turn::Turn,
    },
};

/// The lines of a log; `None` while there is none.
fn lines(file: &Path) -> Option<Vec<Value>> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.lines().map(|line| serde_json::from_str(line).expect("whole")).collect())
}

/// Waits for the line of a call that ended so.
async fn recorded(file: &Path, method: &str, outcome: &str) -> Value {
    eventually(&format!("{method} with {outcome}"), async || {
        let is_it = |line: &Value| line["method"] == method && line["outcome"] == outcome;
        lines(file)?.into_iter().find(is_it)
    })
    .await
}

/// A bed whose audit log is in a folder of its own.
async fn bed(tokens: &[&crate::bed::Token], folder: &TempDir) -> Bed {
    let file = folder.path().join("audit.log");
    Bed::with(tokens, |config| config.audit.file = Some(file)).await
}

async fn open(client: &Client, session: &str, prompt: &str) -> Turn {
    let call = client.clone().query(query(session, prompt)).await;
    Turn::new(call.expect("taken").into_inner())
}

#[tokio::test]
async fn calls_are_recorded_with_who_what_and_how_they_ended() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("audit.log");
    let (own, other) = (token("own", false, None), token("other", false, None));
    let bed = bed(&[&own, &other], &folder).await;
    let (own, other) = (bed.client(&own), bed.client(&other));

    open(&own, "s", "words that nobody records").await.finish().await;
    let call = recorded(&file, "Query", "OK").await;
    assert_eq!((&call["tenant"], &call["session_id"]), (&json!("own"), &json!("s")));
    assert!(call["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{call}");
    assert!(call["duration_ms"].is_u64() && call["time"].is_string(), "{call}");

    let get = GetSessionRequest { session_id: "s".into() };
    other.clone().get_session(get).await.expect_err("not theirs");
    let call = recorded(&file, "GetSession", "NotFound").await;
    assert_eq!((&call["tenant"], &call["session_id"]), (&json!("other"), &json!("s")));
    assert_eq!(call["reason"], "SESSION_NOT_FOUND");

    knock(&bed.client_saying(Some("Bearer sp-nobody".into()))).await.expect_err("unknown");
    let call = recorded(&file, "GetStats", "Unauthenticated").await;
    assert!(call.get("tenant").is_none() && call.get("caller").is_none(), "{call}");

    let denied = SessionOptions { model: Some("a b\nc".into()), ..SessionOptions::default() };
    own.clone().query(query_with("s", "hi", denied)).await.expect_err("refused");
    let call = recorded(&file, "Query", "InvalidArgument").await;
    assert_eq!(call["fields"], json!(["options.model"]));

    // Whoever hangs up is recorded as well.
    let mut turn = open(&own, "s", &script(&["hang"])).await;
    turn.until(|kind| matches!(kind, Kind::Started(_))).await;
    drop(turn);
    recorded(&file, "Query", "Canceled").await;

    let all = fs::read_to_string(&file).expect("read");
    assert!(!all.contains("words that") && !all.contains("sp-nobody"), "{all}");
    bed.service.stop().await;
}

#[tokio::test]
async fn who_answers_a_prompt_is_recorded_and_how() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("audit.log");
    let own = token("own", false, None);
    let bed = bed(&[&own], &folder).await;
    let client = bed.client(&own);
    let prompt = script(&["ask Bash {\"command\":\"ls\"}", "say done"]);
    let mut turn = open(&client, "s", &prompt).await;
    let asked = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = asked.kind else { panic!("asked for a prompt") };
    let deny = PromptDeny { message: "for a reason".into(), interrupt: false };
    let respond = RespondRequest {
        session_id: "s".into(),
        prompt_id: prompt.prompt_id.clone(),
        decision: Some(Decision::Deny(deny)),
    };
    client.clone().respond(respond).await.expect("it waits for this");
    turn.finish().await;
    bed.service.stop().await;
    // What was recorded is there when the service has ended.
    let all = lines(&file).expect("a log");
    let answer = all.iter().find(|line| line["method"] == "Respond").expect("recorded");
    assert_eq!(answer["decision"], "deny");
    assert_eq!(
        (&answer["prompt_id"], &answer["session_id"]),
        (&json!(prompt.prompt_id), &json!("s"))
    );
    assert!(!fs::read_to_string(&file).expect("read").contains("for a reason"));
}
