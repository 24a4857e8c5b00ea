//! Rules of the operator hold in the real CLI, whatever callers and agents say: by what a tool
//! did on disk.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json as value;
use session_pool::{
    config::{Config, RuleConfig, RuleDecision},
    internals::cli::versions,
    proto::{
        PromptAllow, PromptDeny, PromptEvent, QueryRequest, SessionOptions, SessionStatus,
        TurnOrigin, respond_request::Decision, turn_event::Kind,
    },
};

use crate::{
    bed::{Bed, Version, each_version, init, origin, tool_results},
    support::{
        eventually,
        service::{query, query_with},
        turn::Turn,
    },
};

each_version!(pinned:
    a_rule_says_what_runs_is_refused_and_is_asked_about,
    ; newest:
    a_rule_is_of_its_tenant_and_holds_on_a_spare,
    neither_an_answer_nor_another_process_loosens_a_rule,
    neither_settings_nor_an_agents_files_loosen_a_rule,
);

/// A call that no version runs without asking, for each decision.
const ALLOWED: &str = "[[bash mkfifo allowed]]";
const DENIED: &str = "[[bash ln -s anywhere denied]]";
const ASKED: &str = "[[bash mknod asked p]]";

fn rule(decision: RuleDecision, rule: &str) -> RuleConfig {
    RuleConfig { decision, rule: rule.into(), tenant: String::new() }
}

fn with_rules(config: &mut Config) {
    config.policy.rule = vec![
        rule(RuleDecision::Allow, "Bash(mkfifo:*)"),
        // Refused all the same.
        rule(RuleDecision::Allow, "Bash(ln:*)"),
        rule(RuleDecision::Deny, "Bash(ln:*)"),
        rule(RuleDecision::Ask, "Bash(mknod:*)"),
    ];
    // What is given to a process depends on its version.
    config.cli.start_check = true;
}

/// A bed whose service knows the version.
async fn with(version: Version, change: impl FnOnce(&mut Config)) -> Bed {
    let bed = Bed::with(version, |config| {
        with_rules(config);
        change(config);
    })
    .await;
    let known = async || (!bed.service.stats().await.cli_version.is_empty()).then_some(());
    eventually("the version is known", known).await;
    bed
}

/// All that a caller may allow itself.
fn everything() -> SessionOptions {
    let allowed_tools = ["Bash", "Bash(ln:*)", "Bash(mknod:*)"].map(str::to_owned).to_vec();
    SessionOptions { allowed_tools, ..SessionOptions::default() }
}

fn allow(updates: &serde_json::Value) -> Decision {
    let updated_permissions_json = match updates.is_null() {
        true => String::new(),
        false => updates.to_string(),
    };
    Decision::Allow(PromptAllow { updated_permissions_json, ..PromptAllow::default() })
}

fn deny() -> Decision {
    Decision::Deny(PromptDeny { message: "not now".into(), interrupt: false })
}

/// Runs a turn, answers all that it asks with this, and tells how often it has asked.
async fn run(bed: &Bed, request: QueryRequest, answer: &Decision) -> (Turn, usize) {
    let (session, mut asked) = (request.session_id.clone(), 0);
    let mut turn = bed.open(request).await;
    while let Some(event) = turn.next().await {
        if let Some(Kind::Prompt(PromptEvent { prompt_id, .. })) = event.kind {
            asked += 1;
            bed.respond(&session, &prompt_id, answer.clone()).await.expect("it waits");
        }
    }
    assert!(!turn.result().is_error, "{:?}", turn.result());
    (turn, asked)
}

/// Whether what the turn was to make is there; gone after this.
fn made(turn: &Turn, name: &str) -> bool {
    fs::remove_file(PathBuf::from(&init(turn).cwd).join(name)).is_ok()
}

/// All three rules hold in a session, once each: what is allowed runs and what is refused does
/// not, without a question; what is asked about is what the answer says.
async fn all_hold(bed: &Bed, request: impl Fn(&str) -> QueryRequest) {
    let (turn, asked) = run(bed, request(ALLOWED), &deny()).await;
    assert_eq!((made(&turn, "allowed"), asked), (true, 0), "{:?}", tool_results(&turn));
    let (turn, asked) = run(bed, request(DENIED), &allow(&value!(null))).await;
    assert_eq!((made(&turn, "denied"), asked), (false, 0), "{:?}", tool_results(&turn));
    let told = tool_results(&turn).join(" ");
    assert!(told.contains("denied"), "{told}");
    let (turn, asked) = run(bed, request(ASKED), &deny()).await;
    assert_eq!((made(&turn, "asked"), asked), (false, 1), "{:?}", tool_results(&turn));
    let (turn, asked) = run(bed, request(ASKED), &allow(&value!(null))).await;
    assert_eq!((made(&turn, "asked"), asked), (true, 1), "{:?}", tool_results(&turn));
}

async fn a_rule_says_what_runs_is_refused_and_is_asked_about(version: Version) {
    let bed = with(version, |_| {}).await;
    all_hold(&bed, |prompt| query("plain", prompt)).await;
    all_hold(&bed, |prompt| query_with("opened", prompt, everything())).await;
    let edits = SessionOptions { permission_mode: Some("acceptEdits".into()), ..everything() };
    all_hold(&bed, |prompt| query_with("edits", prompt, edits.clone())).await;
    bed.stop().await;
}

async fn neither_an_answer_nor_another_process_loosens_a_rule(version: Version) {
    let bed = with(version, |config| {
        config.pool.hibernate_after = Duration::from_millis(100);
    })
    .await;
    let of = |update: &str, behavior: &str| {
        let rules = [("Bash", Some("ln:*")), ("Bash", Some("mknod:*")), ("Bash", None)];
        let rules = rules.map(|(tool, content)| match content {
            Some(content) => value!({"toolName": tool, "ruleContent": content}),
            None => value!({"toolName": tool}),
        });
        value!({"type": update, "behavior": behavior, "destination": "session", "rules": rules})
    };
    let grants = value!([
        of("addRules", "allow"),
        of("removeRules", "deny"),
        of("removeRules", "ask"),
        of("replaceRules", "allow"),
    ]);
    let (turn, asked) = run(&bed, query("a", ASKED), &allow(&grants)).await;
    assert_eq!((made(&turn, "asked"), asked), (true, 1));
    all_hold(&bed, |prompt| query("a", prompt)).await;
    eventually("hibernation", async || {
        let session = bed.service.session("a").await.expect("there");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
    let (turn, _) = run(&bed, query("a", "hello"), &deny()).await;
    assert_eq!(origin(&turn), TurnOrigin::Resumed);
    all_hold(&bed, |prompt| query("a", prompt)).await;
    bed.stop().await;
}

async fn neither_settings_nor_an_agents_files_loosen_a_rule(version: Version) {
    let bed = with(version, |config| {
        config.policy.settings = true;
        config.policy.setting_sources = vec!["project".into()];
    })
    .await;
    let loose = value!({
        "permissions": {"allow": ["Bash", "Bash(ln:*)", "Bash(mknod:*)"], "deny": [], "ask": []},
        "hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command":
            "echo '{\"hookSpecificOutput\": {\"hookEventName\": \"PreToolUse\", \
             \"permissionDecision\": \"allow\"}}'"}]}]},
    });
    // What an agent writes in its folder is read by the next process, if the policy lets it.
    let options = SessionOptions { setting_sources: vec!["project".into()], ..everything() };
    let first = bed.run(query_with("files", "hello", options.clone())).await;
    let folder = PathBuf::from(&init(&first).cwd).join(".claude");
    fs::create_dir_all(&folder).expect("made");
    for name in ["settings.json", "settings.local.json"] {
        fs::write(folder.join(name), loose.to_string()).expect("written");
    }
    bed.kill_after(&first).await;
    all_hold(&bed, |prompt| query("files", prompt)).await;

    // Settings of which the CLI takes nothing at all take nothing of ours along.
    let mut broken = loose.clone();
    broken["env"] = value!(7);
    for (session, settings) in [("loose", loose), ("broken", broken)] {
        let options = SessionOptions { settings: Some(settings.to_string()), ..everything() };
        let ask = |prompt: &str| query_with(session, prompt, options.clone());
        let is_managed = versions::Version::find(version.as_str()).expect("a version");
        if is_managed.takes_managed_settings() {
            all_hold(&bed, ask).await;
            continue;
        }
        // There a question could be taken away: it is a refusal.
        let (turn, asked) = run(&bed, ask(ASKED), &allow(&value!(null))).await;
        assert_eq!((made(&turn, "asked"), asked), (false, 0), "{:?}", tool_results(&turn));
        let (turn, asked) = run(&bed, ask(DENIED), &allow(&value!(null))).await;
        assert_eq!((made(&turn, "denied"), asked), (false, 0), "{:?}", tool_results(&turn));
    }
    bed.stop().await;
}

async fn a_rule_is_of_its_tenant_and_holds_on_a_spare(version: Version) {
    let bed = with(version, |config| {
        config.pool.spares = 1;
        // Everybody is the tenant `default` here.
        for rule in &mut config.policy.rule {
            rule.tenant = "default".into();
        }
        config.policy.rule.push(RuleConfig {
            tenant: "another".into(),
            ..rule(RuleDecision::Deny, "Bash(mkfifo:*)")
        });
        config.policy.rule.push(RuleConfig {
            tenant: "another".into(),
            ..rule(RuleDecision::Allow, "Bash(mkdir:*)")
        });
    })
    .await;
    eventually("a spare", async || (bed.service.stats().await.spares == 1).then_some(())).await;
    let (turn, _) = run(&bed, query("a", "hello"), &deny()).await;
    assert_eq!(origin(&turn), TurnOrigin::CreatedFromSpare);
    all_hold(&bed, |prompt| query("a", prompt)).await;
    let (_, asked) = run(&bed, query("a", "[[bash mkdir theirs]]"), &deny()).await;
    assert_eq!(asked, 1, "the rule that allows it is of another tenant");
    bed.stop().await;
}
