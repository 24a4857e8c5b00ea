//! What holds in a session is what its CLI says and what callers granted, and it outlives
//! the CLI and the service: modes, rules, folders, the model.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use serde_json::json as value;
use session_pool::{
    config::Config,
    proto::{
        OptionsMismatchPolicy, PromptAllow, PromptDeny, PromptEvent, QueryRequest, Session,
        SessionOptions, SessionStatus, TurnOrigin, respond_request::Decision, turn_event::Kind,
    },
};
use tempfile::TempDir;

use crate::{
    bed::{Bed, Version, each_version, has_command, init, origin, tool_results},
    stand_in::StandIn,
    support::{
        daemon::Daemon,
        eventually, log,
        service::{query, query_with},
        turn::Turn,
    },
};

each_version!(within LONG: pinned:
    e3_a_plan_is_asked_for_again_after_one_was_approved,
    e3_a_rule_is_taken_back_from_a_process_that_was_started_with_it,
    ; newest:
    e3_a_copy_has_the_rules_of_its_original,
    e3_a_new_conversation_has_no_rules,
    e3_a_refusal_outlives_a_killed_service,
    e3_a_tightened_policy_drops_what_it_does_not_allow,
    e3_another_process_has_the_same_model,
    e3_what_a_prompt_chose_outlives_every_process,
    e3_modes_and_rules_outlive_every_process,
    e3_updated_options_outlive_every_process,
);

const DENY_WRITE: &str = r#"{"type":"addRules","behavior":"deny","destination":"session",
    "rules":[{"toolName":"Write"}]}"#;
const ALLOW_FIFOS: &str = r#"{"type":"addRules","behavior":"allow","destination":"session",
    "rules":[{"toolName":"Bash","ruleContent":"mkfifo:*"}]}"#;
const ACCEPT_EDITS: &str = r#"{"type":"setMode","mode":"acceptEdits","destination":"session"}"#;

fn mode(mode: &str) -> SessionOptions {
    SessionOptions { permission_mode: Some(mode.into()), ..SessionOptions::default() }
}

fn allow(updates: &[&str]) -> Decision {
    let updated_permissions_json = format!("[{}]", updates.join(","));
    Decision::Allow(PromptAllow { updated_permissions_json, ..PromptAllow::default() })
}

fn deny() -> Decision {
    Decision::Deny(PromptDeny { message: "not now".into(), interrupt: false })
}

/// Runs a turn whose prompts are answered with these decisions, one each. Returns the
/// turn and the tools that asked.
async fn answered(bed: &Bed, request: QueryRequest, answers: Vec<Decision>) -> (Turn, Vec<String>) {
    let mut answers = answers.into_iter();
    let session = request.session_id.clone();
    let mut turn = bed.open(request).await;
    let mut asked = Vec::new();
    while let Some(event) = turn.next().await {
        let Some(Kind::Prompt(PromptEvent { prompt_id, tool_name, .. })) = event.kind else {
            continue;
        };
        asked.push(tool_name);
        let answer = answers.next().unwrap_or_else(|| panic!("asked too often: {asked:?}"));
        bed.respond(&session, &prompt_id, answer).await.expect("it waits");
    }
    assert!(!turn.result().is_error, "{:?}", turn.result());
    (turn, asked)
}

fn work(turn: &Turn) -> PathBuf {
    PathBuf::from(&init(turn).cwd)
}

async fn session(bed: &Bed, name: &str) -> Session {
    bed.service.session(name).await.expect("a session")
}

async fn mode_of(bed: &Bed, name: &str) -> Option<String> {
    session(bed, name).await.options.expect("options").permission_mode
}

/// What was reported: the plan was approved, and a later turn that asked for `plan` wrote.
async fn e3_a_plan_is_asked_for_again_after_one_was_approved(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = "[[tool ExitPlanMode {\"plan\": \"write\"}]] [[write approved.txt x]]";
    let request = query_with("a", prompt, mode("plan"));
    let (turn, asked) = answered(&bed, request, vec![allow(&[ACCEPT_EDITS])]).await;
    assert_eq!((init(&turn).permission_mode.as_str(), asked.len()), ("plan", 1));
    assert!(work(&turn).join("approved.txt").exists());
    assert_eq!(mode_of(&bed, "a").await.as_deref(), Some("acceptEdits"));

    let quiet = bed.query("a", "[[write quiet.txt x]]").await;
    assert_eq!(init(&quiet).permission_mode, "acceptEdits", "nobody asked for another mode");
    assert!(work(&quiet).join("quiet.txt").exists());

    let request = query_with("a", "[[write planned.txt x]]", mode("plan"));
    let (turn, asked) = answered(&bed, request, vec![deny()]).await;
    assert_eq!(init(&turn).permission_mode, "plan");
    assert_eq!(asked, ["Write"]);
    assert!(!work(&turn).join("planned.txt").exists());
    assert_eq!(mode_of(&bed, "a").await.as_deref(), Some("plan"));
    bed.stop().await;
}

/// Another process of a session, by each of the ways to it.
type Change = fn(Bed, Version) -> Pin<Box<dyn Future<Output = Bed>>>;

fn sleepy(config: &mut Config) {
    config.pool.hibernate_after = Duration::from_millis(100);
}

async fn until_hibernated(bed: &Bed, name: &str) {
    eventually("hibernation", async || {
        (session(bed, name).await.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
}

const CHANGES: [(&str, Change); 3] = [
    ("killed", |bed, _| {
        Box::pin(async {
            let last = bed.query("a", "the last words").await;
            bed.kill_after(&last).await;
            bed
        })
    }),
    ("restarted", |bed, version| Box::pin(bed.restarted(version, sleepy))),
    ("hibernated", |bed, _| {
        Box::pin(async {
            until_hibernated(&bed, "a").await;
            bed
        })
    }),
];

/// Grants a mode, a rule and a refusal in one turn.
async fn grant_all(bed: &Bed) {
    let prompt = "[[tool ExitPlanMode {\"plan\": \"p\"}]] [[bash mkfifo first]]";
    let answers = vec![allow(&[ACCEPT_EDITS]), allow(&[DENY_WRITE, ALLOW_FIFOS])];
    let (turn, asked) = answered(bed, query_with("a", prompt, mode("plan")), answers).await;
    assert_eq!(asked, ["ExitPlanMode", "Bash"], "{:?}", tool_results(&turn));
}

/// Checks that the mode, the rule and the refusal hold: nothing is asked.
async fn all_holds(bed: &Bed, request: QueryRequest, name: &str) -> Turn {
    let prompt = format!("[[write denied.txt x]] [[bash mkfifo {name}]]");
    let turn = bed.run(QueryRequest { prompt, ..request }).await;
    let results = tool_results(&turn);
    assert!(results[0].contains("Permission to use Write has been denied"), "{results:?}");
    assert!(!work(&turn).join("denied.txt").exists());
    assert!(work(&turn).join(name).exists(), "{results:?}");
    assert_eq!(init(&turn).permission_mode, "acceptEdits");
    turn
}

async fn e3_modes_and_rules_outlive_every_process(version: Version) {
    let mut bed = Bed::start(version).await;
    grant_all(&bed).await;
    for (name, change) in CHANGES {
        bed = change(bed, version).await;
        let turn = all_holds(&bed, query("a", ""), name).await;
        assert_eq!(origin(&turn), TurnOrigin::Resumed, "{name}");
    }
    // Another process because of an option.
    let options = SessionOptions { max_turns: Some(77), ..SessionOptions::default() };
    let request = QueryRequest {
        on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
        ..query_with("a", "", options)
    };
    let turn = all_holds(&bed, request, "replaced").await;
    assert_eq!(origin(&turn), TurnOrigin::Resumed);
    let shown = session(&bed, "a").await;
    let permissions = shown.permissions.expect("permissions");
    assert_eq!(
        (permissions.deny, permissions.allow),
        (vec!["Write".into()], vec!["Bash(mkfifo:*)".into()])
    );
    assert_eq!(shown.options.expect("options").permission_mode.as_deref(), Some("acceptEdits"));
    bed.stop().await;
}

/// The service is killed in the turn, once the answer was taken.
async fn e3_a_refusal_outlives_a_killed_service(version: Version) {
    let api = StandIn::start().await.expect("a stand-in");
    let (path, url) = (version.executable().display().to_string(), api.url());
    let settings = [
        ("CLI__PATH", path.as_str()),
        ("CLI__ENV__ANTHROPIC_BASE_URL", &url),
        ("CLI__ENV__ANTHROPIC_API_KEY", "sk-ant-dummy"),
        ("CLI__ENV__CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "30s"),
    ];
    let mut daemon = Daemon::start(&settings).await;
    let mut turn = daemon.open(query("s", "[[bash mkfifo p; sleep 300]]")).await;
    let asked = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(PromptEvent { prompt_id, .. })) = asked.kind else { unreachable!() };
    let respond = session_pool::proto::RespondRequest {
        session_id: "s".into(),
        prompt_id,
        decision: Some(allow(&[DENY_WRITE, ACCEPT_EDITS])),
    };
    daemon.client.respond(respond).await.expect("it waits");
    let daemon = Daemon::start_in(daemon.killed().await, &settings).await;
    let mut turn = daemon.open(query("s", "[[write denied.txt x]]")).await;
    turn.finish().await;
    let results = tool_results(&turn);
    assert!(results[0].contains("Permission to use Write has been denied"), "{results:?}");
    assert!(!work(&turn).join("denied.txt").exists());
    assert_eq!(init(&turn).permission_mode, "acceptEdits");
    drop(daemon.killed().await);
    // Connections of killed CLIs are closed by now, or soon.
    drop(tokio::time::timeout(Duration::from_secs(5), api.shutdown()).await);
}

/// The CLI takes away only rules that came with an answer in its own life.
async fn e3_a_rule_is_taken_back_from_a_process_that_was_started_with_it(version: Version) {
    let bed = Bed::with(version, sleepy).await;
    let (_, asked) =
        answered(&bed, query("a", "[[bash mkfifo p]]"), vec![allow(&[DENY_WRITE])]).await;
    assert_eq!(asked, ["Bash"]);
    until_hibernated(&bed, "a").await;
    let remove = DENY_WRITE.replace("addRules", "removeRules");
    let prompt = "[[write no.txt x]] [[bash mkfifo q]] [[write yes.txt x]]";
    let answers = vec![allow(&[&remove]), allow(&[])];
    let (turn, asked) = answered(&bed, query("a", prompt), answers).await;
    assert_eq!(asked, ["Bash", "Write"]);
    assert!(!work(&turn).join("no.txt").exists() && work(&turn).join("yes.txt").exists());
    assert_eq!(session(&bed, "a").await.permissions, Some(Default::default()));
    // Neither this process nor the next has it back.
    let (_, asked) = answered(&bed, query("a", "[[write more.txt x]]"), vec![allow(&[])]).await;
    assert_eq!(asked, ["Write"]);
    until_hibernated(&bed, "a").await;
    let (_, asked) = answered(&bed, query("a", "[[write again.txt x]]"), vec![allow(&[])]).await;
    assert_eq!(asked, ["Write"]);
    bed.stop().await;
}

async fn e3_a_tightened_policy_drops_what_it_does_not_allow(version: Version) {
    let place = TempDir::new().expect("a folder");
    let root = place.path().canonicalize().expect("real").display().to_string();
    let open = |config: &mut Config| config.policy.cwd_roots = vec![root.clone()];
    let name = format!("tightened-{}", version.as_str());
    let bed = Bed::with(version, open).await;
    let folder =
        value!({"type": "addDirectories", "directories": [root], "destination": "session"});
    let deny_fifos = ALLOW_FIFOS.replace("\"allow\"", "\"deny\"");
    let updates = [ACCEPT_EDITS, &deny_fifos, &folder.to_string()];
    let (_, asked) = answered(&bed, query(&name, "[[bash mkfifo p]]"), vec![allow(&updates)]).await;
    assert_eq!(asked, ["Bash"]);
    // As long as it is allowed, it is given to every process.
    let bed = bed.restarted(version, open).await;
    let edit = format!("[[write {root}/first x]]");
    let turn = bed.query(&name, &edit).await;
    assert!(place.path().join("first").exists(), "{:?}", tool_results(&turn));

    let tight = |config: &mut Config| config.policy.permission_modes = vec!["default".into()];
    let bed = bed.restarted(version, tight).await;
    let prompt = format!("[[bash mkfifo denied]] [[write {root}/second x]]");
    let (turn, asked) = answered(&bed, query(&name, &prompt), vec![deny()]).await;
    assert_eq!((init(&turn).permission_mode.as_str(), asked), ("default", vec!["Write".into()]));
    let results = tool_results(&turn);
    assert!(results[0].contains("has been denied"), "{results:?}");
    let permissions = session(&bed, &name).await.permissions.expect("permissions");
    assert_eq!(
        (permissions.directories, permissions.deny),
        (vec![], vec!["Bash(mkfifo:*)".into()])
    );
    let dropped = log::events("permissions_not_allowed_any_more", &name);
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert_eq!(
        (dropped[0].fields["mode"].as_str(), dropped[0].fields["folders"].as_str()),
        ("acceptEdits", "1")
    );
    bed.stop().await;
}

/// What 2.1.250 sends because of the model that a process began with, whatever becomes of the
/// model later.
const OF_THE_FIRST_MODEL: &str = "fallback-credit-2026-06-01";

/// 2.1.197 goes on with a smaller context when a conversation is taken up and no model is
/// named.
async fn e3_another_process_has_the_same_model(version: Version) {
    let bed = Bed::start(version).await;
    let of_turn = |bed: &Bed, turn: &Turn| {
        let request = bed.last_request(&turn.started().cli_session_id);
        let betas = request.header("anthropic-beta").unwrap_or_default();
        let betas: Vec<String> = betas.split(',').map(str::to_owned).collect();
        (init(turn).model.clone(), request.body["model"].clone(), betas)
    };
    let first = bed.query("a", "one").await;
    let before = of_turn(&bed, &first);
    bed.kill_after(&first).await;
    let second = bed.query("a", "two").await;
    assert_eq!(origin(&second), TurnOrigin::Resumed);
    assert_eq!(of_turn(&bed, &second), before);
    // A model that a prompt chose is a choice, too, where the CLI lets a prompt choose one.
    let chosen = match has_command(&second, "model") {
        true => "claude-opus-4-6".to_owned(),
        false => before.0,
    };
    bed.query("a", "/model claude-opus-4-6").await;
    let third = bed.query("a", "three").await;
    assert_eq!(init(&third).model, chosen);
    assert_eq!(session(&bed, "a").await.options.expect("options").model, Some(chosen));
    let mut before = of_turn(&bed, &third);
    before.2.retain(|beta| beta != OF_THE_FIRST_MODEL);
    bed.kill_after(&third).await;
    assert_eq!(of_turn(&bed, &bed.query("a", "four").await), before);
    bed.stop().await;
}

/// The CLI says a model with the next turn only, and an effort never. Versions that let no
/// prompt choose stay with what they have.
async fn e3_what_a_prompt_chose_outlives_every_process(version: Version) {
    let mut bed = Bed::start(version).await;
    let of_turn = |bed: &Bed, turn: &Turn| {
        let request = bed.last_request(&turn.started().cli_session_id);
        let effort = request.body["output_config"]["effort"].as_str().map(str::to_owned);
        (request.body["model"].clone(), effort)
    };
    let options = SessionOptions { model: Some("opus".into()), ..SessionOptions::default() };
    let first = bed.run(query_with("a", "one", options)).await;
    let (mut model, mut effort) = of_turn(&bed, &first);
    for (number, (name, change)) in CHANGES.into_iter().enumerate() {
        let (other, level) = [("claude-opus-4-6", "low"), ("claude-opus-4-7", "max")][number % 2];
        if has_command(&first, "model") {
            model = other.into();
        }
        if has_command(&first, "effort") {
            effort = Some(level.to_owned());
        }
        bed.query("a", &format!("/model {other}")).await;
        // Nothing is said between the last choice and the change of process.
        let last = bed.query("a", &format!("/effort {level}")).await;
        if name == "killed" {
            bed.kill_now(&last).await;
        } else {
            bed = change(bed, version).await;
        }
        let turn = bed.query("a", name).await;
        assert_eq!(origin(&turn), TurnOrigin::Resumed, "{name}");
        assert_eq!(of_turn(&bed, &turn), (model.clone(), effort.clone()), "{name}");
    }
    // What options say goes before it.
    let options = SessionOptions { effort: Some("medium".into()), ..SessionOptions::default() };
    bed.update("a", options).await.expect("updated");
    let shown = session(&bed, "a").await.options.expect("options");
    assert_eq!(shown.effort.as_deref(), Some("medium"));
    bed.stop().await;
}

async fn e3_updated_options_outlive_every_process(version: Version) {
    let mut bed = Bed::start(version).await;
    bed.query("a", "one").await;
    let options = SessionOptions {
        model: Some("claude-sonnet-4-5".into()),
        max_thinking_tokens: Some(4321),
        ..mode("acceptEdits")
    };
    let updated = bed.update("a", options.clone()).await.expect("updated");
    assert_eq!(updated.session.and_then(|session| session.options), Some(options.clone()));
    for (name, change) in CHANGES {
        bed = change(bed, version).await;
        let turn = bed.query("a", name).await;
        assert_eq!(init(&turn).permission_mode, "acceptEdits", "{name}");
        let request = bed.last_request(&turn.started().cli_session_id);
        assert_eq!(request.body["model"], "claude-sonnet-4-5", "{name}");
        assert_eq!(request.body["thinking"]["budget_tokens"], 4321, "{name}");
        assert_eq!(session(&bed, "a").await.options.as_ref(), Some(&options), "{name}");
    }
    bed.stop().await;
}

async fn e3_a_copy_has_the_rules_of_its_original(version: Version) {
    let bed = Bed::start(version).await;
    grant_all(&bed).await;
    let original = bed.query("a", "one").await;
    let options = SessionOptions {
        resume: Some(original.started().cli_session_id.clone()),
        fork_session: Some(true),
        ..SessionOptions::default()
    };
    let copy = all_holds(&bed, query_with("b", "", options), "copied").await;
    assert_ne!(copy.started().cli_session_id, original.started().cli_session_id);
    assert_eq!(session(&bed, "b").await.permissions, session(&bed, "a").await.permissions);
    bed.stop().await;
}

async fn e3_a_new_conversation_has_no_rules(version: Version) {
    let bed = Bed::start(version).await;
    grant_all(&bed).await;
    let request = QueryRequest { new_conversation: true, ..query("a", "[[write new.txt x]]") };
    let (turn, asked) = answered(&bed, request, vec![deny()]).await;
    assert_eq!((init(&turn).permission_mode.as_str(), asked), ("plan", vec!["Write".into()]));
    assert_eq!(session(&bed, "a").await.permissions, Some(Default::default()));
    bed.stop().await;
}
