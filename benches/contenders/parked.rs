//! The floor of a start on the real CLI: the process that the service would start, with the same flags and folders,
//! started by hand; parked two seconds before it is needed, or asked at once.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use session_pool::internals::{
    cli::{
        binding,
        command::Folders,
        env_files::EnvFiles,
        launch::{ConversationOrigin, LaunchSettings},
        request::{Initialize, user_message},
        sandbox::Sandbox,
        versions::Installed,
    },
    domain::{
        ids::{CliSessionId, ClientId, TenantId},
        input::Input,
        options::Options,
    },
    os::limits::OfEach,
};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{floor::Session, protocol::Outcome};

const SERVICE: &str = env!("CARGO_BIN_EXE_session-pool");
/// Every session that is started on the real CLI has it.
pub const SYSTEM_PROMPT: &str = "You are brief.";

/// A process that has not been asked for anything.
pub struct Parked(Session);

impl Parked {
    /// Starts one, and lets it come to rest.
    pub async fn start() -> Outcome<Self> {
        let program = PathBuf::from(std::env::var_os("BENCH_CLI").ok_or("no BENCH_CLI")?);
        let mut parked = real(&program)?;
        parked.0.write(&binding::probe().line)?;
        sleep(Duration::from_secs(2)).await;
        Ok(parked)
    }

    /// Sends it all that a first turn needs, in one write.
    pub fn open(mut self) -> Outcome<Session> {
        let options = Options { system_prompt: Some(SYSTEM_PROMPT.into()), ..Options::default() };
        let prompt = user_message(&Input::Text("hello".into()), uuid::Uuid::new_v4());
        self.0.write(&[Initialize::of(&options).request().line, prompt].concat())?;
        Ok(self.0)
    }
}

/// Starts a process as the service does.
pub fn real(program: &Path) -> Outcome<Parked> {
    let place = TempDir::new()?;
    let folder = |name: &str| place.path().join(name);
    let folders = Folders {
        work: folder("work"),
        config: folder("claude"),
        home: folder("home"),
        extra: Vec::new(),
    };
    for folder in [&folders.work, &folders.config, &folders.home] {
        std::fs::create_dir(folder)?;
    }
    let api =
        ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"];
    let settings = LaunchSettings {
        program: program.to_owned(),
        extra_args: Vec::new(),
        env: api
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect(),
        env_files: EnvFiles::default(),
        env_passthrough: Vec::new(),
        state_dir: place.path().to_owned(),
        sandbox: Sandbox::ProcessTree(SERVICE.into()),
        installed: Installed::default(),
        rules: Vec::new(),
        limits: OfEach::default(),
        groups: None,
    };
    let origin = ConversationOrigin::New(CliSessionId::fresh());
    let inherited = |name: &str| std::env::var(name).ok();
    let (tenant, mark) = (TenantId::default(), ClientId::fresh());
    let command = settings.command(&tenant, origin, &Options::default(), &folders, mark, inherited);
    let mut process = Command::new(&command.program);
    process.args(&command.args).env_clear().envs(&command.env).current_dir(&command.cwd);
    let mut session = Session::of(process)?;
    session.place = Some(place);
    Ok(Parked(session))
}
