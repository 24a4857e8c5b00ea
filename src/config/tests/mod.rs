//! The configuration as its users meet it: sources in, a [`Config`] or words out.

use std::{fs, time::Duration};

use proptest::prelude::*;

use super::*;

mod gateway;
mod operator_rules;
mod reference;
mod rules;
mod sandbox;
mod traces;

fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// An environment in which the state folder has a place.
fn environment(items: &[(&str, &str)]) -> Vec<(String, String)> {
    [pairs(items), pairs(&[("HOME", "/home/someone")])].concat()
}

fn with_flags(flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(Sources { file: None, env: environment(&[]), flags: pairs(flags) })
}

fn with_file(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.toml");
    fs::write(&path, text).unwrap();
    load(Sources { file: Some(path), env: environment(&[]), flags: Vec::new() })
}

#[track_caller]
fn violations(outcome: Result<Config, ConfigError>) -> Vec<Violation> {
    match outcome {
        Err(ConfigError::Refused(violations)) => violations,
        other => panic!("expected violations, got {other:?}"),
    }
}

/// The one violation that these flags lead to, as it is told.
#[track_caller]
fn refusal(flags: &[(&str, &str)]) -> String {
    let violations = violations(with_flags(flags));
    assert_eq!(violations.len(), 1, "{violations:?}");
    violations[0].to_string()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = with_flags(&[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(config.pool.max_sessions, 1000);
    assert_eq!(config.pool.session_ttl, Duration::from_secs(3600));
    assert_eq!(config.pool.turn_spill_bytes, 1 << 30);
    assert_eq!(config.cli.path, std::path::Path::new("claude"));
    assert_eq!(config.policy.max_prompt_bytes, 10 << 20);
    assert_eq!(config.state_dir, std::path::Path::new("/home/someone/.local/state/session-pool"));
}

#[test]
fn the_state_folder_follows_the_environment() {
    let load_in = |env: &[(&str, &str)]| {
        load(Sources { env: pairs(env), ..Sources::default() }).map(|config| config.state_dir)
    };
    let state = load_in(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")]).unwrap();
    assert_eq!(state, std::path::Path::new("/x/session-pool"));
    let state = load_in(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")]).unwrap();
    assert_eq!(state, std::path::Path::new("/h/.local/state/session-pool"));
    let error = load_in(&[]).unwrap_err().to_string();
    assert!(error.contains("state_dir") && error.contains("XDG_STATE_HOME"), "{error}");
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.toml");
    fs::write(
        &path,
        "[pool]\nmax_sessions = 2\nmax_processes = 2\nmax_queued_turns = 2\n[cli.env]\nA = 'f'\nB = 'f'\n",
    )
    .unwrap();
    let config = load(Sources {
        file: Some(path),
        env: environment(&[
            ("SESSION_POOL__POOL__MAX_SESSIONS", "3"),
            ("SESSION_POOL__POOL__MAX_PROCESSES", "3"),
            ("SESSION_POOL__CLI__ENV__B", "e"),
            ("SESSION_POOL_CONFIG", "not a setting"),
        ]),
        flags: pairs(&[("pool.max_sessions", "5"), ("pool.max_sessions", "4")]),
    })
    .unwrap();
    assert_eq!(config.pool.max_sessions, 4);
    assert_eq!(config.pool.max_processes, 3);
    assert_eq!(config.pool.max_queued_turns, 2);
    assert_eq!(config.pool.start_concurrency, Config::default().pool.start_concurrency);
    let variables: Vec<_> = config.cli.env.into_iter().collect();
    assert_eq!(variables, pairs(&[("A", "f"), ("B", "e")]));
}

#[test]
fn text_from_outside_is_taken_by_the_type_of_its_key() {
    let config = load(Sources {
        env: environment(&[
            ("SESSION_POOL__CLI__EXTRA_ARGS", r#"["--x", "--y=1"]"#),
            ("SESSION_POOL__CLI__PATH", "1234"),
            ("SESSION_POOL__LOG__LEVEL", "\"debug\""),
            ("SESSION_POOL__POOL__SESSION_TTL", "1h 30m"),
            ("SESSION_POOL__POOL__STUCK_THRESHOLD", "0"),
            ("SESSION_POOL__CLI__MAX_FRAME_BYTES", "1048576"),
            ("SESSION_POOL__CLI__ENV", "{ A = \"b\" }"),
            ("SESSION_POOL__CLI__ENV__mixed__Case", "true"),
        ]),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(config.cli.extra_args, ["--x", "--y=1"]);
    assert_eq!(config.cli.path, std::path::Path::new("1234"));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.pool.session_ttl, Duration::from_secs(5400));
    assert_eq!(config.pool.stuck_threshold, Duration::ZERO);
    assert_eq!(config.cli.max_frame_bytes, 1 << 20);
    assert_eq!(config.cli.env["A"], "b");
    assert_eq!(config.cli.env["mixed__Case"], "true");
}

#[test]
fn every_violation_is_told_at_once_with_key_value_bound_and_origin() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.toml");
    fs::write(&path, "nonsense = 1\n[pool]\nmax_sessions = 0\n[policy]\ntenants = 2\n").unwrap();
    let told: Vec<_> = violations(load(Sources {
        file: Some(path.clone()),
        env: environment(&[("SESSION_POOL__POOL__SESSION_TTL", "60")]),
        flags: pairs(&[("server.listen", "localhost")]),
    }))
    .iter()
    .map(ToString::to_string)
    .collect();
    let file = format!("file {}", path.display());
    assert_eq!(
        told,
        [
            format!("nonsense = 1 ({file}): unknown key"),
            format!("policy.tenants = 2 ({file}): this version does not have it yet"),
            format!("pool.max_sessions = 0 ({file}): must be from 1 to 1000000"),
            "pool.session_ttl = 60 (environment SESSION_POOL__POOL__SESSION_TTL): needs a unit, \
             like \"60s\" (over 0 and at most 30days)"
                .into(),
            "server.listen = \"localhost\" (command line): must be an IP address and a port like \
             \"127.0.0.1:50051\""
                .into(),
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_or_parsed_is_named() {
    let missing = Sources { file: Some("no/such/file.toml".into()), ..Sources::default() };
    let told = load(missing).unwrap_err().to_string();
    assert!(told.contains("no/such/file.toml"), "{told}");
    let told = with_file("[pool]\nmax_sessions = \n").unwrap_err().to_string();
    assert!(told.contains("line 2"), "{told}");
}

#[test]
fn printed_defaults_load_to_the_defaults() {
    let config = with_flags(&[]).unwrap();
    assert_eq!(with_file(&print(&config)).unwrap(), config);
}

proptest! {
    #[test]
    fn a_printed_configuration_loads_to_the_same(
        sessions in 1..=1_000_000_usize,
        ttl in 61_000..=2_592_000_000_u64,
        buffer in 1024..=(1_usize << 30),
        argument in "--x[b-df-j]{0,20}=[^\0]{0,40}",
        variables in proptest::collection::btree_map("[B-DF-J][B-DF-J0-9]{0,8}", "[^\0]{0,40}", 0..4),
        json: bool,
    ) {
        let mut config = with_flags(&[]).unwrap();
        config.pool.max_sessions = sessions;
        config.pool.session_ttl = Duration::from_millis(ttl);
        config.pool.turn_buffer_bytes = buffer;
        config.cli.extra_args = vec![argument];
        config.cli.env = variables;
        config.log.format = if json { LogFormat::Json } else { LogFormat::Pretty };
        prop_assert_eq!(with_file(&print(&config)).unwrap(), config);
    }

    #[test]
    fn no_setting_makes_the_loader_panic(key in "[a-z_.]{0,20}", value: String) {
        drop(with_flags(&[(&key, &value), ("cli.env.A", &value), ("pool.session_ttl", &value)]));
    }
}
