//! A running service, in this process and on a port of its own.

use std::{path::Path, path::PathBuf, time::Duration};

use session_pool::{
    config::Config,
    internals::{cli::sandbox::Sandbox, tasks::spawn_owned},
    proto::{self, QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client},
    server::Server,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use super::{log, processes, turn::Turn};

/// A service with a state folder of its own. End it with [`Service::stop`], which
/// checks that it left nothing behind.
pub struct Service {
    pub client: Client<Channel>,
    pub address: String,
    pub state: TempDir,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<bool>>,
}

/// The configuration of a service on the fake CLI, with short bounds.
pub fn fake_cli(state: &Path) -> Config {
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.drain_timeout = Duration::from_millis(200);
    config.cli.path = PathBuf::from(env!("CARGO_BIN_EXE_fake-claude"));
    // Tests count processes; those of the check have tests of their own.
    config.cli.start_check = false;
    config.state_dir = state.to_owned();
    config.pool.max_processes = 64;
    config.pool.start_concurrency = 32;
    config
}

/// A server with this configuration, which does not serve yet.
pub async fn bound(config: Config) -> Server {
    log::capture();
    super::eventually("the lock of an earlier service is free", async || {
        match Server::bind(config.clone(), process_tree()).await {
            // Between fork and exec a program that another test of this process starts has
            // all of its files, that lock among them.
            Err(error) if error.to_string().contains("another service uses") => None,
            bound => Some(bound.expect("bound")),
        }
    })
    .await
}

/// The sandbox that works everywhere.
pub fn process_tree() -> Sandbox {
    Sandbox::ProcessTree(env!("CARGO_BIN_EXE_session-pool").into())
}

impl Service {
    /// A service on the fake CLI, with what `change` makes of its configuration.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let state = TempDir::new().expect("a folder");
        let mut config = fake_cli(state.path());
        change(&mut config);
        Self::with(config, state).await
    }

    /// A service with this configuration.
    pub async fn with(config: Config, state: TempDir) -> Self {
        Self::of(bound(config).await, state)
    }

    /// A service that is bound already.
    pub fn of(server: Server, state: TempDir) -> Self {
        let address = format!("http://{}", server.address().expect("an address"));
        let stop = CancellationToken::new();
        let (stopped, hurry) = (stop.clone(), CancellationToken::new());
        let running = spawn_owned(async move {
            server.run(async move { stopped.cancelled().await }, hurry).await
        });
        // A service that wants TLS or a token is called by clients of the test's own.
        let channel = Channel::from_shared(address.clone()).expect("an address").connect_lazy();
        let client = Client::new(channel).max_decoding_message_size(64 * 1024 * 1024);
        Self { client, address, state, stop, running }
    }

    /// A connection, for clients of other services at the same address.
    pub async fn channel(&self) -> Channel {
        let channel = Channel::from_shared(self.address.clone()).expect("an address");
        channel.connect().await.expect("connected")
    }

    /// A second caller, on a connection of its own.
    pub async fn another_client(&self) -> Client<Channel> {
        Client::connect(self.address.clone()).await.expect("connected")
    }

    /// Starts a turn and returns its stream, as the caller sees it.
    pub async fn open(&self, request: QueryRequest) -> Result<Turn, Status> {
        Ok(Turn::new(self.client.clone().query(request).await?.into_inner()))
    }

    /// Runs a turn to its end.
    pub async fn query(&self, session: &str, prompt: &str) -> Turn {
        self.run(query(session, prompt)).await
    }

    /// Runs a turn to its end. A refusal is a turn without events.
    pub async fn run(&self, request: QueryRequest) -> Turn {
        match self.open(request).await {
            Ok(mut turn) => {
                turn.finish().await;
                turn
            }
            Err(status) => Turn::refused(status),
        }
    }

    /// Joins a turn; without an id the running one, else the last.
    pub async fn attach(&self, session: &str, turn: &str, from: u64) -> Result<Turn, Status> {
        let request = proto::AttachRequest {
            session_id: session.into(),
            turn_id: turn.into(),
            from_sequence: from,
            ..proto::AttachRequest::default()
        };
        Ok(Turn::attached(self.client.clone().attach(request).await?.into_inner()))
    }

    pub async fn interrupt(&self, session: &str, keep: bool) -> proto::InterruptResponse {
        let request = proto::InterruptRequest {
            session_id: session.into(),
            keep_session: keep,
            ..proto::InterruptRequest::default()
        };
        self.client.clone().interrupt(request).await.expect("answered").into_inner()
    }

    pub async fn session(&self, session: &str) -> Result<proto::Session, Status> {
        let request = proto::GetSessionRequest { session_id: session.into() };
        let response = self.client.clone().get_session(request).await?.into_inner();
        Ok(response.session.expect("a session"))
    }

    pub async fn close(&self, session: &str, forget: bool) -> Result<bool, Status> {
        let request = proto::CloseSessionRequest { session_id: session.into(), forget };
        Ok(self.client.clone().close_session(request).await?.into_inner().had_active_turn)
    }

    pub async fn update(
        &self,
        session: &str,
        options: proto::SessionOptions,
    ) -> Result<proto::UpdateSessionResponse, Status> {
        let request =
            proto::UpdateSessionRequest { session_id: session.into(), options: Some(options) };
        Ok(self.client.clone().update_session(request).await?.into_inner())
    }

    pub async fn stats(&self) -> proto::GetStatsResponse {
        let request = proto::GetStatsRequest::default();
        self.client.clone().get_stats(request).await.expect("answered").into_inner()
    }

    /// Ids of the CLI processes of this service and of all that they started.
    pub fn processes(&self) -> Vec<u32> {
        processes::of_state(self.state.path())
    }

    /// Kills a session's CLI between turns, once what was `said` is on disk: the CLI writes
    /// it only after it has printed the result.
    pub async fn kill_cli(&self, session: &str, said: &str) {
        let shown = self.session(session).await.expect("a session");
        let file = format!("{}.jsonl", shown.cli_session_id);
        super::eventually("the transcript", async || {
            let text = read_below(self.state.path(), &file)?;
            text.contains(said).then_some(())
        })
        .await;
        processes::kill(shown.process_id);
    }

    /// Stops the service as SIGTERM does. Returns whether every turn had ended by
    /// itself; fails the test if a process is left.
    pub async fn stop(self) -> bool {
        self.end().await.0
    }

    /// As [`Service::stop`]; what the service keeps can be given to another.
    pub async fn end(self) -> (bool, TempDir) {
        self.stop.cancel();
        let in_order = self.running.await.expect("no panic").expect("stopped");
        assert_eq!(processes::of_state(self.state.path()), [0; 0], "processes are left");
        (in_order, self.state)
    }
}

/// The text of the file of this name somewhere below a folder.
fn read_below(folder: &Path, name: &str) -> Option<String> {
    std::fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        match entry.file_type().ok()?.is_dir() {
            true => read_below(&entry.path(), name),
            false if entry.file_name() == name => std::fs::read_to_string(entry.path()).ok(),
            false => None,
        }
    })
}

/// A Query with only its session and its prompt.
pub fn query(session: &str, prompt: &str) -> QueryRequest {
    QueryRequest { session_id: session.into(), prompt: prompt.into(), ..QueryRequest::default() }
}

/// A Query with options for its session.
pub fn query_with(session: &str, prompt: &str, options: proto::SessionOptions) -> QueryRequest {
    QueryRequest { options: Some(options), ..query(session, prompt) }
}

/// Options with only a model, which is how the fake CLI is told of start-up faults.
pub fn model(name: &str) -> proto::SessionOptions {
    proto::SessionOptions { model: Some(name.into()), ..proto::SessionOptions::default() }
}

/// A script for the fake CLI.
pub fn script(lines: &[&str]) -> String {
    format!("#!fake\n{}", lines.join("\n"))
}
