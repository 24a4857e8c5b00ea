//! The test bed: a service on a version of the real CLI, which talks to a stand-in for
//! the API and to nothing else. Each scenario runs once for each version.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde_json::Value;
use session_pool::{
    config::Config,
    internals::cli::versions::OLDEST,
    proto::{
        self, ContentBlock, Payload, PromptDecision, PromptResolver, QueryRequest, SessionOptions,
        TurnOrigin, content_block::Block, turn_event::Kind,
    },
};
use tonic::Status;

use crate::{
    lossless,
    stand_in::{RecordedRequest, StandIn},
    support::{
        eventually,
        processes::kill,
        service::{Service, fake_cli, query},
        turn::Turn,
    },
};

/// Bound of a scenario: what it waits for may never come.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Bound of one that starts processes by the dozen.
pub const LONG: Duration = Duration::from_secs(240);

/// A version of the CLI, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(&'static str);

/// Names the version that the tests called `chosen` run on.
const CHOSEN: &str = "SESSION_POOL_CLI_VERSION";

impl Version {
    pub const V2_1_197: Self = Self("2.1.197");
    /// The newest that the gate tests.
    pub const NEWEST: Self = Self("2.1.332");

    /// The version that [`CHOSEN`] names; without it the oldest that the service supports.
    pub fn chosen() -> Self {
        static NAME: LazyLock<String> =
            LazyLock::new(|| std::env::var(CHOSEN).unwrap_or_else(|_| OLDEST.to_string()));
        Self(NAME.as_str())
    }

    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// The executable, as `.ci/fetch-cli` leaves it.
    pub fn executable(self) -> PathBuf {
        let folder = std::env::var_os("SESSION_POOL_CLAUDE_DIR").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/claude"),
            PathBuf::from,
        );
        let path = folder.join(self.as_str()).join("claude");
        assert!(
            path.is_file(),
            "Claude CLI {} is not at {}: run .ci/fetch-cli",
            self.as_str(),
            path.display()
        );
        std::path::absolute(path).expect("a working folder")
    }
}

/// Makes a test for each version of each of these scenarios, which are functions of a
/// [`Version`]: two pinned versions and the chosen one, see [`Version::chosen`]. A bound
/// other than [`LIMIT`] goes first: `within LONG:`.
///
/// Each process of a CLI costs a second and a half of a core, so that the gate runs a scenario on one or
/// two versions, and on all three when all tests are asked for (`tests/cli-versions`). On the newest and
/// the oldest: those where versions take different ways through the service, since 2.1.197 takes one of
/// the two. On the pinned ones, behind `pinned:`: those that are about what the CLI itself says and does,
/// where all versions take the same way. On the newest alone, behind `newest:`: those that are about what
/// the service does with its processes, and those that start them by the dozen.
macro_rules! each_version {
    (within $limit:ident: pinned: $($rest:tt)*) => {
        $crate::bed::each_version!(within $limit: ; pinned: $($rest)*);
    };
    (within $limit:ident: newest: $($rest:tt)*) => {
        $crate::bed::each_version!(within $limit: ; newest: $($rest)*);
    };
    (within $limit:ident: $($every:ident),* $(,)?
        $(; pinned: $($pinned:ident),* $(,)?)?
        $(; newest: $($newest:ident),* $(,)?)?
    ) => {
        $crate::bed::on_version!(
            v2_1_197, $crate::bed::Version::V2_1_197, $limit,
            $($($pinned,)*)?; $($every,)* $($($newest,)*)?
        );
        $crate::bed::on_version!(
            newest, $crate::bed::Version::NEWEST, $limit,
            $($every,)* $($($pinned,)*)? $($($newest,)*)?;
        );
        $crate::bed::on_version!(
            chosen, $crate::bed::Version::chosen(), $limit,
            $($every,)*; $($($pinned,)*)? $($($newest,)*)?
        );
    };
    ($($scenarios:tt)*) => {
        $crate::bed::each_version!(within LIMIT: $($scenarios)*);
    };
}
pub(crate) use each_version;

/// A module with one test for each scenario; those behind the semicolon run when all are asked for.
macro_rules! on_version {
    ($module:ident, $version:expr, $limit:ident, $($every:ident,)*; $($ignored:ident,)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $every() {
                $crate::bed::in_time($crate::bed::$limit, super::$every($version)).await;
            })*
            $(#[tokio::test]
            #[ignore = "runs with tests/cli-versions"]
            async fn $ignored() {
                $crate::bed::in_time($crate::bed::$limit, super::$ignored($version)).await;
            })*
        }
    };
}
pub(crate) use on_version;

/// Runs a scenario, and fails if it hangs.
pub async fn in_time(limit: Duration, scenario: impl Future<Output = ()>) {
    let ended = tokio::time::timeout(limit, scenario).await;
    assert!(ended.is_ok(), "the scenario did not end in {limit:?}");
}

/// A service and the API that its CLIs talk to. Ends with [`Bed::stop`].
pub struct Bed {
    pub api: StandIn,
    pub service: Service,
}

impl Bed {
    pub async fn start(version: Version) -> Self {
        Self::with(version, |_| {}).await
    }

    /// With what `change` makes of the configuration.
    pub async fn with(version: Version, change: impl FnOnce(&mut Config)) -> Self {
        let api = StandIn::start().await.expect("a stand-in");
        let service = Service::start(|config| {
            on_real_cli(config, version, &api);
            change(config);
        })
        .await;
        Self { api, service }
    }

    /// Stops the service and starts it again where it was, with what `change` makes of the
    /// configuration now.
    pub async fn restarted(self, version: Version, change: impl FnOnce(&mut Config)) -> Self {
        let Self { api, service } = self;
        let (_, state) = service.end().await;
        let mut config = fake_cli(state.path());
        on_real_cli(&mut config, version, &api);
        change(&mut config);
        let service = Service::with(config, state).await;
        Self { api, service }
    }

    /// Stops both; fails the test if a process is left, or if a CLI was made to send what
    /// the API does not take.
    pub async fn stop(self) {
        assert_eq!(self.api.refused(), [] as [&str; 0]);
        self.service.stop().await;
        self.api.shutdown().await.expect("no connection is left");
    }

    /// Starts a turn whose events carry the CLI's frames too.
    pub async fn open(&self, request: QueryRequest) -> Turn {
        let request = QueryRequest { payload: Payload::Both.into(), ..request };
        self.service.open(request).await.expect("accepted")
    }

    /// Runs a turn to its end and checks that its events say all that the CLI said.
    pub async fn run(&self, request: QueryRequest) -> Turn {
        let request = QueryRequest { payload: Payload::Both.into(), ..request };
        let turn = self.service.run(request).await;
        lossless::check(&turn);
        turn
    }

    /// Runs a turn that has only a session and a prompt.
    pub async fn query(&self, session: &str, prompt: &str) -> Turn {
        self.run(query(session, prompt)).await
    }

    pub async fn update(
        &self,
        session: &str,
        options: SessionOptions,
    ) -> Result<proto::UpdateSessionResponse, Status> {
        self.service.update(session, options).await
    }

    pub async fn respond(
        &self,
        session: &str,
        prompt_id: &str,
        decision: proto::respond_request::Decision,
    ) -> Result<(), Status> {
        let request = proto::RespondRequest {
            session_id: session.into(),
            prompt_id: prompt_id.into(),
            decision: Some(decision),
        };
        self.service.client.clone().respond(request).await.map(drop)
    }

    /// The last request that the API got from a conversation.
    pub fn last_request(&self, cli_session_id: &str) -> Arc<RecordedRequest> {
        let mut requests = self.api.requests_of(cli_session_id);
        requests.retain(|request| request.path == "/v1/messages");
        requests.pop().expect("the CLI asked the API")
    }

    /// The process that serves a session.
    pub async fn pid(&self, session: &str) -> u32 {
        self.service.session(session).await.expect("a session").process_id
    }

    /// Waits until the CLI has written a turn's answer to its transcript. 2.1.197 does
    /// so some 60 ms after the result.
    pub async fn until_written(&self, turn: &Turn) {
        let last = kinds(turn).filter_map(|kind| match kind {
            Kind::Assistant(message) => Some(message.message_id.as_str()),
            _ => None,
        });
        let last = last.last().expect("an answer");
        let written = async || {
            let file = self.transcript(&turn.result().cli_session_id)?;
            fs::read_to_string(file).ok()?.contains(last).then_some(())
        };
        eventually("the transcript is written", written).await;
    }

    /// The folders of the CLI's transcripts.
    pub fn projects(&self) -> PathBuf {
        self.service.state.path().join("tenants/default/claude/projects")
    }

    /// The CLI's file of a conversation, if it is there.
    pub fn transcript(&self, cli_session_id: &str) -> Option<PathBuf> {
        let name = format!("{cli_session_id}.jsonl");
        let folders = fs::read_dir(self.projects()).ok()?.filter_map(Result::ok);
        folders.map(|folder| folder.path().join(&name)).find(|file| file.exists())
    }

    /// Kills the process that serves a session after this turn, once the CLI has written
    /// it, and waits until the service knows.
    pub async fn kill_after(&self, turn: &Turn) {
        self.until_written(turn).await;
        self.kill_now(turn).await;
    }

    /// The same at once, written or not.
    pub async fn kill_now(&self, turn: &Turn) {
        let session = &turn.started().session_id;
        kill(self.pid(session).await);
        eventually("the loss is noticed", async || (self.pid(session).await == 0).then_some(()))
            .await;
    }

    /// The service's processes that run exactly this command line.
    pub fn running(&self, command: &str) -> Vec<u32> {
        let mut pids = self.service.processes();
        pids.retain(|pid| command_line(*pid) == command);
        pids
    }

    /// Waits until this command runs.
    pub async fn until_running(&self, command: &str) -> u32 {
        eventually(command, async || self.running(command).first().copied()).await
    }

    /// Waits until this command runs no more.
    pub async fn until_ended(&self, command: &str) {
        let what = format!("the end of {command}");
        eventually(&what, async || self.running(command).is_empty().then_some(())).await;
    }
}

fn on_real_cli(config: &mut Config, version: Version, api: &StandIn) {
    config.cli.path = version.executable();
    config.cli.env = environment(api);
    // Other programs keep the machine busy while this one is tested.
    config.pool.stream_first_chunk_timeout = Duration::from_secs(30);
    config.pool.start_concurrency = 2;
}

/// What keeps a CLI from talking to anything but the stand-in.
pub fn environment(api: &StandIn) -> BTreeMap<String, String> {
    [
        ("ANTHROPIC_BASE_URL", api.url()),
        ("ANTHROPIC_API_KEY", "sk-ant-dummy".to_owned()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ")
}

/// The same Query with its text in pieces.
pub fn in_pieces(request: QueryRequest) -> QueryRequest {
    let options = SessionOptions {
        include_partial_messages: Some(true),
        ..request.options.unwrap_or_default()
    };
    QueryRequest { options: Some(options), ..request }
}

/// How a turn came by its process.
#[track_caller]
pub fn origin(turn: &Turn) -> TurnOrigin {
    turn.started().origin()
}

/// What `init` said in a turn.
#[track_caller]
pub fn init(turn: &Turn) -> &proto::SystemInit {
    let mut inits = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::System(system) => system.init.as_ref(),
        _ => None,
    });
    inits.next_back().expect("system/init")
}

/// Whether the CLI has a slash command. 2.1.110 does not have `/clear` on this interface,
/// and answers it as every other command that it does not know.
#[track_caller]
pub fn has_command(turn: &Turn, name: &str) -> bool {
    init(turn).slash_commands.iter().any(|command| command == name)
}

/// How the prompts of a turn were resolved, in order.
pub fn resolved(turn: &Turn) -> Vec<(PromptResolver, PromptDecision)> {
    let resolved = kinds(turn).filter_map(|kind| match kind {
        Kind::PromptResolved(resolved) => Some((resolved.by(), resolved.decision())),
        _ => None,
    });
    resolved.collect()
}

/// The kinds of a turn's events, without `started`.
pub fn kinds(turn: &Turn) -> impl Iterator<Item = &Kind> {
    turn.events.iter().skip(1).filter_map(|event| event.kind.as_ref())
}

/// Names of the tools in a request to the API.
pub fn tools(request: &RecordedRequest) -> Vec<&str> {
    let tools = request.body["tools"].as_array().into_iter().flatten();
    tools.filter_map(|tool| tool["name"].as_str()).collect()
}

/// The texts of the system prompt of a request to the API.
pub fn system_prompt(request: &RecordedRequest) -> String {
    let blocks = request.body["system"].as_array().into_iter().flatten();
    let texts: Vec<&str> = blocks.filter_map(|block| block["text"].as_str()).collect();
    texts.join("\n")
}

/// A string in an event that holds JSON.
#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The texts of the tools' results, in order.
pub fn tool_results(turn: &Turn) -> Vec<String> {
    let blocks = kinds(turn).flat_map(|kind| match kind {
        Kind::User(message) => message.content.as_slice(),
        _ => &[],
    });
    let text = |block: &ContentBlock| match block.block.as_ref()? {
        Block::ToolResult(result) => Some(result.text.clone()),
        _ => None,
    };
    blocks.filter_map(text).collect()
}
