//! Hooks that callers answer, as the real CLI calls them: what it does with each answer, with none,
//! and in its next process. What the model is told is read from the requests that the API gets.

use std::{fs, path::Path, time::Duration};

use session_pool::proto::{
    self, Hook, HookDecision, HookPermission, PromptAllow, PromptDecision, PromptEvent, PromptKind,
    PromptResolver, QueryRequest, SessionOptions, SessionStatus, respond_request::Decision,
    turn_event::Kind,
};
use tonic::{Code, Status};

use crate::{
    bed::{Bed, Version, each_version, init, json, kinds, resolved, tool_results},
    lossless,
    support::{
        eventually, failure,
        service::{query, query_with},
        turn::Turn,
    },
};

each_version!(within LONG: pinned:
    a_tool_runs_with_the_input_that_a_hook_gives_and_asks_nobody,
    a_hook_refuses_a_tool_or_has_it_asked_about,
    what_a_hook_adds_the_model_is_told_next,
    a_prompt_that_a_hook_blocks_never_reaches_the_model,
    a_turn_that_stop_blocks_goes_on,
    a_subagent_that_stop_blocks_goes_on,
    a_hook_is_called_at_every_event,
    an_answer_that_does_not_fit_is_refused_and_the_hook_waits_on,
    a_turn_is_interrupted_while_a_hook_waits,
    what_works_in_the_background_asks_its_hooks_between_turns,
    ; newest:
    a_tool_whose_hook_nobody_answers_does_not_run,
    another_caller_answers_where_the_first_has_gone,
    every_process_of_a_session_has_its_hooks,
);

fn hook(event: &str, matcher: &str) -> Hook {
    Hook { event: event.into(), matcher: matcher.into(), timeout: None }
}

fn hooked(hooks: &[(&str, &str)]) -> SessionOptions {
    let hooks = hooks.iter().map(|(event, matcher)| hook(event, matcher)).collect();
    SessionOptions { hooks, ..SessionOptions::default() }
}

/// The same with tools that run without asking.
fn allowed(hooks: &[(&str, &str)], tools: &[&str]) -> SessionOptions {
    let allowed_tools = tools.iter().map(|rule| (*rule).to_owned()).collect();
    SessionOptions { allowed_tools, ..hooked(hooks) }
}

fn verdict(permission: HookPermission, reason: &str) -> HookDecision {
    let mut decision = HookDecision { reason: reason.into(), ..HookDecision::default() };
    decision.set_permission_decision(permission);
    decision
}

fn block(reason: &str) -> HookDecision {
    HookDecision { block: true, reason: reason.into(), ..HookDecision::default() }
}

fn context(text: &str) -> HookDecision {
    HookDecision { additional_context: text.into(), ..HookDecision::default() }
}

async fn asked(turn: &mut Turn) -> PromptEvent {
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { unreachable!("just seen") };
    prompt
}

/// Waits for a call of a hook of this event.
async fn called(turn: &mut Turn, event: &str) -> PromptEvent {
    let prompt = asked(turn).await;
    let hook = prompt.hook.as_ref().unwrap_or_else(|| panic!("not {event}: {prompt:?}"));
    assert_eq!((prompt.kind(), hook.event.as_str()), (PromptKind::Hook, event));
    prompt
}

async fn say(bed: &Bed, prompt: &PromptEvent, decision: HookDecision) -> Result<(), Status> {
    bed.respond("a", &prompt.prompt_id, Decision::Hook(decision)).await
}

/// Answers the next call.
async fn answer(bed: &Bed, turn: &mut Turn, event: &str, decision: HookDecision) -> PromptEvent {
    let prompt = called(turn, event).await;
    say(bed, &prompt, decision).await.expect("it waits");
    prompt
}

async fn finish(turn: &mut Turn) {
    turn.finish().await;
    lossless::check(turn);
}

/// What the API was last told in the turn's conversation.
fn told(bed: &Bed, turn: &Turn) -> String {
    bed.last_request(&turn.started().cli_session_id).body["messages"].to_string()
}

/// How often the model was asked in the turn's conversation, with all that was said before.
fn rounds(bed: &Bed, turn: &Turn) -> usize {
    let mut requests = bed.api.requests_of(&turn.started().cli_session_id);
    requests.retain(|request| request.body["messages"].to_string().contains("[[say done]]"));
    requests.len()
}

fn file(turn: &Turn, name: &str) -> Option<String> {
    fs::read_to_string(Path::new(&init(turn).cwd).join(name)).ok()
}

async fn a_tool_runs_with_the_input_that_a_hook_gives_and_asks_nobody(version: Version) {
    let bed = Bed::start(version).await;
    let options = hooked(&[("PreToolUse", "Edit|Write"), ("PreToolUse", "Bash")]);
    let mut turn = bed.open(query_with("a", "[[write made.txt theirs]]", options)).await;
    let prompt = called(&mut turn, "PreToolUse").await;
    assert_eq!(
        (prompt.tool_name.as_str(), json(&prompt.input_json)["content"].as_str()),
        ("Write", Some("theirs"))
    );
    let hook = prompt.hook.as_ref().expect("a hook");
    assert_eq!((hook.tool_name.as_str(), hook.matcher.as_str()), ("Write", "Edit|Write"));
    let said = json(&hook.input_json);
    assert_eq!(said["tool_use_id"], prompt.tool_use_id.as_str());
    let mut input = said["tool_input"].clone();
    input["content"] = "ours, \"quoted\"\nand in lines".into();
    let decision = HookDecision {
        updated_input_json: format!("{input:#}"),
        ..verdict(HookPermission::Allow, "it is fine")
    };
    say(&bed, &prompt, decision).await.expect("it waits");
    finish(&mut turn).await;
    assert_eq!(file(&turn, "made.txt").as_deref(), Some("ours, \"quoted\"\nand in lines"));
    let prompts = kinds(&turn).filter(|kind| matches!(kind, Kind::Prompt(_))).count();
    assert_eq!(prompts, 1, "nobody is asked for a permission");
    assert_eq!(resolved(&turn), [(PromptResolver::Caller, PromptDecision::Allowed)]);
    bed.stop().await;
}

async fn a_hook_refuses_a_tool_or_has_it_asked_about(version: Version) {
    let bed = Bed::start(version).await;
    // What rules allow, a hook refuses.
    let options = allowed(&[("PreToolUse", "")], &["Write"]);
    let write = |name: &str| query_with("a", &format!("[[write {name} x]]"), options.clone());
    let mut turn = bed.open(write("no.txt")).await;
    answer(&bed, &mut turn, "PreToolUse", verdict(HookPermission::Deny, "not on my watch")).await;
    finish(&mut turn).await;
    assert!(tool_results(&turn)[0].contains("not on my watch"), "{:?}", tool_results(&turn));
    assert_eq!((file(&turn, "no.txt"), turn.result().is_error), (None, false));
    assert_eq!(resolved(&turn), [(PromptResolver::Caller, PromptDecision::Denied)]);
    let mut turn = bed.open(write("asked.txt")).await;
    answer(&bed, &mut turn, "PreToolUse", verdict(HookPermission::Ask, "look at it")).await;
    let prompt = asked(&mut turn).await;
    assert_eq!((prompt.kind(), file(&turn, "asked.txt")), (PromptKind::ToolPermission, None));
    let allow = Decision::Allow(PromptAllow::default());
    bed.respond("a", &prompt.prompt_id, allow).await.expect("it waits");
    finish(&mut turn).await;
    assert!(file(&turn, "asked.txt").is_some());
    // One that says nothing leaves it to the rules.
    let mut turn = bed.open(write("yes.txt")).await;
    answer(&bed, &mut turn, "PreToolUse", HookDecision::default()).await;
    finish(&mut turn).await;
    assert!(file(&turn, "yes.txt").is_some());
    assert_eq!(resolved(&turn), [(PromptResolver::Caller, PromptDecision::Answered)]);
    bed.stop().await;
    // What rules refuse, no hook allows.
    let bed = Bed::start(version).await;
    let options = SessionOptions {
        disallowed_tools: vec!["Bash(touch:*)".into()],
        ..hooked(&[("PreToolUse", "Bash")])
    };
    let mut turn = bed.open(query_with("a", "[[bash touch made]]", options)).await;
    answer(&bed, &mut turn, "PreToolUse", verdict(HookPermission::Allow, "")).await;
    finish(&mut turn).await;
    assert_eq!(file(&turn, "made"), None);
    bed.stop().await;
}

async fn what_a_hook_adds_the_model_is_told_next(version: Version) {
    let bed = Bed::start(version).await;
    let hooks = [("PostToolUse", "Bash"), ("PostToolUseFailure", ""), ("UserPromptSubmit", "")];
    let options = allowed(&hooks, &["Bash", "Read"]);
    let script = r#"[[bash touch made]] [[tool Read {"file_path":"/nowhere"}]] [[say end]]"#;
    let mut turn = bed.open(query_with("a", script, options)).await;
    let submitted = answer(&bed, &mut turn, "UserPromptSubmit", context("it is Monday")).await;
    let told_of = json(&submitted.hook.expect("a hook").input_json);
    assert_eq!(told_of["prompt"], script);
    let ran = answer(&bed, &mut turn, "PostToolUse", context("CI is red")).await;
    let ran = json(&ran.hook.expect("a hook").input_json);
    assert!(ran["tool_response"].is_object(), "{ran}");
    let messages = told(&bed, &turn);
    assert!(messages.contains("it is Monday") && !messages.contains("CI is red"), "{messages}");
    answer(&bed, &mut turn, "PostToolUseFailure", block("look in /etc")).await;
    finish(&mut turn).await;
    let messages = told(&bed, &turn);
    assert!(messages.contains("CI is red") && messages.contains("look in /etc"), "{messages}");
    assert_eq!(turn.result().result, "end");
    bed.stop().await;
}

async fn a_prompt_that_a_hook_blocks_never_reaches_the_model(version: Version) {
    let bed = Bed::start(version).await;
    let options = hooked(&[("UserPromptSubmit", "")]);
    let mut turn = bed.open(query_with("a", "the password is 1234", options)).await;
    answer(&bed, &mut turn, "UserPromptSubmit", block("no passwords")).await;
    finish(&mut turn).await;
    let requests = bed.api.requests_of(&turn.started().cli_session_id);
    assert!(requests.iter().all(|request| !request.body.to_string().contains("1234")));
    assert!(!turn.result().is_error, "{:?}", turn.result());
    let mut turn = bed.open(query("a", "hello")).await;
    answer(&bed, &mut turn, "UserPromptSubmit", HookDecision::default()).await;
    finish(&mut turn).await;
    assert!(turn.text().starts_with("You said: \"hello\"."), "{}", turn.text());
    assert!(!told(&bed, &turn).contains("1234"), "the blocked prompt is no part of the talk");
    bed.stop().await;
}

async fn a_turn_that_stop_blocks_goes_on(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query_with("a", "[[say done]]", hooked(&[("Stop", "")]))).await;
    let stop = answer(&bed, &mut turn, "Stop", block("not yet")).await;
    let first = json(&stop.hook.expect("a hook").input_json);
    assert_eq!(first["stop_hook_active"], false);
    let stop = answer(&bed, &mut turn, "Stop", HookDecision::default()).await;
    let second = json(&stop.hook.expect("a hook").input_json);
    assert_eq!(second["stop_hook_active"], true);
    finish(&mut turn).await;
    assert!(told(&bed, &turn).contains("not yet"), "{}", told(&bed, &turn));
    assert_eq!(rounds(&bed, &turn), 2);
    bed.stop().await;
}

fn subagent(prompt: &str, in_background: bool) -> String {
    let input = serde_json::json!({"description": "work", "subagent_type": "general-purpose",
        "prompt": prompt, "run_in_background": in_background});
    format!("[[tool Agent {input}]] [[say started]]")
}

async fn a_subagent_that_stop_blocks_goes_on(version: Version) {
    let bed = Bed::start(version).await;
    let agent = "general-purpose";
    let hooks = [("SubagentStart", agent), ("SubagentStop", agent), ("SubagentStop", "Other")];
    let options = allowed(&hooks, &["Agent", "Task"]);
    let prompt = subagent("[[say half]]", false);
    let mut turn = bed.open(query_with("a", &prompt, options)).await;
    answer(&bed, &mut turn, "SubagentStart", context("be thorough")).await;
    let stop = answer(&bed, &mut turn, "SubagentStop", block("the whole of it")).await;
    assert_eq!(json(&stop.hook.expect("a hook").input_json)["agent_type"], agent);
    answer(&bed, &mut turn, "SubagentStop", HookDecision::default()).await;
    finish(&mut turn).await;
    let requests = bed.api.requests_of(&turn.started().cli_session_id);
    let told = |text: &str| requests.iter().any(|asked| asked.body.to_string().contains(text));
    assert!(told("be thorough") && told("the whole of it"));
    bed.stop().await;
}

/// Each event, by a conversation that has all of them.
async fn a_hook_is_called_at_every_event(version: Version) {
    let bed = Bed::with(version, |config| config.policy.slash_commands = true).await;
    let events = [
        "UserPromptSubmit",
        "PreToolUse",
        "PostToolUse",
        "PostToolUseFailure",
        "SubagentStart",
        "SubagentStop",
        "Stop",
        "PreCompact",
        "PostCompact",
    ];
    let hooks = events.map(|event| (event, ""));
    let options = allowed(&hooks, &["Bash", "Agent", "Task", "Read"]);
    let work = r#"[[bash touch made]] [[tool Read {"file_path":"/nowhere"}]]"#;
    let prompts =
        [work.to_owned(), subagent("[[say hi]]", false), "hello".into(), "/compact".into()];
    let mut seen = Vec::new();
    for prompt in prompts {
        let mut turn = bed.open(query_with("a", &prompt, options.clone())).await;
        while turn.end.is_none() {
            let Some(event) = turn.next().await else { continue };
            let Some(Kind::Prompt(prompt)) = event.kind else { continue };
            let decision = HookDecision { system_message: "seen".into(), ..Default::default() };
            say(&bed, &prompt, decision).await.expect("it waits");
            seen.push(prompt.hook.expect("a hook").event);
        }
    }
    for event in events {
        assert!(seen.iter().any(|called| called == event), "{event}: {seen:?}");
    }
    // What it blocks is not compacted.
    let mut turn = bed.open(query("a", "/compact")).await;
    answer(&bed, &mut turn, "PreCompact", block("")).await;
    turn.finish().await;
    let compacted = kinds(&turn).any(|kind| match kind {
        Kind::System(system) => system.subtype == "compact_boundary",
        _ => false,
    });
    assert!(!compacted, "{:?}", turn.result());
    bed.stop().await;
}

async fn an_answer_that_does_not_fit_is_refused_and_the_hook_waits_on(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query_with("a", "[[say hi]]", hooked(&[("Stop", "")]))).await;
    let prompt = called(&mut turn, "Stop").await;
    for (wrong, field) in [
        (Decision::Hook(verdict(HookPermission::Allow, "")), "hook.permission_decision"),
        (Decision::Hook(context("more")), "hook.additional_context"),
        (Decision::Hook(block("")), "hook.reason"),
        (Decision::Allow(PromptAllow::default()), "allow"),
        (Decision::Deny(proto::PromptDeny::default()), "deny"),
        (Decision::Answers(proto::PromptAnswers::default()), "answers"),
    ] {
        let status = bed.respond("a", &prompt.prompt_id, wrong).await.expect_err("it does not fit");
        let metadata = failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(metadata["field"], field, "{status:?}");
    }
    let shown = bed.service.session("a").await.expect("there").open_prompts;
    assert_eq!((shown.len(), shown[0].kind()), (1, PromptKind::Hook));
    assert_eq!(shown[0].hook_event, "Stop");
    // In the CLI's own words.
    let raw = Decision::ResponseJson(r#"{"decision":"block","reason":"one more"}"#.into());
    bed.respond("a", &prompt.prompt_id, raw).await.expect("it waits");
    let again = say(&bed, &prompt, HookDecision::default()).await.expect_err("answered");
    failure(&again, Code::NotFound, "PROMPT_NOT_FOUND");
    answer(&bed, &mut turn, "Stop", HookDecision::default()).await;
    finish(&mut turn).await;
    assert!(told(&bed, &turn).contains("one more"), "{}", told(&bed, &turn));
    // A prompt that is no hook takes no hook's answer.
    let options = SessionOptions { reset_options: vec!["hooks".into()], ..Default::default() };
    let mut restart = query_with("a", "[[write x.txt x]]", options);
    restart.set_on_options_mismatch(proto::OptionsMismatchPolicy::Restart);
    let mut turn = bed.open(restart).await;
    let prompt = asked(&mut turn).await;
    let status = say(&bed, &prompt, block("no")).await.expect_err("no hook");
    let metadata = failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!((metadata["field"].as_str(), prompt.kind()), ("hook", PromptKind::ToolPermission));
    let deny = Decision::Deny(proto::PromptDeny::default());
    bed.respond("a", &prompt.prompt_id, deny).await.expect("it waits");
    finish(&mut turn).await;
    bed.stop().await;
}

async fn a_tool_whose_hook_nobody_answers_does_not_run(version: Version) {
    let bed = Bed::start(version).await;
    let mut options = allowed(
        &[("PreToolUse", "Write"), ("PostToolUse", "Bash"), ("Stop", "")],
        &["Write", "Bash"],
    );
    for hook in &mut options.hooks {
        hook.timeout = Some(Duration::from_secs(1).try_into().expect("short"));
    }
    let script = "[[write no.txt x]] [[bash touch made]] [[say end]]";
    let turn = bed.run(query_with("a", script, options)).await;
    let results = tool_results(&turn);
    assert!(results[0].contains("Nobody answered within 1s (timeout of the hook)"), "{results:?}");
    assert!(file(&turn, "no.txt").is_none() && file(&turn, "made").is_some());
    assert_eq!(turn.result().result, "end");
    let by = PromptResolver::Timeout;
    let refused = (by, PromptDecision::Denied);
    let ignored = (by, PromptDecision::Unspecified);
    assert_eq!(resolved(&turn), [refused, ignored, ignored]);
    bed.stop().await;
    // No hook has more time than other prompts.
    let bed = Bed::with(version, |config| {
        config.policy.prompt_timeout = Duration::from_millis(500);
    })
    .await;
    let turn = bed.run(query_with("a", "hello", hooked(&[("UserPromptSubmit", "")]))).await;
    assert_eq!(resolved(&turn), [refused]);
    assert!(!turn.text().contains("You said"), "{}", turn.text());
    bed.stop().await;
}

async fn another_caller_answers_where_the_first_has_gone(version: Version) {
    let bed = Bed::start(version).await;
    let options = hooked(&[("PreToolUse", "Write")]);
    let mut request = query_with("a", "[[write made.txt x]] [[say end]]", options);
    request.set_on_disconnect(proto::DisconnectPolicy::Continue);
    let mut turn = bed.open(request).await;
    called(&mut turn, "PreToolUse").await;
    let mut other = bed.service.attach("a", "", 0).await.expect("joined");
    turn.leave();
    answer(&bed, &mut other, "PreToolUse", verdict(HookPermission::Allow, "")).await;
    other.finish().await;
    assert_eq!(other.result().result, "end");
    assert!(file(&other, "made.txt").is_some());
    bed.stop().await;
}

async fn a_turn_is_interrupted_while_a_hook_waits(version: Version) {
    let bed = Bed::start(version).await;
    let options = hooked(&[("PreToolUse", ""), ("UserPromptSubmit", "")]);
    let mut turn = bed.open(query_with("a", "[[write no.txt x]]", options)).await;
    answer(&bed, &mut turn, "UserPromptSubmit", HookDecision::default()).await;
    let prompt = called(&mut turn, "PreToolUse").await;
    assert!(bed.service.interrupt("a", true).await.interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    assert_eq!(file(&turn, "no.txt"), None);
    assert_eq!(resolved(&turn)[1], (PromptResolver::TurnEnded, PromptDecision::Unspecified));
    let late = say(&bed, &prompt, verdict(HookPermission::Allow, "")).await.expect_err("over");
    failure(&late, Code::NotFound, "PROMPT_NOT_FOUND");
    // Before the CLI has begun with the prompt; 2.1.197 ends then.
    let mut turn = bed.open(query("a", "[[say never]]")).await;
    called(&mut turn, "UserPromptSubmit").await;
    bed.service.interrupt("a", true).await;
    turn.finish().await;
    assert!(!turn.text().contains("never"));
    let mut turn = bed.open(query("a", "hello")).await;
    answer(&bed, &mut turn, "UserPromptSubmit", HookDecision::default()).await;
    turn.finish().await;
    assert!(turn.text().starts_with("You said: \"hello\"."), "{}", turn.text());
    bed.stop().await;
}

async fn what_works_in_the_background_asks_its_hooks_between_turns(version: Version) {
    let bed = Bed::start(version).await;
    let options = allowed(&[("PreToolUse", "Bash")], &["Agent", "Task", "Bash"]);
    let prompt = subagent("[[pause 300]] [[bash touch made]] [[say seen]]", true);
    // 2.1.110 tells the turn's result when the subagent has ended.
    let mut turn = bed.open(query_with("a", &prompt, options)).await;
    if version != Version::chosen() {
        turn.finish().await;
    }
    let open = eventually("the subagent's hook", async || {
        bed.service.session("a").await.expect("there").open_prompts.pop()
    })
    .await;
    assert_eq!((open.hook_event.as_str(), open.tool_name.as_str()), ("PreToolUse", "Bash"));
    let prompt = PromptEvent { prompt_id: open.prompt_id, ..PromptEvent::default() };
    say(&bed, &prompt, HookDecision::default()).await.expect("it waits");
    turn.finish().await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    eventually("the subagent's work", async || file(&turn, "made")).await;
    // With the process ends what waits, and nothing that a hook guards happens by that.
    let prompt = subagent("[[pause 300]] [[bash touch late]] [[say seen]]", true);
    let late = bed.open(query("a", &prompt)).await;
    eventually("its hook", async || {
        bed.service.session("a").await.expect("there").open_prompts.pop()
    })
    .await;
    bed.service.close("a", false).await.expect("closed");
    late.leave();
    assert_eq!(file(&turn, "late"), None);
    bed.stop().await;
}

/// That a hook of the session is called, by this turn.
async fn is_called(bed: &Bed, request: QueryRequest) -> Turn {
    let mut turn = bed.open(request).await;
    answer(bed, &mut turn, "Stop", HookDecision::default()).await;
    turn.finish().await;
    turn
}

async fn every_process_of_a_session_has_its_hooks(version: Version) {
    let bed = Bed::with(version, |config| config.pool.spares = 1).await;
    eventually("a spare", async || (bed.service.stats().await.spares == 1).then_some(())).await;
    let first = is_called(&bed, query_with("a", "one", hooked(&[("Stop", "")]))).await;
    assert_eq!(first.started().origin(), proto::TurnOrigin::CreatedFromSpare);
    bed.kill_after(&first).await;
    let second = is_called(&bed, query("a", "two")).await;
    assert_ne!(second.started().client_id, first.started().client_id);
    // After hibernation, in another life of the service.
    let bed = bed
        .restarted(version, |config| {
            config.pool.hibernate_after = Duration::from_millis(200);
        })
        .await;
    is_called(&bed, query("a", "three")).await;
    eventually("hibernation", async || {
        let session = bed.service.session("a").await.expect("there");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
    is_called(&bed, query("a", "four")).await;
    // Others need another process.
    let other = || query_with("a", "five", hooked(&[("UserPromptSubmit", "")]));
    let refused = bed.service.run(other()).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "hooks");
    let mut restart = other();
    restart.set_on_options_mismatch(proto::OptionsMismatchPolicy::Restart);
    let mut turn = bed.open(restart).await;
    answer(&bed, &mut turn, "UserPromptSubmit", HookDecision::default()).await;
    turn.finish().await;
    let shown = bed.service.session("a").await.expect("there").options.expect("options").hooks;
    assert_eq!((shown.len(), shown[0].event.as_str()), (1, "UserPromptSubmit"));
    assert_eq!(shown[0].timeout.map(|timeout| timeout.seconds), Some(60));
    bed.stop().await;
}
