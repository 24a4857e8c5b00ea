//! `session-pool` as a person uses it: in a real terminal (by `script`, of util-linux), in
//! a pipe, and beside grpcurl.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use session_pool::{
    internals::domain::options::Options,
    proto::{PromptAllow, RespondRequest, respond_request::Decision, turn_event::Kind},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use crate::support::{
    eventually,
    service::{Service, query, script},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-pool");
const LIMIT: Duration = crate::support::PATIENCE;
const CTRL_C: &str = "\u{3}";

/// A command in a terminal of its own.
pub struct Screen {
    child: Child,
    shown: String,
}

impl Screen {
    pub fn open(service: &Service, words: &[&str], env: &[(&str, &str)]) -> Self {
        let quoted = |word: &&str| format!("'{}'", word.replace('\'', r"'\''"));
        let line: Vec<String> = [&[PROGRAM], words].concat().iter().map(quoted).collect();
        let mut command = Command::new("script");
        command
            .args([
                "--quiet",
                "--return",
                "--flush",
                "--echo=never",
                "--command",
                // A shell that stayed in between would die of Ctrl-C itself, as dash does,
                // and hide how the program ended.
                &format!("exec {}", line.join(" ")),
                "/dev/null",
            ])
            .env("SESSION_POOL_ADDRESS", &service.address)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        Self { child: command.spawn().expect("script, of util-linux"), shown: String::new() }
    }

    pub async fn until(&mut self, wanted: &str) {
        let found = timeout(LIMIT, async {
            while !self.shown.contains(wanted) {
                let mut bytes = [0; 4096];
                let stdout = self.child.stdout.as_mut().expect("a pipe");
                let count = stdout.read(&mut bytes).await.expect("read");
                assert!(count > 0, "it ended without {wanted:?}: {}", self.shown);
                self.shown += &String::from_utf8_lossy(&bytes[..count]);
            }
        });
        assert!(found.await.is_ok(), "no {wanted:?}: {}", self.shown);
    }

    pub async fn type_in(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(keys.as_bytes()).await.expect("typed");
        stdin.flush().await.expect("typed");
    }

    /// Everything that it showed, and its exit code.
    pub async fn end(mut self) -> (String, Option<i32>) {
        let mut rest = Vec::new();
        let stdout = self.child.stdout.as_mut().expect("a pipe");
        let read = timeout(LIMIT, stdout.read_to_end(&mut rest)).await;
        read.expect("it ends").expect("read");
        let status = timeout(LIMIT, self.child.wait()).await.expect("it ends").expect("waited for");
        (self.shown + &String::from_utf8_lossy(&rest), status.code())
    }
}

/// A command without a terminal.
pub async fn run(service: &Service, words: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(words)
        .env("SESSION_POOL_ADDRESS", &service.address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(stdin.as_bytes()).await.expect("written");
    drop(input);
    timeout(LIMIT, child.wait_with_output()).await.expect("it ends").expect("waited for")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const ASK: &str = r#"ask Bash {"command":"make"}"#;

#[tokio::test]
async fn f2_a_person_answers_prompts_with_a_key_and_enter() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&[ASK, "say all done"]);
    for (key, exits) in [("y", Some(0)), ("n", Some(0)), ("a", Some(0))] {
        let mut screen = Screen::open(&service, &["query", &prompt], &[]);
        screen.until("[a]lways").await;
        // What is no answer is asked again.
        screen.type_in("what?\n").await;
        screen.until("[y]es, [n]o or [a]lways?").await;
        screen.type_in(&format!("{key}\n")).await;
        let (shown, code) = screen.end().await;
        assert_eq!(code, exits, "{key}: {shown}");
        assert!(shown.contains("Bash {\"command\":\"make\"}"), "{shown}");
        assert_eq!(shown.contains('✗'), key == "n", "{key}: {shown}");
        assert!(shown.contains("all done"), "{shown}");
    }
    service.stop().await;
}

const QUESTIONS: &str = r#"ask AskUserQuestion {"questions":[{"question":"Which colour?","options":[{"label":"Red"},{"label":"Blue"}]},{"question":"Who asks?","options":[]}]}"#;

#[tokio::test]
async fn a_person_answers_the_model_s_questions_by_number_and_in_words() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&[QUESTIONS, "say all done"]);
    let mut screen = Screen::open(&service, &["query", &prompt], &[]);
    screen.until("2. Blue").await;
    screen.until("or your own words: ").await;
    // A choice that is not there is no answer.
    screen.type_in("3\n").await;
    screen.until("? Which colour?").await;
    screen.type_in("2\n").await;
    screen.until("Your answer: ").await;
    screen.type_in("Ada\n").await;
    let (shown, code) = screen.end().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("all done"), "{shown}");

    let mut turn = service.open(query("q", &prompt)).await.expect("runs");
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(asked)) = event.kind else { panic!("{event:?}") };
    let id = asked.prompt_id.as_str();
    let one = ["respond", "q", id, "--answer", "Which colour?=Blue"];
    let refused = run(&service, &one, "").await;
    let told = text(&refused.stderr);
    assert!(!refused.status.success() && told.contains("Who asks?"), "{told}");
    let both = [&one[..], &["--answer", "Who asks?=Ada = I"]].concat();
    let output = run(&service, &both, "").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    turn.finish().await;
    service.stop().await;
}

#[tokio::test]
async fn f2_without_a_terminal_a_hint_says_how_to_answer_and_respond_does() {
    let service = Service::start(|_| {}).await;
    for (answer, allowed) in [("yes", true), ("n", false), ("always", true)] {
        let mut turn =
            service.open(query("demo", &script(&[ASK, "say done"]))).await.expect("runs");
        let address = &service.address;
        let mut watcher = Command::new(PROGRAM)
            .args(["attach", "demo", "--address", address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program");
        let mut stderr = watcher.stderr.take().expect("a pipe");
        let mut told = String::new();
        while !told.contains("yes|no|always") {
            let mut bytes = [0; 1024];
            let count =
                timeout(LIMIT, stderr.read(&mut bytes)).await.expect("in time").expect("read");
            assert!(count > 0, "{told}");
            told += &text(&bytes[..count]);
        }
        let command = told.split_once("session-pool ").expect("a command").1.trim();
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(words[..2], ["respond", "demo"], "{told}");
        let output = run(&service, &["respond", "demo", words[2], answer], "").await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        turn.finish().await;
        let refused = format!("{:?}", turn.events).contains("is_error: true");
        assert_eq!(refused, !allowed, "{answer}");
        let again = run(&service, &["respond", "demo", words[2], "yes"], "").await;
        assert_eq!(again.status.code(), Some(3), "{}", text(&again.stderr));
        watcher.wait().await.expect("waited for");
    }
    service.stop().await;
}

#[tokio::test]
async fn f2_f6_ctrl_c_says_that_the_turn_was_interrupted() {
    let service = Service::start(|_| {}).await;
    let mut screen =
        Screen::open(&service, &["query", "--session", "s", &script(&["say begun", "hang"])], &[]);
    screen.until("begun").await;
    screen.type_in(CTRL_C).await;
    let (shown, code) = screen.end().await;
    assert_eq!(code, Some(6), "{shown}");
    let last = shown.lines().last().expect("a line").trim();
    assert_eq!(last, "interrupted: the turn of session s was interrupted", "{shown}");
    assert!(shown.ends_with('\n'), "{shown:?}");
    eventually("the turn has ended", async || {
        service.session("s").await.expect("there").running_turn_id.is_empty().then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn f2_a_terminal_has_pieces_and_colours_unless_no_color_is_set() {
    let service = Service::start(|_| {}).await;
    let prompt =
        script(&["partial 3 10", r#"tool t1 Bash {"command":"make"}"#, "tool-result t1 ok"]);
    let (coloured, _) = Screen::open(&service, &["query", &prompt], &[]).end().await;
    assert!(coloured.contains("\u{1b}[36m→ Bash"), "{coloured:?}");
    let (plain, _) = Screen::open(&service, &["query", &prompt], &[("NO_COLOR", "1")]).end().await;
    assert!(plain.contains("→ Bash") && !plain.contains('\u{1b}'), "{plain:?}");
    let piped = run(&service, &["query", &prompt], "").await;
    assert!(!text(&piped.stdout).contains('\u{1b}') && !text(&piped.stderr).contains('\u{1b}'));
    let mut screen = Screen::open(&service, &["query", &script(&["partial 3 10", "hang"])], &[]);
    screen.until("lorem").await;
    screen.type_in(CTRL_C).await;
    screen.end().await;
    service.stop().await;
}

#[tokio::test]
async fn f6_a_prompt_is_read_from_a_pipe() {
    let service = Service::start(|_| {}).await;
    for words in [&["query", "--session", "p"][..], &["query", "--session", "p", "-"]] {
        let output = run(&service, words, "hi\n").await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("hi"), "{}", text(&output.stdout));
    }
    let (shown, code) = Screen::open(&service, &["query"], &[]).end().await;
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("no prompt: give it as an argument, or pipe it to stdin"), "{shown}");
    service.stop().await;
}

#[tokio::test]
async fn f6_an_api_error_is_told_once() {
    let service = Service::start(|_| {}).await;
    let output = run(&service, &["query", &script(&["error API Error: 500 odd"])], "").await;
    assert_eq!(output.status.code(), Some(1));
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(all.matches("API Error: 500 odd").count(), 1, "{all}");
    service.stop().await;
}

#[tokio::test]
async fn f2_sessions_are_shown_and_changed() {
    let service = Service::start(|_| {}).await;
    service.query("s", "hello").await.result();
    let shown = run(&service, &["show", "s"], "").await;
    let shown = text(&shown.stdout);
    for line in ["session        s", "status         active", "prompts sent   1"] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    let changed = run(&service, &["update", "s", "--model", "opus"], "").await;
    assert_eq!(text(&changed.stdout), "s: changed model\n", "{}", text(&changed.stderr));
    let json = run(&service, &["show", "s", "--json"], "").await;
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["session"]["options"]["model"], "opus");
    let missing = run(&service, &["show", "nobody"], "").await;
    assert_eq!(missing.status.code(), Some(3));
    service.stop().await;
}

#[tokio::test]
async fn a_session_shows_what_it_asks_and_what_it_was_granted() {
    let service = Service::start(|_| {}).await;
    let mut turn = service.open(query("s", &script(&[ASK, "say done"]))).await.expect("runs");
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { panic!("{event:?}") };
    let open = service.session("s").await.expect("there").open_prompts;
    assert_eq!(open.len(), 1);
    assert_eq!((&open[0].prompt_id, &open[0].tool_name), (&prompt.prompt_id, &prompt.tool_name));
    assert_eq!(open[0].input_excerpt, r#"{"command":"make"}"#);
    let shown = text(&run(&service, &["show", "s"], "").await.stdout);
    let answer = format!("session-pool respond s {} yes|no|always", prompt.prompt_id);
    assert!(shown.contains(&answer) && shown.contains(r#"? Bash {"command":"make"}"#), "{shown}");

    let rules = r#"[{"type":"addRules","rules":[{"toolName":"Bash","ruleContent":"make:*"}],"behavior":"allow","destination":"session"}]"#;
    let allow = PromptAllow { updated_permissions_json: rules.into(), ..PromptAllow::default() };
    let request = RespondRequest {
        session_id: "s".into(),
        prompt_id: prompt.prompt_id,
        decision: Some(Decision::Allow(allow)),
    };
    service.client.clone().respond(request).await.expect("answered");
    assert_eq!(service.session("s").await.expect("there").open_prompts, []);
    turn.finish().await;
    let shown = text(&run(&service, &["show", "s"], "").await.stdout);
    assert!(shown.contains("allowed        Bash(make:*)\n"), "{shown}");
    assert!(!shown.contains("session-pool respond"), "{shown}");
    // A prompt ends with its turn.
    let mut turn = service.open(query("t", &script(&[ASK, "say done"]))).await.expect("runs");
    turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    assert_eq!(service.session("t").await.expect("there").open_prompts.len(), 1);
    service.interrupt("t", true).await;
    turn.finish().await;
    assert_eq!(service.session("t").await.expect("there").open_prompts, []);
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_served_says_why() {
    let service = Service::start(|config| config.pool.enabled = false).await;
    eventually("the CLI has said its version", async || {
        (!service.stats().await.cli_version.is_empty()).then_some(())
    })
    .await;
    let shown = run(&service, &["health"], "").await;
    assert_eq!(shown.status.code(), Some(4));
    let shown = text(&shown.stdout);
    let last = shown.lines().last().expect("a line");
    let mut words = last.splitn(2, "  ");
    assert_eq!(words.next(), Some("not ready"), "{shown}");
    assert_eq!(words.next().map(str::trim), Some("pool: pool.enabled is false"), "{shown}");
    let json = text(&run(&service, &["health", "--json"], "").await.stdout);
    let lines: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["not_ready_reasons"][0], "pool: pool.enabled is false");
    assert_eq!(lines[2]["service"], "liveness");
    assert!(lines[2].get("not_ready_reasons").is_none(), "{json}");
    service.stop().await;
}

#[tokio::test]
async fn only_turns_that_ran_count_as_interrupted() {
    let service = Service::start(|_| {}).await;
    service.query("idle", "hello").await.result();
    let mut turn =
        service.open(query("busy", &script(&["say begun", "hang"]))).await.expect("runs");
    turn.until_text("begun").await;
    let shown = text(&run(&service, &["interrupt-all"], "").await.stdout);
    let last = shown.lines().last().expect("a line");
    assert_eq!(last, "1 turn interrupted, 1 session had no turn", "{shown}");
    turn.finish().await;
    service.stop().await;
}

#[tokio::test]
async fn d6_options_are_reset_by_the_names_that_the_contract_has() {
    let service = Service::start(|_| {}).await;
    service.query("s", "hello").await.result();
    let words = ["update", "s", "--reset", "max_turns", "--reset=max_budget_usd"];
    let nothing = run(&service, &words, "").await;
    assert_eq!(text(&nothing.stdout), "s: nothing to change\n", "{}", text(&nothing.stderr));
    let words = ["query", "--max-budget-usd=9", "--session=t", "hello"];
    assert_eq!(run(&service, &words, "").await.status.code(), Some(0));
    let changed = run(&service, &["update", "t", "--reset", "max_budget_usd"], "").await;
    assert_eq!(text(&changed.stdout), "t: changed max_budget_usd\n", "{}", text(&changed.stderr));

    let unknown = run(&service, &["update", "s", "--reset", "resume"], "").await;
    assert_eq!(unknown.status.code(), Some(2));
    let said = text(&unknown.stderr);
    let names: Vec<_> = Options::names().collect();
    assert!(said.contains(&names.join(", ")), "{names:?} are not in {said}");
    service.stop().await;
}

#[tokio::test]
async fn f2_json_is_what_grpcurl_prints() {
    let service = Service::start(|_| {}).await;
    let turn = run(&service, &["query", "--session", "j", "--json", "hello"], "").await;
    let events: Vec<Value> = text(&turn.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(events[0]["event"]["started"]["origin"], "TURN_ORIGIN_CREATED");
    assert_eq!(events.last().expect("one")["event"]["result"]["subtype"], "success");
    let tools = std::env::var_os("SESSION_POOL_TOOLS").map_or("target/tools".into(), PathBuf::from);
    let grpcurl = tools.join("bin/grpcurl");
    assert!(grpcurl.exists(), "no grpcurl; .ci/tools installs it");
    let address = service.address.trim_start_matches("http://");
    for (words, method, data) in [
        (&["show", "j", "--json"][..], "GetSession", r#"{"session_id":"j"}"#),
        (&["sessions", "--json"], "ListSessions", "{}"),
        (&["stats", "--json"], "GetStats", "{}"),
        (&["interrupt", "nobody", "--json"], "Interrupt", r#"{"session_id":"nobody"}"#),
        (
            &["interrupt", "j", "--turn", "over", "--json"],
            "Interrupt",
            r#"{"session_id":"j","turn_id":"over"}"#,
        ),
    ] {
        let ours = run(&service, words, "").await;
        let ours: Value = serde_json::from_slice(&ours.stdout).expect("JSON");
        let method = format!("sessionpool.v1.SessionPoolService/{method}");
        let theirs = Command::new(&grpcurl)
            .args(["-plaintext", "-d", data, address, &method])
            .output()
            .await
            .expect("grpcurl");
        let theirs: Value = serde_json::from_slice(&theirs.stdout)
            .unwrap_or_else(|_| panic!("{}", text(&theirs.stderr)));
        assert_eq!(shape(&ours), shape(&theirs), "{method}");
    }
    service.stop().await;
}

/// Names and kinds of values, without those that change by themselves.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
        }
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        other => other.clone(),
    }
}
