//! What is refused, in which words, and what is never said.

use std::time::Duration;

use super::*;

#[test]
fn values_out_of_bounds_or_of_another_type_are_refused() {
    for (key, value, words) in [
        ("server.drain_timeout", "0s", "must be over 0 and at most 1day"),
        ("server.drain_timeout", "2 days", "at most 1day"),
        ("server.reflection", "yes", "): must be true or false"),
        ("pool.stuck_threshold", "31 days", "at most 30days, or 0 for off"),
        (
            "pool.stream_stall_timeout",
            "-1s",
            "): must be a duration like \"1500ms\", \"60s\" or \"1h 30m\" (over 0 and at most 30days, or \
             0 for off)",
        ),
        ("pool.max_sessions", "1000001", "from 1 to 1000000"),
        ("pool.max_sessions", "-1", "from 1 to 1000000"),
        ("pool.max_sessions", "1.5", "): must be a whole number from 1 to 1000000"),
        ("pool.spares", "1001", "from 0 to 1000"),
        ("spare", "[{ count = 0 }]", "table 1: count must be from 1 to 1000, is 0"),
        ("spare", "[{ count = 1 }, { count = 1, max_turns = 0 }]", "table 2: max_turns"),
        ("spare", "[{ count = 1, max_budget_usd = -1.0 }]", "max_budget_usd must be over 0"),
        ("spare", "[{ count = 1, settings = \"[]\" }]", "settings must be a JSON object"),
        ("spare", "[{ count = 1, setting_sources = [\"all\"] }]", "user, project, local"),
        ("spare", "[{ count = 1, tools = [\"a\\nb\"] }]", "line ends"),
        ("spare", "[{ count = 1, model = \"m\" }]", "unknown field `model`"),
        ("spare", "[{ count = 1000 }]", "must be at most pool.max_processes"),
        ("spare", "3", "): must be a list of tables"),
        ("pool.turn_buffer_bytes", "1 B", "must be from 1 KiB to 1 GiB"),
        (
            "pool.turn_buffer_bytes",
            "true",
            "): must be a byte size like \"16 MiB\" or 1048576 (from 1 KiB to 1 GiB)",
        ),
        ("pool.turn_buffer_bytes", "1 elephant", "1048576 (from 1 KiB to 1 GiB)"),
        ("pool.turn_buffer_bytes", "-4", "must be from 1 KiB to 1 GiB"),
        ("policy.tenant_max_cost_usd_per_day", "-0.5", "must be from 0 to 1000000000"),
        ("policy.tenant_max_cost_usd_per_day", "nan", "must be from 0 to 1000000000"),
        ("policy.tenant_max_cost_usd_per_day", "true", "): must be a number from 0 to 1000000000"),
        ("cli.path", "", "must not be empty"),
        ("cli.extra_args", "--x", "): must be a list of strings"),
        ("cli.env", "A=b", "): must be a table of strings"),
        ("cli.env.A-B", "c", "must be named like an environment variable"),
        ("log.format", "xml", "): must be one of pretty, json"),
        ("cli.sandbox", "chroot", "): must be one of auto, bubblewrap, process-tree"),
        ("cli.memory_limit", "2 TiB", "must be from 0 B to 1 TiB"),
        ("cli.max_tasks", "63", "must be 0 or at least 64"),
        ("cli.max_tasks", "1000001", "must be from 0 to 1000000"),
        ("cli.max_open_files", "255", "must be 0 or at least 256"),
        ("cli.cgroups", "v2", "): must be one of auto, off, required"),
        ("cli.cpu_weight", "0", "must be from 1 to 10000"),
        ("policy.max_processes_per_session", "15", "must be 0 or at least 16"),
        ("policy.max_workspace_bytes", "1000", "must be 0 or at least 1 MiB"),
        ("policy.max_workspace_bytes", "2000 TiB", "must be from 0 B to 1024 TiB"),
        ("log.level", "a=b=c", "): must be a filter"),
        ("log.level", "", "must be off, error, warn, info, debug or trace"),
        ("log.level", "inof", "must be off, error, warn, info, debug or trace"),
        ("log.level", "info,h2=debug,verbose", "\"verbose\" must be off"),
        ("pool", "3", "unknown key"),
        ("pool.max_session", "3", "unknown key; did you mean pool.max_sessions?"),
        ("server.max_sessions", "3", "unknown key; did you mean pool.max_sessions?"),
        ("store.kind", "files", "): must be one of sqlite, postgres, memory"),
        ("store.url", "postgres://x", "must be sqlite:PATH"),
        ("store.url_file", "/f", "needs store.kind = \"postgres\""),
        ("store.max_connections", "1", "must be from 2 to 1000"),
        ("store.statement_timeout", "4s", "must be less than cluster.lease = 4s"),
        ("cluster.heartbeat", "2s", "must be at most a third of cluster.lease = 4s"),
        ("cluster.node", "", "must have 1 to 255 bytes"),
        ("store.retention", "0s", "must be over 0"),
        ("tls", "1", "unknown key"),
        ("tls.cert", "cert.pem", "needs tls.key"),
        ("tls.client_ca", "ca.pem", "needs tls.cert"),
        ("cluster.advertise", "10.0.0.1", "must be HOST:PORT"),
        ("cluster.advertise", "10.0.0.1:0", "must be HOST:PORT"),
        ("cluster.advertise", "http://a:1", "must be HOST:PORT"),
        ("cluster.advertise", "a@b:1", "must be HOST:PORT"),
        ("cluster.advertise", "10.0.0.1:50052", "is not a loopback address, and nodes do not"),
        ("cluster.advertise", "node-a:50052", "is not a loopback address, and nodes do not"),
        ("cluster.listen", "0.0.0.0:50052", "is not a loopback address, and nodes do not"),
        ("cluster.ca", "ca.pem", "needs cluster.cert"),
        ("cluster.cert", "cert.pem", "needs cluster.key"),
        ("cluster.key", "key.pem", "needs cluster.ca"),
        ("server.health_listen", "x", "): must be an IP address and a port"),
        ("tlsx", "1", "unknown key"),
    ] {
        let told = refusal(&[(key, value)]);
        assert!(told.starts_with(key) && told.contains(words), "{key}: {told}");
    }
}

/// Who is taken for a node can speak for every caller.
#[test]
fn nobody_is_taken_for_a_node_by_accident() {
    let advertise = ("cluster.advertise", "10.0.0.1:50052");
    let listen = ("cluster.listen", "0.0.0.0:50052");
    let token = ("cluster.token_file", "/run/token");
    let certificates =
        [("cluster.ca", "/c/ca"), ("cluster.cert", "/c/cert"), ("cluster.key", "/c/key")];
    let tls = [("tls.cert", "/t/cert"), ("tls.key", "/t/key")];
    let tokens = ("auth.tokens_file", "/t/tokens");
    for (flags, told) in [
        ([&certificates[..], &[token]].concat(), "excludes cluster.ca"),
        (vec![("cluster.advertise", "127.0.0.1:1"), tokens], "callers are asked who they are"),
        (vec![("cluster.listen", "127.0.0.1:1"), tokens], "callers are asked who they are"),
        ([&certificates[..], &[advertise]].concat(), "needs cluster.listen where cluster.ca"),
        ([&tls[..], &[token, advertise]].concat(), "needs cluster.listen where tls.cert"),
        (
            [&certificates[..], &tls, &[listen, ("tls.client_ca", "/c/ca")]].concat(),
            "must not be tls.client_ca",
        ),
    ] {
        let refused = refusal(&flags);
        assert!(refused.contains(told), "{told}: {refused}");
    }
    for flags in [
        vec![("cluster.advertise", "127.0.0.1:50051")],
        vec![("cluster.advertise", "localhost:50051")],
        vec![("cluster.advertise", "[::1]:50051"), ("cluster.listen", "[::1]:50052")],
        vec![token, advertise, tokens],
        [&certificates[..], &tls, &[advertise, listen, tokens]].concat(),
        certificates.to_vec(),
    ] {
        assert!(with_flags(&flags).is_ok(), "{flags:?}: {:?}", with_flags(&flags).err());
    }
}

#[test]
fn variables_that_are_misspelt_are_refused_with_the_name_that_is_meant() {
    let told = |name: &str| {
        let found =
            violations(load(Sources { env: environment(&[(name, "3")]), ..Default::default() }));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].to_string()
    };
    assert_eq!(
        told("SESSION_POOL_POOL_MAX_SESSIONS"),
        "pool.max_sessions (environment SESSION_POOL_POOL_MAX_SESSIONS): the variable must be \
         written SESSION_POOL__POOL__MAX_SESSIONS"
    );
    let twice = told("SESSION_POOL__POOL__MAX_SESSION");
    assert!(twice.ends_with("did you mean SESSION_POOL__POOL__MAX_SESSIONS?"), "{twice}");
    // What Kubernetes tells of a Service named session-pool, and what is somebody else's.
    for name in ["SESSION_POOL_PORT_50051_TCP_ADDR", "SESSION_POOL_SERVICE_HOST", "SESSION_POOL_X"]
    {
        let env = environment(&[(name, "3")]);
        assert!(load(Sources { env, ..Default::default() }).is_ok(), "{name}");
    }
}

#[test]
fn s22_ongoing_timeout_must_be_less_than_session_ttl() {
    let told = refusal(&[("pool.stream_ongoing_timeout", "60s"), ("pool.session_ttl", "60s")]);
    assert_eq!(
        told,
        "pool.stream_ongoing_timeout = 1m (command line): must be less than pool.session_ttl = 1m \
         (command line)"
    );
}

#[test]
fn s22_first_chunk_timeout_must_be_less_than_ongoing_timeout() {
    let told = refusal(&[("pool.stream_first_chunk_timeout", "90s")]);
    assert_eq!(
        told,
        "pool.stream_first_chunk_timeout = 1m 30s (command line): must be less than \
         pool.stream_ongoing_timeout = 1m (default)"
    );
}

#[test]
fn s22_timeouts_in_order_are_accepted() {
    let config = with_flags(&[
        ("pool.stream_first_chunk_timeout", "1ms"),
        ("pool.stream_ongoing_timeout", "2ms"),
        ("pool.session_ttl", "3ms"),
    ]);
    assert_eq!(config.unwrap().pool.session_ttl, Duration::from_millis(3));
}

#[test]
fn s22_rules_do_not_judge_by_a_value_that_was_itself_refused() {
    let told = refusal(&[
        ("pool.stream_first_chunk_timeout", "90s"),
        ("pool.stream_ongoing_timeout", "x"),
    ]);
    assert!(told.starts_with("pool.stream_ongoing_timeout"), "{told}");
}

#[test]
fn the_spill_bound_is_off_or_not_below_the_buffer() {
    assert!(with_flags(&[("pool.turn_spill_bytes", "0")]).is_ok());
    assert!(with_flags(&[("pool.turn_spill_bytes", "4 MiB")]).is_ok());
    let told = refusal(&[("pool.turn_spill_bytes", "1 MiB")]);
    assert!(told.contains("pool.turn_buffer_bytes = 4 MiB (default)"), "{told}");
}

#[test]
fn listening_outside_loopback_has_to_be_asked_for_twice() {
    for address in ["0.0.0.0:50051", "[::]:1", "10.0.0.1:0"] {
        let told = refusal(&[("server.listen", address)]);
        assert!(told.contains("auth.insecure = true"), "{told}");
        assert!(with_flags(&[("server.listen", address), ("auth.insecure", "true")]).is_ok());
    }
    for address in ["127.0.0.2:1", "[::1]:50051", "[::ffff:127.0.0.1]:1"] {
        assert!(with_flags(&[("server.listen", address)]).is_ok(), "{address}");
    }
}

#[test]
fn nobody_may_bypass_permissions() {
    let told = refusal(&[("policy.permission_modes", "[\"plan\", \"bypassPermissions\"]")]);
    assert!(told.contains("bypassPermissions") && told.contains("not in this version"), "{told}");
}

#[test]
fn what_callers_may_ask_for_is_closed_until_it_is_opened() {
    let policy = with_flags(&[]).unwrap().policy;
    assert_eq!((policy.cwd_roots.len(), policy.env.len(), policy.setting_sources.len()), (0, 0, 0));
    assert_eq!(policy.mcp_servers.as_str(), "none");
    assert!(!policy.settings && !policy.agents);
    let root = tempfile::tempdir().unwrap();
    let roots = format!("[{:?}]", root.path());
    let policy = with_flags(&[
        ("policy.cwd_roots", &roots),
        ("policy.mcp_servers", "remote"),
        ("policy.settings", "true"),
        ("policy.agents", "true"),
        ("policy.env", "['APP_*', 'TOKEN']"),
        ("policy.setting_sources", "['project']"),
    ]);
    let config = policy.unwrap();
    assert_eq!(config.policy.mcp_servers.as_str(), "remote");
    assert_eq!(with_file(&print(&config)).unwrap(), config);
}

#[test]
fn what_would_give_the_service_away_cannot_be_opened() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().canonicalize().unwrap();
    let link = base.join("link");
    std::os::unix::fs::symlink(&base, &link).unwrap();
    let state = base.join("state/not/yet");
    let state = state.to_str().unwrap();
    for (value, words) in [
        ("['relative']".to_owned(), "absolute path"),
        ("['/no/such/folder']".to_owned(), "cannot be used"),
        ("['/dev/null']".to_owned(), "is not a folder"),
        (format!("['{}/..']", base.display()), "without .."),
        ("['/']".to_owned(), "must neither hold nor be in state_dir"),
        (format!("['{}']", base.display()), "must neither hold nor be in state_dir"),
        (format!("['{}']", link.display()), "must neither hold nor be in state_dir"),
    ] {
        let told = refusal(&[("policy.cwd_roots", &value), ("state_dir", state)]);
        assert!(told.contains(words), "{value}: {told}");
    }
    for (key, value, words) in [
        ("policy.mcp_servers", "some", "): must be one of none, remote, any"),
        ("policy.env", "['PATH']", "callers may not set this"),
        ("policy.env", "['LD_*']", "callers may not set this"),
        ("policy.env", "['*']", "name of a variable"),
        ("policy.env", "['A B']", "name of a variable"),
        ("policy.setting_sources", "['all']", "each item must be one of user, project, local"),
    ] {
        let told = refusal(&[(key, value)]);
        assert!(told.starts_with(key) && told.contains(words), "{told}");
    }
    let told = refusal(&[("policy.settings", "true"), ("cli.extra_args", "['--settings={}']")]);
    assert!(told.starts_with("policy.settings"), "{told}");
}

#[test]
fn arguments_of_the_service_itself_are_refused() {
    for argument in
        ["-p", "x", "--", "--resume", "--session-id=1", "--dangerously-skip-permissions"]
    {
        let told = refusal(&[("cli.extra_args", &format!("[\"--fine\", \"{argument}\"]"))]);
        assert!(told.starts_with("cli.extra_args"), "{told}");
    }
    assert!(with_flags(&[("cli.extra_args", "[\"--model=x\"]")]).is_ok());
    for key in ["cli.env.SESSION_POOL_MARK", "cli.env.SESSION_POOL"] {
        assert!(refusal(&[(key, "x")]).contains("the service's own"));
    }
    let told = refusal(&[("cli.env_passthrough", "[\"A B\"]")]);
    assert!(told.contains("name of an environment variable"), "{told}");
}

#[test]
fn d9_variables_in_files_have_a_name_and_a_path() {
    for bad in ["KEY", "=/run/key", "A B=/run/key", "KEY=run/key", "KEY="] {
        let told = refusal(&[("cli.env_files", &format!("[{bad:?}]"))]);
        assert!(told.starts_with("cli.env_files") && told.contains("NAME=/path"), "{told}");
    }
    let told = refusal(&[("cli.env_files", "[\"SESSION_POOL_MARK=/run/key\"]")]);
    assert!(told.contains("the service's own"), "{told}");
    let file = "[cli]\nenv_files = ['KEY=/run/key']\n[cli.env]\nKEY = 'x'\n";
    assert!(with_file(file).is_err(), "one value or the other");
    let config = with_file("[cli]\nenv_files = ['KEY=/run/a=b']\n").expect("accepted");
    let variables: Vec<_> = config.cli.variables_in_files().collect();
    assert_eq!(variables, [("KEY".to_owned(), "/run/a=b".into())]);
}

#[test]
fn secrets_are_not_shown() {
    let config = with_file("[cli.env]\nANTHROPIC_API_KEY = 'sk-1'\nREGION = 'eu'\n").unwrap();
    for text in [format!("{config:?}"), print(&config)] {
        assert!(!text.contains("sk-1"), "{text}");
        assert!(text.contains("<hidden>") && text.contains("eu"), "{text}");
    }
    for outcome in [
        with_flags(&[("cli.env", "{ API_KEY = 'sk-1'")]),
        with_flags(&[("cli.env.api_key!", "sk-1")]),
        with_flags(&[("cli.env.SESSION_POOL_TOKEN", "sk-1")]),
        with_flags(&[("cli.extra_args", "--settings=sk-1")]),
        with_flags(&[("cli.extra_args", "['--resume=sk-1']")]),
        with_file("[cli.env]\nAPI_KEY = sk-1\n"),
        with_file("[cli.env]\nAPI_KEY = ['sk-1']\n"),
        with_file("[other]\nlist = [{ API_KEY = 'sk-1' }]\n"),
        with_file("[cli.envs]\nA = 'sk-1'\n"),
        with_file("[cli.env.A]\nB = 'sk-1'\n"),
        with_file("[cli]\nenv_files = ['sk-1', 'KEY=sk-1']\n"),
        with_file("[cli]\nenv_files = 'sk-1'\n"),
        with_file("[[spare]]\nsettings = '{\"env\":{\"K\":\"sk-1\"}'\n"),
        with_file("[[spare]]\nenv = 'sk-1'\n"),
        with_flags(&[("store.url", "postgres://pool:sk-1@db/pool")]),
    ] {
        let told = outcome.unwrap_err().to_string();
        assert!(!told.contains("sk-1"), "{told}");
    }
    let sources = Sources { env: pairs(&[("ANY", "sk-1")]), ..Sources::default() };
    assert!(!format!("{sources:?}").contains("sk-1"));
}

#[test]
fn a_server_is_named_once_and_its_password_is_told_nobody() {
    let kind = ("store.kind", "postgres");
    let told = refusal(&[kind]);
    assert!(told.contains("store.url = \"\" (default): must be set, or store.url_file"), "{told}");
    let url = "postgres://pool:sk/1@x@db:5432/pool?sslmode=verify-full&password=sk/1";
    let told = refusal(&[kind, ("store.url", url), ("store.url_file", "/f")]);
    assert!(told.starts_with("store.url_file") && told.contains("beside store.url"), "{told}");
    for (url, words) in [
        ("sqlite:/x", "must be postgres://USER"),
        ("postgres://pool:sk/1@db/pool?sslmod=require", "no parameters but sslmode"),
    ] {
        let told = refusal(&[kind, ("store.url", url)]);
        assert!(told.contains(words) && !told.contains("sk/1"), "{told}");
    }
    let config = with_flags(&[kind, ("store.url", url)]).unwrap();
    let shown = print(&config);
    let url = "postgres://pool:<hidden>@db:5432/pool?sslmode=verify-full&password=<hidden>";
    assert!(shown.contains(url), "{shown}");
    for shown in [shown, format!("{config:?}")] {
        assert!(!shown.contains("sk/1") && shown.contains("db:5432"), "{shown}");
    }
    let plain = with_flags(&[kind, ("store.url", "postgres://db/pool?sslmode=require")]).unwrap();
    assert!(print(&plain).contains("postgres://db/pool?sslmode=require"));
    assert_eq!(with_flags(&[kind, ("store.url_file", "/f")]).unwrap().store.url, "");
}

#[test]
fn c7_memory_is_enough_for_the_largest_prompt() {
    let told = refusal(&[("pool.memory_budget", "16 MiB")]);
    assert!(told.contains("must be at least twice policy.max_prompt_bytes = 10 MiB"), "{told}");
    let config = with_flags(&[("policy.max_prompt_bytes", "200 MiB")]).unwrap();
    assert_eq!(config.pool.memory_budget, 800 << 20);
}

#[test]
fn c8_once_callers_are_told_apart_none_can_take_everything() {
    let quotas = |flags: &[(&str, &str)]| {
        let policy = with_flags(flags).unwrap().policy;
        let streams = (policy.tenant_max_queued_turns, policy.tenant_max_streams);
        (policy.tenant_max_sessions, policy.tenant_max_processes, streams, policy.tenant_max_memory)
    };
    let known = [("pool.max_processes", "8"), ("pool.memory_budget", "80 MiB")];
    assert_eq!(quotas(&known), (0, 0, (0, 0), 0));
    let told_apart = [&known[..], &[("auth.tokens_file", "/tokens")]].concat();
    assert_eq!(quotas(&told_apart), (750, 6, (256, 1000), 60 << 20));
    // What is set counts, and 0 is still no limit.
    let own = [("policy.tenant_max_processes", "0"), ("policy.tenant_max_sessions", "3")];
    let set = [&told_apart[..], &own[..]].concat();
    assert_eq!(quotas(&set), (3, 0, (256, 1000), 60 << 20));
    for (all, of_one) in [("1", 1), ("2", 1), ("3", 2)] {
        let flags = [("auth.tokens_file", "/tokens"), ("pool.max_processes", all)];
        assert_eq!(quotas(&flags).1, of_one, "of {all}");
    }
}
