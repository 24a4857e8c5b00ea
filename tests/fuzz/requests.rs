//! The request validation: any bytes that decode as a request are taken or refused, never
//! more. What is refused is told in few words; what is taken makes a command line in which
//! every value stays a value.
#![no_main]
// The macro exports the function that libFuzzer calls.
#![allow(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use session_pool::{
    config::{McpServers, Mentions},
    internals::{
        cli::{
            command::Folders,
            env_files::EnvFiles,
            launch::{ConversationOrigin, LaunchSettings},
            request::user_message,
            sandbox::Sandbox,
            versions::Installed,
        },
        domain::{
            ids::{CliSessionId, ClientId, TenantId},
            options::Options,
        },
        os::limits::OfEach,
        policy::{Policy, variables},
        rpc::decode,
    },
    proto,
};

fn closed() -> Policy {
    Policy {
        permission_modes: vec!["default".into(), "plan".into()],
        max_prompt_bytes: 1000,
        ..Policy::default()
    }
}

fn open() -> Policy {
    Policy {
        mcp_servers: McpServers::Any,
        settings: true,
        agents: true,
        tool_servers: true,
        env: vec!["A*".into(), "B*".into(), "L*".into(), "P*".into()],
        setting_sources: vec!["user".into(), "project".into(), "local".into()],
        slash_commands: true,
        file_mentions: Mentions::Any,
        ..closed()
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let policy = if kind & 0x80 == 0 { closed() } else { open() };
    let refused = match kind & 0x7f {
        0..64 => query(bytes, &policy),
        64..96 => update(bytes, &policy),
        96..112 => other(proto::RespondRequest::decode(bytes), |request| {
            decode::read_respond(request, &decode::Bounds { policy: &policy, own_folder: None })
                .map(drop)
        }),
        112..116 => other(proto::AttachRequest::decode(bytes), |r| decode::attach(r).map(drop)),
        116..120 => {
            other(proto::WatchSessionRequest::decode(bytes), |r| decode::watch(r).map(drop))
        }
        _ => other(proto::ListSessionsRequest::decode(bytes), |r| decode::list(r).map(drop)),
    };
    if let Err(status) = refused {
        // Callers' libraries give up on headers of more than 8 to 16 KiB.
        assert!(status.message().len() + status.details().len() < 64 * 1024);
        assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
    }
});

fn other<T>(
    request: Result<T, prost::DecodeError>,
    decode: impl FnOnce(T) -> Result<(), tonic::Status>,
) -> Result<(), tonic::Status> {
    request.map_or(Ok(()), decode)
}

fn query(bytes: &[u8], policy: &Policy) -> Result<(), tonic::Status> {
    let Ok(request) = proto::QueryRequest::decode(bytes) else { return Ok(()) };
    let query = decode::read_query(request, policy)?;
    let line = user_message(&query.request.input, Default::default());
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let message: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!(message["type"], "user");
    check(&query.request.options, policy);
    Ok(())
}

fn update(bytes: &[u8], policy: &Policy) -> Result<(), tonic::Status> {
    let Ok(request) = proto::UpdateSessionRequest::decode(bytes) else { return Ok(()) };
    check(&decode::read_update(request, policy)?.1, policy);
    Ok(())
}

/// What was taken is what the policy allows, and harmless on a command line.
fn check(options: &Options, policy: &Policy) {
    assert!(options.cwd.is_none() && options.add_dirs.is_empty());
    assert!(options.settings.is_none() || policy.settings);
    assert!(options.agents.is_none() || policy.agents);
    assert!(options.mcp_servers.is_none() || policy.mcp_servers == McpServers::Any);
    assert!(options.setting_sources.is_empty() || !policy.setting_sources.is_empty());
    assert!(options.env.0.keys().all(|name| !variables::is_reserved(name)));
    let mode = options.permission_mode.iter();
    assert!(mode.clone().all(|mode| policy.permission_modes.contains(mode)));
    let settings = LaunchSettings {
        program: "claude".into(),
        extra_args: Vec::new(),
        env: [("OPERATOR".to_owned(), "kept".to_owned())].into(),
        env_files: EnvFiles::default(),
        env_passthrough: Vec::new(),
        state_dir: "/state".into(),
        sandbox: Sandbox::ProcessTree("session-pool".into()),
        installed: Installed::default(),
        rules: Vec::new(),
        limits: OfEach::default(),
        groups: None,
    };
    let folders =
        Folders { work: "/w".into(), config: "/c".into(), home: "/h".into(), extra: vec![] };
    let origin = ConversationOrigin::New(CliSessionId::fresh());
    let tenant = TenantId::default();
    let command = settings.command(&tenant, origin, options, &folders, ClientId::fresh(), |_| None);
    for arg in &command.args {
        assert!(arg.starts_with("--") && !arg.contains('\0') && arg.len() < 128 * 1024);
        assert!(!arg.starts_with("--dangerously"), "{arg}");
    }
    assert_eq!(command.env["HOME"], "/h");
    assert_eq!(command.env["CLAUDE_CONFIG_DIR"], "/c");
    assert_eq!(command.env["SESSION_POOL_STATE"], "/state");
    assert_eq!(command.env["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"], "1");
}
