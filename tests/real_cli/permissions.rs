//! Permission prompts: a tool asks, the caller answers over another call.

use std::{path::Path, time::Duration};

use session_pool::proto::{
    DisconnectPolicy, InterruptOutcome, PromptAllow, PromptDecision, PromptDeny, PromptEvent,
    PromptKind, PromptResolver, content_block::Block, respond_request::Decision, turn_event::Kind,
};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, init, json, kinds, resolved},
    lossless,
    support::{failure, service::query, turn::Turn},
};

each_version!(
    allowed_and_refused,
    allowed_with_another_input,
    refused_and_stopped,
    interrupted_while_it_waits,
    what_the_cli_suggests_can_be_granted,
    ; newest:
    what_nobody_answers_in_time_does_not_run,
    another_caller_answers_where_the_first_has_gone,
);

/// Waits for a prompt.
async fn asked(turn: &mut Turn) -> PromptEvent {
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    match event.kind {
        Some(Kind::Prompt(prompt)) => prompt,
        other => panic!("not a prompt: {other:?}"),
    }
}

fn allow() -> Decision {
    Decision::Allow(PromptAllow::default())
}

/// The text of the only tool result of a turn, and whether it is an error.
fn tool_result(turn: &Turn) -> (String, bool) {
    let blocks = kinds(turn).flat_map(|kind| match kind {
        Kind::User(message) => message.content.as_slice(),
        _ => &[],
    });
    let results: Vec<_> = blocks
        .filter_map(|block| match block.block.as_ref()? {
            Block::ToolResult(result) => Some((result.text.clone(), result.is_error)),
            _ => None,
        })
        .collect();
    assert_eq!(results.len(), 1, "{results:?}");
    results.into_iter().next().expect("one")
}

/// It suggests to add the session's own folder, which no policy need allow, and a rule or a mode.
async fn what_the_cli_suggests_can_be_granted(version: Version) {
    let bed = Bed::start(version).await;
    for (session, tool) in [("a", "[[bash touch made]]"), ("b", "[[bash mkdir made]]")] {
        let mut turn = bed.open(query(session, tool)).await;
        let prompt = asked(&mut turn).await;
        let mut updates = json(&prompt.suggestions_json);
        for update in updates.as_array_mut().expect("a list") {
            // It suggests files of settings, which later sessions read.
            update["destination"] = "session".into();
        }
        let always = Decision::Allow(PromptAllow {
            updated_permissions_json: updates.to_string(),
            ..PromptAllow::default()
        });
        bed.respond(session, &prompt.prompt_id, always).await.expect("granted");
        turn.finish().await;
        assert!(!tool_result(&turn).1, "{:?}", tool_result(&turn));
        let shown = bed.service.session(session).await.expect("there").permissions;
        let folders = shown.expect("permissions").directories;
        assert_eq!(folders, [""; 0], "its own is no grant");
    }
    // Of another session it is one that the policy has to allow.
    let mut turn = bed.open(query("c", "[[bash touch made]]")).await;
    let prompt = asked(&mut turn).await;
    let folder = init(&turn).cwd.replace("/s-c", "/s-a");
    let update = serde_json::json!([{"type": "addDirectories", "destination": "session",
        "directories": [folder]}]);
    let theirs = Decision::Allow(PromptAllow {
        updated_permissions_json: update.to_string(),
        ..PromptAllow::default()
    });
    let refused = bed.respond("c", &prompt.prompt_id, theirs).await.expect_err("refused");
    failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
    bed.respond("c", &prompt.prompt_id, allow()).await.expect("answered");
    turn.finish().await;
    bed.stop().await;
}

async fn allowed_and_refused(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[write yes.txt granted]]")).await;
    let prompt = asked(&mut turn).await;
    assert_eq!(prompt.kind(), PromptKind::ToolPermission);
    assert_eq!(prompt.tool_name, "Write");
    assert_eq!(json(&prompt.input_json)["content"], "granted");
    assert!(json(&prompt.suggestions_json).is_array(), "{prompt:?}");
    let folder = std::path::PathBuf::from(&init(&turn).cwd);
    assert!(!folder.join("yes.txt").exists(), "written before it was allowed");
    bed.respond("a", &prompt.prompt_id, allow()).await.expect("it waits");
    turn.finish().await;
    lossless::check(&turn);
    assert_eq!(std::fs::read_to_string(folder.join("yes.txt")).expect("written"), "granted");
    assert!(!tool_result(&turn).1);
    assert!(turn.result().permission_denials.is_empty());
    // The caller was told of the call before it was asked.
    let id = &prompt.tool_use_id;
    let call = kinds(&turn).position(|kind| matches!(kind, Kind::Assistant(_)));
    let question = kinds(&turn).position(|kind| matches!(kind, Kind::Prompt(_)));
    assert!(call < question && !id.is_empty(), "{call:?} {question:?}");
    let late = bed.respond("a", &prompt.prompt_id, allow()).await.expect_err("answered");
    failure(&late, Code::NotFound, "PROMPT_NOT_FOUND");

    let mut turn = bed.open(query("a", "[[write no.txt refused]]")).await;
    let prompt = asked(&mut turn).await;
    let deny = PromptDeny { message: "not on my watch".into(), interrupt: false };
    bed.respond("a", &prompt.prompt_id, Decision::Deny(deny)).await.expect("it waits");
    turn.finish().await;
    lossless::check(&turn);
    let (text, is_error) = tool_result(&turn);
    assert!(is_error && text.contains("not on my watch"), "{text}");
    let denials = &turn.result().permission_denials;
    assert_eq!(denials.len(), 1);
    assert_eq!(denials[0].tool_use_id, prompt.tool_use_id);
    assert!(!turn.result().is_error && !turn.result().interrupted);
    assert!(!folder.join("no.txt").exists());
    bed.stop().await;
}

async fn allowed_with_another_input(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[write theirs.txt theirs]]")).await;
    let prompt = asked(&mut turn).await;
    let folder = std::path::PathBuf::from(&init(&turn).cwd);
    let mut input = json(&prompt.input_json);
    input["file_path"] = folder.join("ours.txt").to_str().expect("UTF-8").into();
    input["content"] = "ours, \"quoted\"\nand in lines".into();
    // Laid out in lines, as callers do.
    let updated_input_json = format!("{input:#}");
    let decision = PromptAllow { updated_input_json, ..PromptAllow::default() };
    let decision = Decision::Allow(decision);
    bed.respond("a", &prompt.prompt_id, decision).await.expect("it waits");
    turn.finish().await;
    lossless::check(&turn);
    let written = std::fs::read_to_string(folder.join("ours.txt")).expect("written");
    assert_eq!(written, "ours, \"quoted\"\nand in lines");
    assert!(!folder.join("theirs.txt").exists());
    bed.stop().await;
}

async fn refused_and_stopped(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[write no.txt x]] [[say went on]]")).await;
    let prompt = asked(&mut turn).await;
    let deny = Decision::Deny(PromptDeny { message: "stop it".into(), interrupt: true });
    bed.respond("a", &prompt.prompt_id, deny).await.expect("it waits");
    turn.finish().await;
    lossless::check(&turn);
    assert!(turn.result().is_error, "{:?}", turn.result());
    assert_eq!(turn.result().terminal_reason, "aborted_tools");
    assert!(!turn.text().contains("went on"));
    let next = bed.query("a", "hello").await;
    assert_eq!(next.started().client_id, turn.started().client_id);
    assert!(!next.result().is_error);
    bed.stop().await;
}

async fn interrupted_while_it_waits(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[write no.txt x]]")).await;
    let prompt = asked(&mut turn).await;
    let report = bed.service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    lossless::check(&turn);
    assert!(turn.result().interrupted);
    let cancelled = kinds(&turn).any(|kind| match kind {
        Kind::Other(frame) => frame.r#type == "control_cancel_request",
        _ => false,
    });
    assert!(cancelled, "nobody was told that the question is off");
    let late = bed.respond("a", &prompt.prompt_id, allow()).await.expect_err("too late");
    failure(&late, Code::NotFound, "PROMPT_NOT_FOUND");
    assert!(!Path::new(&init(&turn).cwd).join("no.txt").exists());
    let next = bed.query("a", "hello").await;
    assert_eq!(next.started().client_id, turn.started().client_id);
    bed.stop().await;
}

async fn what_nobody_answers_in_time_does_not_run(version: Version) {
    let bed = Bed::with(version, |config| {
        config.policy.prompt_timeout = Duration::from_millis(500);
    })
    .await;
    let turn = bed.query("a", "[[write no.txt x]] [[say went on]]").await;
    let (text, is_error) = tool_result(&turn);
    assert!(is_error && text.contains("policy.prompt_timeout"), "{text}");
    assert_eq!(turn.result().result, "went on");
    assert!(!Path::new(&init(&turn).cwd).join("no.txt").exists());
    assert_eq!(resolved(&turn), [(PromptResolver::Timeout, PromptDecision::Denied)]);
    bed.stop().await;
}

async fn another_caller_answers_where_the_first_has_gone(version: Version) {
    let bed = Bed::start(version).await;
    let mut request = query("a", "[[write made.txt theirs]] [[say end]]");
    request.set_on_disconnect(DisconnectPolicy::Continue);
    let mut turn = bed.open(request).await;
    let prompt = asked(&mut turn).await;
    let mut other = bed.service.attach("a", "", 0).await.expect("joined");
    turn.leave();
    bed.respond("a", &prompt.prompt_id, allow()).await.expect("it waits");
    other.finish().await;
    assert_eq!(other.result().result, "end");
    let made = Path::new(&init(&other).cwd).join("made.txt");
    assert_eq!(std::fs::read_to_string(made).expect("written"), "theirs");
    bed.stop().await;
}
