//! What the operator has opened to callers does in the real CLI what it says.

use std::fs;

use session_pool::{
    config::{FileMentions, McpServers, Mentions},
    proto::{InputBlock, QueryRequest, SessionOptions, TurnOrigin, input_block::Block},
};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, has_command, init, origin, tools},
    support::{failure, service::query_with},
};

each_version!(pinned:
    servers_agents_and_settings,
    variables,
    folders,
    nothing_of_a_value_becomes_a_flag,
    a_block_of_text_can_be_a_slash_command,
    d4_a_server_that_is_never_up_does_not_end_the_turn,
    d8_what_the_cli_reads_by_its_name_is_known_to_the_policy,
);

async fn servers_agents_and_settings(version: Version) {
    let bed = Bed::with(version, |config| {
        config.policy.mcp_servers = McpServers::Remote;
        config.policy.settings = true;
        config.policy.agents = true;
    })
    .await;
    let options = SessionOptions {
        // Nobody listens there.
        mcp_servers: Some(
            r#"{"mcpServers":{"far":{"type":"http","url":"http://127.0.0.1:9/"}}}"#.into(),
        ),
        agents: Some(r#"{"fox":{"description":"A fox.","prompt":"You are a fox."}}"#.into()),
        settings: Some(
            r#"{"permissions":{"deny":["Write"]},"env":{"FROM_SETTINGS":"here"}}"#.into(),
        ),
        allowed_tools: vec!["Bash".into()],
        ..SessionOptions::default()
    };
    let prompt = "[[bash echo value=$FROM_SETTINGS]]";
    let first = bed.run(query_with("a", prompt, options)).await;
    assert!(first.text().contains("value=here"), "{}", first.text());
    let said = init(&first);
    assert!(said.mcp_servers.iter().any(|server| server.name == "far"), "{said:?}");
    assert!(said.agents.iter().any(|agent| agent == "fox"), "{said:?}");

    // They outlive the process.
    bed.kill_after(&first).await;
    let again = bed.query("a", prompt).await;
    assert_eq!(origin(&again), TurnOrigin::Resumed);
    assert!(again.text().contains("value=here"), "{}", again.text());
    let said = init(&again);
    assert!(said.mcp_servers.iter().any(|server| server.name == "far"), "{said:?}");
    assert!(said.agents.iter().any(|agent| agent == "fox"), "{said:?}");
    let request = bed.last_request(&again.started().cli_session_id);
    assert!(!tools(&request).contains(&"Write"), "{:?}", tools(&request));
    bed.stop().await;
}

async fn variables(version: Version) {
    let bed = Bed::with(version, |config| {
        config.policy.env = vec!["APP_*".into(), "ANTHROPIC_API_KEY".into()];
    })
    .await;
    let env = [("APP_NAME", "--version"), ("ANTHROPIC_API_KEY", "sk-ant-callers")];
    let options = SessionOptions {
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        allowed_tools: vec!["Bash".into()],
        ..SessionOptions::default()
    };
    // Nothing of the service's own environment is there beyond the list.
    let prompt = "[[bash echo name=$APP_NAME manifest=$CARGO_MANIFEST_DIR.]]";
    let turn = bed.run(query_with("a", prompt, options)).await;
    assert!(turn.text().contains("name=--version manifest=."), "{}", turn.text());
    let request = bed.last_request(&turn.started().cli_session_id);
    assert_eq!(request.header("x-api-key"), Some("sk-ant-callers"));
    bed.stop().await;
}

async fn folders(version: Version) {
    let place = tempfile::TempDir::new().expect("a folder");
    let base = place.path().canonicalize().expect("a real path");
    // Whatever a folder is called, its transcript is found again.
    let (work, more) = (base.join("-work é 🦊"), base.join("--more"));
    for folder in [&work, &more] {
        fs::create_dir(folder).expect("made");
    }
    fs::write(work.join("seen.txt"), "").expect("written");
    let root = base.to_str().expect("UTF-8").to_owned();
    let bed = Bed::with(version, |config| config.policy.cwd_roots = vec![root]).await;
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let options = SessionOptions {
        cwd: Some(path(&work)),
        add_dirs: vec![path(&more)],
        permission_mode: Some("acceptEdits".into()),
        allowed_tools: vec!["Bash".into()],
        ..SessionOptions::default()
    };
    let first = bed.run(query_with("a", "[[bash ls]]", options)).await;
    assert!(first.text().contains("seen.txt"), "{}", first.text());
    assert_eq!(init(&first).cwd, path(&work));
    // A further folder takes edits without asking; another would ask.
    let written = more.join("new.txt");
    bed.query("a", &format!("[[write {} text]]", written.display())).await;
    assert_eq!(fs::read_to_string(&written).expect("written").trim(), "text");

    let last = bed.query("a", "before").await;
    bed.kill_after(&last).await;
    let resumed = bed.query("a", "after").await;
    assert_eq!(origin(&resumed), TurnOrigin::Resumed);
    assert!(resumed.text().contains("\"before\""), "{}", resumed.text());
    bed.service.close("a", true).await.expect("closed");
    assert!(work.join("seen.txt").is_file() && written.is_file());
    bed.stop().await;
}

async fn nothing_of_a_value_becomes_a_flag(version: Version) {
    let bed = Bed::with(version, |config| config.policy.mcp_servers = McpServers::Any).await;
    let flag = "--dangerously-skip-permissions";
    let server = format!(r#"{{"mcpServers":{{"x":{{"command":"false","args":["{flag}"]}}}}}}"#);
    let options = SessionOptions {
        fallback_model: Some(flag.into()),
        allowed_tools: vec!["Read".into(), flag.into()],
        disallowed_tools: vec!["-p".into(), flag.into()],
        betas: vec![flag.into()],
        mcp_servers: Some(server),
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with("-p", "hello", options)).await;
    assert_eq!(turn.result().result, "You said: \"hello\".");
    assert_eq!(init(&turn).permission_mode, "default");
    let asked = bed.last_request(&turn.started().cli_session_id);
    assert!(tools(&asked).contains(&"Bash"), "{:?}", tools(&asked));
    bed.stop().await;
}

async fn d4_a_server_that_is_never_up_does_not_end_the_turn(version: Version) {
    let bed = Bed::with(version, |config| {
        config.policy.mcp_servers = McpServers::Any;
        config.pool.stream_first_chunk_timeout = std::time::Duration::from_secs(5);
    })
    .await;
    let server = r#"{"mcpServers":{"slow":{"command":"sleep","args":["300"]}}}"#;
    let options = SessionOptions { mcp_servers: Some(server.into()), ..SessionOptions::default() };
    let turn = bed.run(query_with("a", "hello", options)).await;
    assert_eq!(turn.result().result, "You said: \"hello\".");
    let servers = &init(&turn).mcp_servers;
    assert_eq!(servers.len(), 1, "{servers:?}");
    // Which server it was, and that it is not there.
    assert_eq!(servers[0].name, "slow");
    assert_ne!(servers[0].status, "connected");
    bed.stop().await;
}

/// Why `policy.slash_commands = false` looks at every block.
async fn a_block_of_text_can_be_a_slash_command(version: Version) {
    let text = |text: &str| InputBlock { block: Some(Block::Text(text.into())) };
    let request = QueryRequest {
        session_id: "a".into(),
        content: vec![text("some text"), text("/clear")],
        ..QueryRequest::default()
    };
    let bed = Bed::start(version).await;
    let before = bed.query("a", "before").await;
    let turn = bed.run(request.clone()).await;
    if has_command(&before, "clear") {
        assert_eq!(
            turn.result().num_turns,
            0,
            "the CLI took it for a command: {:?}",
            turn.result()
        );
    } else {
        assert_eq!(turn.result().result, "Unknown command: /clear");
    }
    bed.stop().await;

    let bed = Bed::with(version, |config| config.policy.slash_commands = false).await;
    let refused = bed.service.open(request).await.expect_err("denied");
    let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["field"], "content[1].text");
    bed.stop().await;
}

async fn d8_what_the_cli_reads_by_its_name_is_known_to_the_policy(version: Version) {
    let place = tempfile::tempdir().expect("a folder");
    let root = place.path().canonicalize().expect("a real path");
    let cwd = root.join("project");
    fs::create_dir(&cwd).expect("made");
    fs::write(cwd.join("notes.txt"), "the fox's number is 1477").expect("written");
    let bed = Bed::with(version, |config| {
        config.policy.cwd_roots = vec![root.display().to_string()];
        config.policy.file_mentions = FileMentions::On;
    })
    .await;
    let options =
        SessionOptions { cwd: cwd.to_str().map(str::to_owned), ..SessionOptions::default() };
    let base = root.display();
    let forms = [
        format!("@{base}/FILE"),
        format!("@\"{base}/FILE\""),
        format!("(@{base}/FILE)"),
        format!("see:@{base}/FILE"),
        format!("@'{base}/FILE'"),
        format!("@file://{base}/FILE"),
        format!("@\\{base}/FILE"),
        "@../FILE".to_owned(),
        "@./../FILE".to_owned(),
        "@nowhere/../../FILE".to_owned(),
        "@\"../FILE\"".to_owned(),
    ];
    let mut read = 0;
    for (number, form) in forms.into_iter().enumerate() {
        let file = format!("secret-{number}.txt");
        let secret = format!("the lighthouse supervisor's number is 7741-{number}-");
        fs::write(root.join(&file), &secret).expect("written");
        let prompt = form.replace("FILE", &file);
        let turn = bed.run(query_with("a", &prompt, options.clone())).await;
        let request = bed.last_request(&turn.started().cli_session_id);
        if request.body.to_string().contains(&secret) {
            read += 1;
            assert!(Mentions::Below.denial(&prompt).is_some(), "{prompt} is read");
        }
    }
    assert!(read >= 3, "the CLI reads what is named");
    let turn = bed.run(query_with("a", "@notes.txt", options)).await;
    let request = bed.last_request(&turn.started().cli_session_id);
    assert!(request.body.to_string().contains("number is 1477"), "{}", request.body);
    assert!(Mentions::Below.denial("@notes.txt").is_none());
    bed.stop().await;
}
