//! The algebra of options: what differs, what is updated, what is taken away.

use std::time::Duration;

use proptest::prelude::*;

use crate::domain::options::*;

#[test]
fn options_that_are_not_said_stay_as_they_are() {
    let current =
        Options { model: Some("sonnet".into()), tools: vec!["Bash".into()], ..Options::default() };
    assert_eq!(current.difference(&Options::default()), Difference::default());
    assert_eq!(current.updated(&Options::default()), current);
}

#[test]
fn a_running_process_takes_on_model_mode_thinking_and_effort_only() {
    let wanted = Options {
        model: Some("opus".into()),
        permission_mode: Some("plan".into()),
        max_thinking_tokens: Some(0),
        effort: Some("low".into()),
        system_prompt: Some("Be brief.".into()),
        allowed_tools: vec!["Bash".into()],
        ..Options::default()
    };
    let difference = Options::default().difference(&wanted);
    let live: Vec<_> = difference.live.iter().map(LiveChange::option).collect();
    assert_eq!(live, ["model", "permission_mode", "max_thinking_tokens", "effort"]);
    assert_eq!(difference.fixed, ["system_prompt", "allowed_tools"]);
    assert_eq!(Options::default().updated(&wanted), wanted);
    assert_eq!(wanted.difference(&wanted), Difference::default());
}

#[test]
fn what_is_fixed_at_the_start_of_a_process_differs_by_name_and_never_by_value() {
    let env = |value: &str| Redacted([("A".to_owned(), value.to_owned())].into());
    let hidden = |text: &str| Some(Redacted(text.to_owned()));
    let wanted = Options {
        cwd: Some("/w".into()),
        add_dirs: vec!["/d".into()],
        mcp_servers: hidden("{\"secret\":1}"),
        agents: Some("{}".into()),
        settings: hidden("{\"secret\":2}"),
        env: env("secret"),
        ..Options::default()
    };
    let names = ["cwd", "add_dirs", "mcp_servers", "agents", "settings", "env"];
    assert_eq!(Options::default().difference(&wanted).fixed, names);
    assert_eq!(Options::default().updated(&wanted), wanted);
    assert_eq!(wanted.updated(&Options::default()), wanted);
    assert_eq!(wanted.difference(&Options::default()), Difference::default());
    let other = Options { env: env("other"), ..Options::default() };
    assert_eq!(wanted.difference(&other).fixed, ["env"]);
    assert!(!format!("{wanted:?}").contains("secret"), "{wanted:?}");
}

/// Options by the choice that each has, in the contract's order: 0 says nothing, others are
/// different values.
fn chosen(choices: &[u8]) -> Options {
    let mut choices = choices.iter().copied();
    let mut next = || choices.next().filter(|choice| *choice > 0);
    fn text(choice: Option<u8>) -> Option<String> {
        choice.map(|choice| choice.to_string())
    }
    let list = |choice| text(choice).into_iter().collect();
    let hook = |choice: u8| Hook {
        event: "Stop".into(),
        matcher: String::new(),
        timeout: Duration::from_secs(choice.into()),
    };
    Options {
        model: text(next()),
        fallback_model: text(next()),
        system_prompt: text(next()),
        append_system_prompt: text(next()),
        permission_mode: text(next()),
        allowed_tools: list(next()),
        disallowed_tools: list(next()),
        tools: list(next()),
        max_turns: next().map(u32::from),
        max_budget_usd: next().map(f64::from),
        max_thinking_tokens: next().map(u32::from),
        effort: text(next()),
        cwd: text(next()),
        add_dirs: list(next()),
        mcp_servers: text(next()).map(Redacted),
        agents: text(next()),
        json_schema: text(next()),
        settings: text(next()).map(Redacted),
        setting_sources: list(next()),
        env: Redacted(
            next().map(|choice| ("A".to_owned(), choice.to_string())).into_iter().collect(),
        ),
        betas: list(next()),
        tool_servers: list(next()),
        hooks: next().map(hook).into_iter().collect(),
        reset: BTreeSet::new(),
    }
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..3, Options::names().count())
}

/// What may be wanted: some options are set, others are reset.
fn wanted() -> impl Strategy<Value = Options> {
    let reset = prop::collection::vec(any::<bool>(), Options::names().count());
    (choices(), reset).prop_map(|(choices, reset)| {
        let set = chosen(&choices);
        let names = Options::names().zip(reset);
        let reset = names.filter(|(name, reset)| *reset && !set.says(name)).map(|(name, _)| name);
        Options { reset: reset.collect(), ..set }
    })
}

/// The names of the options that are not the same in both, in order.
fn unlike(one: &Options, other: &Options) -> BTreeSet<String> {
    let json = |options| serde_json::to_value(options).expect("JSON");
    let (one, other) = (json(one), json(other));
    let names = one.as_object().expect("an object").keys();
    names.filter(|name| one[*name] != other[*name]).cloned().collect()
}

#[test]
fn d6_every_option_has_a_name_and_can_be_reset_by_it() {
    let all = chosen(&vec![1; Options::names().count()]);
    let json = serde_json::to_value(&all).expect("JSON");
    let fields: BTreeSet<_> = json.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(fields, Options::names().map(str::to_owned).collect());
    assert_eq!(all.difference(&Options::default()), Difference::default());
    for name in Options::names() {
        assert_eq!(Options::named(name), Some(name));
        assert!(all.says(name) && !Options::default().says(name), "{name}");
        let wanted = Options { reset: [name].into(), ..Options::default() };
        assert_eq!(all.difference(&wanted), Difference { live: vec![], fixed: vec![name] });
        assert_eq!(unlike(&all, &all.updated(&wanted)), [name.to_owned()].into());
        assert_eq!(Options::default().difference(&wanted), Difference::default());
    }
    let wanted = Options { reset: Options::names().collect(), ..Options::default() };
    assert_eq!(all.updated(&wanted), Options::default());
    for name in ["", "resume", "fork_session", "include_partial_messages", "reset", "Model"] {
        assert_eq!(Options::named(name), None);
    }
}

proptest! {
    /// What is wanted holds after an update, says what it changed, and is kept by nobody.
    #[test]
    fn d6_an_update_changes_what_differs_and_nothing_else(
        current in choices().prop_map(|choices| chosen(&choices)),
        wanted in wanted(),
    ) {
        let updated = current.updated(&wanted);
        let Difference { live, fixed } = current.difference(&wanted);
        let named = live.iter().map(LiveChange::option).chain(fixed.iter().copied());
        let named: BTreeSet<_> = named.map(str::to_owned).collect();
        prop_assert_eq!(named, unlike(&current, &updated));
        prop_assert_eq!(updated.difference(&wanted), Difference::default());
        prop_assert_eq!(updated.updated(&wanted), updated.clone());
        for name in Options::names() {
            prop_assert!(!wanted.resets(name) || !updated.says(name), "{} is still there", name);
            prop_assert!(!wanted.resets(name) || live.iter().all(|change| change.option() != name));
        }
        prop_assert!(updated.reset.is_empty());
    }
}
