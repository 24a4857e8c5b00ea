//! The fake CLI's ordinary frames beside those of the real 2.1.332: the same scenario
//! on both, through the same service, and the keys of what they print compared.

use session_pool::{
    internals::{
        cli::{
            command::Folders,
            connection::Connection,
            env_files::EnvFiles,
            launch::{ConversationOrigin, LaunchSettings},
            process::{Process, StopGrace, stop},
            request::{ControlRequest, Initialize},
            versions::Installed,
        },
        domain::{
            ids::{CliSessionId, ClientId, TenantId},
            options::{LiveChange, Options},
        },
        os::limits::OfEach,
    },
    proto::{
        Payload, PromptAllow, QueryRequest, RespondRequest, respond_request::Decision,
        turn_event::Kind,
    },
};

use crate::{
    bed::{Bed, LIMIT, Version, environment, in_pieces, in_time, json},
    shapes::{Shapes, differences},
    stand_in::StandIn,
    support::{
        service::{Service, process_tree, query, script},
        turn::Turn,
    },
};

async fn real_frames(bed: &Bed) -> Shapes {
    let mut shapes = Shapes::default();
    let prompt =
        "[[say hello world]] [[think hm]] [[bash echo hi]] [[status 529 times 1]] [[say done]]";
    shapes.add_turn(&bed.run(in_pieces(query("a", prompt))).await);
    shapes.add_turn(&bed.query("a", "[[status 400]]").await);
    shapes.add_turn(&permission(&bed.service, "[[write ../outside.txt x]]").await);
    shapes.add_turn(&interrupted(&bed.service, "[[words 200 every 50]]").await);
    shapes.add_turn(&interrupted(&bed.service, "[[bash echo x; sleep 303]]").await);
    shapes.add_turn(&bed.query("a", "/clear").await);
    shapes
}

async fn fake_frames(service: &Service) -> Shapes {
    let mut shapes = Shapes::default();
    let run = |lines: &[&str]| {
        let request = in_pieces(query("a", &script(lines)));
        service.run(QueryRequest { payload: Payload::Both.into(), ..request })
    };
    let lines = [
        "say hello world",
        "thinking hm",
        r#"tool toolu_1 Bash {"command":"echo hi"}"#,
        "tool-result toolu_1 hi",
        "retry 1",
        "partial 3 10",
        "frames 2 2000",
    ];
    shapes.add_turn(&run(&lines).await);
    shapes.add_turn(&run(&["error API Error: 400"]).await);
    let ask = script(&[r#"ask Write {"file_path":"a.txt","content":"x"}"#, "say done"]);
    shapes.add_turn(&permission(service, &ask).await);
    shapes.add_turn(&interrupted(service, &script(&["say one", "hang"])).await);
    let clear = QueryRequest { payload: Payload::Both.into(), ..query("a", "/clear") };
    shapes.add_turn(&service.run(clear).await);
    shapes
}

/// A turn in which a tool asks and is allowed.
async fn permission(service: &Service, prompt: &str) -> Turn {
    let request = QueryRequest { payload: Payload::Both.into(), ..query("a", prompt) };
    let mut turn = service.open(request).await.expect("accepted");
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { panic!("not a prompt") };
    let answer = RespondRequest {
        session_id: "a".into(),
        prompt_id: prompt.prompt_id,
        decision: Some(Decision::Allow(PromptAllow::default())),
    };
    service.client.clone().respond(answer).await.expect("it waits");
    turn.finish().await;
    assert!(!turn.result().is_error);
    turn
}

async fn interrupted(service: &Service, prompt: &str) -> Turn {
    let request = in_pieces(query("a", prompt));
    let request = QueryRequest { payload: Payload::Both.into(), ..request };
    let mut turn = service.open(request).await.expect("accepted");
    turn.until(|kind| matches!(kind, Kind::StreamEvent(_) | Kind::Assistant(_))).await;
    service.interrupt("a", true).await;
    turn.finish().await;
    assert!(turn.result().interrupted);
    turn
}

#[tokio::test]
async fn the_fake_prints_the_frames_of_the_real_one() {
    in_time(LIMIT, async {
        let bed = Bed::start(Version::NEWEST).await;
        let real = real_frames(&bed).await;
        let service = Service::start(|_| {}).await;
        let fake = fake_frames(&service).await;
        for kind in ["system init", "assistant text", "user tool_result", "result success"] {
            assert!(fake.0.contains_key(kind), "{kind} is not among {:?}", fake.0.keys());
        }
        let found = differences(&real, &fake);
        assert!(found.is_empty(), "{found:#?}");
        service.stop().await;
        bed.stop().await;
    })
    .await;
}

/// Answers to control requests are seen by the service alone.
#[tokio::test]
async fn the_fake_answers_control_requests_like_the_real_one() {
    in_time(LIMIT, async {
        let api = StandIn::start().await.expect("a stand-in");
        let real = replies(Version::NEWEST.executable(), &api).await;
        let fake = replies(env!("CARGO_BIN_EXE_fake-claude").into(), &api).await;
        let found = differences(&real, &fake);
        assert!(found.is_empty(), "{found:#?}");
        api.shutdown().await.expect("no connection is left");
    })
    .await;
}

async fn replies(program: std::path::PathBuf, api: &StandIn) -> Shapes {
    let state = tempfile::TempDir::new().expect("a folder");
    let folder = |name: &str| {
        let folder = state.path().join(name);
        std::fs::create_dir(&folder).expect("made");
        folder
    };
    let folders =
        Folders { work: folder("w"), config: folder("c"), home: folder("h"), extra: vec![] };
    let settings = LaunchSettings {
        program,
        extra_args: Vec::new(),
        env: environment(api),
        env_files: EnvFiles::default(),
        env_passthrough: Vec::new(),
        state_dir: state.path().to_owned(),
        sandbox: process_tree(),
        installed: Installed::default(),
        rules: Vec::new(),
        limits: OfEach::default(),
        groups: None,
    };
    let command = settings.command(
        &TenantId::default(),
        ConversationOrigin::New(CliSessionId::fresh()),
        &Options::default(),
        &folders,
        ClientId::fresh(),
        |name| std::env::var(name).ok(),
    );
    let started = Process::start(command, &process_tree(), 1 << 24).await;
    let (mut process, mut connection) = started.expect("started");
    let mut shapes = Shapes::default();
    for (name, request) in [
        ("initialize", Initialize::default().request()),
        ("set_model", ControlRequest::change(&LiveChange::Model("claude-sonnet-4-6".into()))),
        ("set_permission_mode", ControlRequest::change(&LiveChange::PermissionMode("plan".into()))),
        ("set_max_thinking_tokens", ControlRequest::change(&LiveChange::MaxThinkingTokens(1000))),
        ("set_effort", ControlRequest::change(&LiveChange::Effort("low".into()))),
        ("interrupt", ControlRequest::interrupt()),
    ] {
        let answer = exchange(&mut connection, request).await.expect("success");
        shapes.add(format!("reply {name}"), &json(&answer));
    }
    let refused = exchange(
        &mut connection,
        ControlRequest::change(&LiveChange::PermissionMode("nonsense".into())),
    )
    .await;
    refused.expect_err("there is no such mode");
    let stopped = stop(connection, &mut process, StopGrace::GENTLE, &mut Vec::new()).await;
    assert!(stopped.exit.is_some(), "{stopped:?}");
    shapes
}

async fn exchange(connection: &mut Connection, request: ControlRequest) -> Result<String, String> {
    let mut answer = connection.request(request).expect("written");
    let mut frames = Vec::new();
    loop {
        tokio::select! {
            biased;
            answered = &mut answer => return answered.expect("it lives"),
            read = connection.read(&mut frames) => read.expect("it lives"),
        }
    }
}
