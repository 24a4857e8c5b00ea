use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn update(value: Value) -> Result<Update, Malformed> {
    let mut update = json!({"destination": "session"});
    let (into, from) = (update.as_object_mut(), value.as_object());
    into.expect("an object").extend(from.expect("an object").clone());
    Update::read(&update)
}

#[test]
fn e3_rules_are_written_as_the_cli_writes_them() {
    let rules = json!([
        {"toolName": "Write"},
        {"toolName": "Bash", "ruleContent": "git log:*"},
        {"toolName": "Bash", "ruleContent": "echo (a) \\ b"},
    ]);
    let read = update(json!({"type": "addRules", "behavior": "deny", "rules": rules}));
    let texts = ["Write", "Bash(git log:*)", "Bash(echo \\(a\\) \\\\ b)"].map(str::to_owned);
    assert_eq!(read, Ok(Update::Rules(Change::Add, Behavior::Deny, texts.into())));
}

#[test]
fn e3_an_update_that_the_cli_would_leave_out_is_refused_by_its_key() {
    let rule = |rule: Value| json!({"type": "addRules", "behavior": "deny", "rules": [rule]});
    let many = vec![json!({"toolName": "A"}); MOST_RULES + 1];
    for (at, value) in [
        ("destination", json!({"type": "setMode", "mode": "plan", "destination": null})),
        ("destination", json!({"type": "setMode", "mode": "plan", "destination": "cliArg"})),
        ("type", json!({"type": "runCommand"})),
        ("mode", json!({"type": "setMode"})),
        ("behavior", json!({"type": "addRules", "behavior": "never", "rules": []})),
        ("rules", json!({"type": "replaceRules", "behavior": "ask"})),
        ("rules", rule(json!("Write"))),
        ("rules", rule(json!({"toolName": ""}))),
        ("rules", rule(json!({"toolName": "Write", "ruleContent": null}))),
        ("rules", rule(json!({"toolName": "Write", "ruleContent": ""}))),
        ("rules", rule(json!({"toolName": "Write", "ruleContent": "a\nb"}))),
        ("rules", rule(json!({"toolName": "x".repeat(LONGEST_RULE + 1)}))),
        ("rules", json!({"type": "removeRules", "behavior": "allow", "rules": many})),
        ("directories", json!({"type": "addDirectories", "directories": "/a"})),
        ("directories", json!({"type": "removeDirectories", "directories": [1]})),
        ("directories", json!({"type": "addDirectories", "directories": vec!["/a"; 33]})),
    ] {
        assert_eq!(update(value.clone()).map_err(|bad| bad.at), Err(at), "{value}");
    }
}

#[test]
fn e3_a_refusal_grants_nothing() {
    let answer = |behavior: &str| {
        let update = json!({"type": "setMode", "mode": "plan", "destination": "session"});
        json!({"updatedPermissions": [update], "behavior": behavior}).to_string()
    };
    assert_eq!(Update::read_answer(&answer("allow")), [Update::Mode("plan".into())]);
    assert_eq!(Update::read_answer(&answer("deny")), []);
}

#[test]
fn e3_a_session_takes_no_more_than_it_can_keep() {
    let granted = |count: usize, length: usize| {
        let rule = |number| format!("{number:0length$}");
        Grants { deny: (0..count).map(rule).collect(), ..Grants::default() }
    };
    assert!(granted(MOST_RULES, 100).fit());
    assert!(!granted(MOST_RULES + 1, 100).fit());
    assert!(!granted(MOST_RULES, LONGEST_RULE).fit());
    let folders = (0..=MOST_FOLDERS).map(|number| number.to_string()).collect();
    assert!(!Grants { folders, ..Grants::default() }.fit());
}

#[test]
fn e3_what_allows_a_whole_tool_goes_in_either_form_and_what_forbids_it_in_its_own() {
    for (added, removed) in [("Bash(*)", "Bash"), ("Bash", "Bash(*)")] {
        for (behavior, left) in [(Behavior::Allow, 0), (Behavior::Deny, 1), (Behavior::Ask, 1)] {
            let mut grants = Grants::default();
            grants.apply(&Update::Rules(Change::Add, behavior, vec![added.into()]));
            grants.apply(&Update::Rules(Change::Remove, behavior, vec![removed.into()]));
            let rules = [grants.allow, grants.deny, grants.ask].concat();
            assert_eq!(rules.len(), left, "{behavior:?} {added}, without {removed}");
        }
    }
    let mut grants = Grants { allow: vec!["Bash(make:*)".into()], ..Grants::default() };
    let whole = vec!["Bash".into()];
    grants.apply(&Update::Rules(Change::Remove, Behavior::Allow, whole));
    assert_eq!(grants.allow, ["Bash(make:*)"]);
}

#[test]
fn e3_a_process_is_given_all_rules_at_once() {
    let grants = Grants { deny: vec!["Write".into()], ..Grants::default() };
    let line: Value = serde_json::from_slice(&grants.request().line).expect("JSON");
    let permissions = json!({"deny": ["Write"], "ask": [], "allow": []});
    let wanted = json!({
        "subtype": "apply_flag_settings", "settings": {"permissions": permissions}
    });
    assert_eq!(line["request"], wanted);
}

fn any_update() -> impl Strategy<Value = Update> {
    let items = prop::collection::vec("[a-d]", 0..4);
    let change = prop::sample::select(vec![Change::Add, Change::Replace, Change::Remove]);
    let behavior = prop::sample::select(vec![Behavior::Allow, Behavior::Deny, Behavior::Ask]);
    prop_oneof![
        items.clone().prop_map(Update::AddFolders),
        items.clone().prop_map(Update::RemoveFolders),
        (change, behavior, items).prop_map(|(how, what, rules)| Update::Rules(how, what, rules)),
    ]
}

fn set(list: &[String]) -> BTreeSet<&String> {
    list.iter().collect()
}

proptest! {
    /// The lists are sets, and each update is the operation on one of them.
    #[test]
    fn e3_updates_are_operations_on_sets(updates in prop::collection::vec(any_update(), 0..20)) {
        let mut grants = Grants::default();
        for update in &updates {
            let before = grants.clone();
            grants.apply(update);
            let lists = |grants: &Grants| {
                [&grants.allow, &grants.deny, &grants.ask, &grants.folders].map(Clone::clone)
            };
            let (at, change, items) = match update {
                Update::Rules(change, Behavior::Allow, rules) => (0, *change, rules),
                Update::Rules(change, Behavior::Deny, rules) => (1, *change, rules),
                Update::Rules(change, Behavior::Ask, rules) => (2, *change, rules),
                Update::AddFolders(folders) => (3, Change::Add, folders),
                Update::RemoveFolders(folders) => (3, Change::Remove, folders),
                Update::Mode(_) => unreachable!("not made here"),
            };
            for (index, (old, new)) in lists(&before).iter().zip(lists(&grants)).enumerate() {
                prop_assert_eq!(set(&new).len(), new.len(), "something is there twice");
                let (old, items) = (set(old), set(items));
                let wanted: BTreeSet<_> = match change {
                    _ if index != at => old,
                    Change::Add => old.union(&items).copied().collect(),
                    Change::Replace => items,
                    Change::Remove => old.difference(&items).copied().collect(),
                };
                prop_assert_eq!(set(&new), wanted);
            }
            let mut again = grants.clone();
            again.apply(update);
            prop_assert_eq!(&again, &grants, "an update that comes twice is as one");
        }
        let kept = serde_json::to_string(&grants).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Grants>(&kept).expect("grants"), grants);
    }
}
