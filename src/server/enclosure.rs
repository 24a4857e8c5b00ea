//! Which sandbox the service uses, decided once before anything else is started, and
//! whether the service itself runs under a supervisor.

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::Context as _;
use tracing::info;

use super::{early::EarlyStop, settings, state::make_folders};
use crate::{
    cli::sandbox::{self, MountPlan, Sandbox, Tried, Unsupported, View},
    config::{CgroupMode, Config, EgressConfig, SandboxMode, StoreKind},
    os::{
        cgroup::Delegated,
        supervisor::{self, Ending, Strays},
    },
};

/// The program's own file, also after it was replaced by a newer one.
const OURSELVES: &str = "/proc/self/exe";

/// What was decided.
#[derive(Debug, Clone)]
pub struct Enclosure {
    /// What every CLI is enclosed in.
    pub sandbox: Sandbox,
    /// Why it is not one that comes before it; empty if none does.
    pub passed_over: String,
    /// What was tried against it at the start, and how that ended.
    pub attempts: Vec<String>,
    /// Where sessions have control groups.
    pub groups: Option<Delegated>,
}

impl Enclosure {
    /// The sandbox of `cli.sandbox`, found out by trying. `secrets` are files of the
    /// service's own that no session may read. Waits for processes.
    pub fn choose(config: &Config, secrets: &[PathBuf]) -> anyhow::Result<Self> {
        Self::choose_with(config, secrets, Path::new(OURSELVES))
    }

    /// Likewise, with another program that has the supervisor as a subcommand.
    pub fn choose_with(
        config: &Config,
        secrets: &[PathBuf],
        program: &Path,
    ) -> anyhow::Result<Self> {
        make_folders(config)?;
        let hidden = hidden_files(config, secrets);
        let namespaces = || sandbox::bubblewrap(&view(config, &hidden, program));
        let tree = || sandbox::process_tree(program);
        let asked = |tried: Result<Tried, Unsupported>| {
            let mode = config.cli.sandbox.as_str();
            tried.with_context(|| format!("cli.sandbox: {mode} does not work here"))
        };
        let (tried, passed_over) = match config.cli.sandbox {
            SandboxMode::Bubblewrap => (asked(namespaces())?, String::new()),
            SandboxMode::ProcessTree => (asked(tree())?, String::new()),
            SandboxMode::Auto => match namespaces() {
                Ok(tried) => (tried, String::new()),
                Err(why) => {
                    let why = format!("bubblewrap: {why}");
                    let or = || format!("cli.sandbox: nothing works here; {why}; process-tree");
                    (tree().with_context(or)?, why)
                }
            },
        };
        let Tried { sandbox, mut attempts } = tried;
        attempts.extend(limits_told(config));
        if config.cli.sandbox_required && !sandbox.is_wall() {
            let name = sandbox.name();
            let why = match passed_over.is_empty() {
                true => format!("cli.sandbox = {name:?} does not keep sessions apart"),
                false => format!("only {name} works here, which does not; {passed_over}"),
            };
            anyhow::bail!("cli.sandbox_required: a sandbox has to keep sessions apart: {why}");
        }
        Ok(Self { sandbox, passed_over, attempts, groups: None })
    }

    /// What the supervisor that this process runs under has decided.
    pub fn of_supervisor(config: &Config, secrets: &[PathBuf]) -> Option<Self> {
        let word = supervisor::kept_as()?;
        let Handed { bubblewrap, nesting, passed_over, attempts } =
            serde_json::from_str(&word).ok()?;
        let sandbox = if bubblewrap {
            let hidden = hidden_files(config, secrets);
            let plan = MountPlan::of_this_machine(&view(config, &hidden, Path::new(OURSELVES)));
            Sandbox::Bubblewrap(Arc::new(MountPlan { nesting, ..plan }))
        } else {
            Sandbox::ProcessTree(OURSELVES.into())
        };
        Some(Self { sandbox, passed_over, attempts, groups: None })
    }

    /// Has sessions get control groups of their own, where that can be. Only by whoever has the
    /// state folder: groups that an earlier life has left are ended. Waits for processes.
    pub fn divided(mut self, config: &Config) -> anyhow::Result<Self> {
        let mode = config.cli.cgroups;
        let told =
            match (mode != CgroupMode::Off).then(|| Delegated::take(settings::groups(config))) {
                None => "not used (cli.cgroups)".to_owned(),
                Some(Ok(groups)) => {
                    self.groups = Some(groups);
                    "each session has its own, which the kernel bounds and ends".to_owned()
                }
                Some(Err(why)) if mode == CgroupMode::Required => {
                    anyhow::bail!("cli.cgroups = \"required\": they are not to be had: {why}")
                }
                Some(Err(why)) => format!("not to be had: {why}"),
            };
        info!(detail = told, "control_groups");
        self.attempts.push(format!("control groups: {told}"));
        Ok(self)
    }

    /// What the service has to know of this when it runs under a supervisor.
    fn handed_on(&self) -> io::Result<String> {
        let nesting = matches!(&self.sandbox, Sandbox::Bubblewrap(plan) if plan.nesting);
        let handed = Handed {
            bubblewrap: self.sandbox.is_wall(),
            nesting,
            passed_over: self.passed_over.clone(),
            attempts: self.attempts.clone(),
        };
        serde_json::to_string(&handed).map_err(io::Error::other)
    }

    /// Whether the service has to run under a supervisor: to be outlived by somebody who ends
    /// what it leaves, or as the first process of a container, to which fall all that
    /// lose their parents.
    pub fn needs_supervisor(&self) -> bool {
        matches!(self.sandbox, Sandbox::ProcessTree(_)) || std::process::id() == 1
    }

    /// Runs this program once more, with the same arguments, as a child, and keeps it to
    /// its end. No threads may have been started.
    pub fn keep_ourselves(&self, early: &EarlyStop) -> io::Result<Ending> {
        let mut arguments = env::args_os();
        let mut command = Command::new(env::current_exe()?);
        command.arg0(arguments.next().unwrap_or_else(|| "session-pool".into()));
        command.args(arguments);
        supervisor::mark_as_kept(&mut command, &self.handed_on()?);
        supervisor::keep(&mut command, Strays::Die, |_| early.hand_over())
    }
}

/// What a session is held to in either sandbox, and by whom.
fn limits_told(config: &Config) -> [String; 4] {
    let over = |what: &str, limit: u64, unit: &str, key: &str| match limit {
        0 => format!("{what} of a session: not bounded ({key})"),
        _ => format!("{what} of a session: ended by the service over {limit}{unit} ({key})"),
    };
    let processes = config.policy.max_processes_per_session as u64;
    let open_files = match config.cli.max_open_files {
        0 => "as many as the service".to_owned(),
        most => format!("at most {most}"),
    };
    [
        over("memory", config.cli.memory_limit, " bytes", "cli.memory_limit"),
        over("processes", processes, "", "policy.max_processes_per_session"),
        over("files", config.policy.max_workspace_bytes, " bytes", "policy.max_workspace_bytes"),
        format!("each process: open {open_files} files, no core files (kernel)"),
    ]
}

/// The database may lie outside the state folder; tokens and keys do. An agent can read the
/// variables of its own CLI, but not the files that later values of them come from.
fn hidden_files(config: &Config, secrets: &[PathBuf]) -> Vec<PathBuf> {
    let database = (config.store.kind == StoreKind::Sqlite).then(|| config.database_file());
    let (cluster, traces) = (&config.cluster, &config.traces);
    let credentials = [
        &config.auth.tokens_file,
        &config.tls.key,
        &config.store.url_file,
        &cluster.key,
        &cluster.token_file,
        &traces.headers_file,
    ];
    let variables = config.cli.variables_in_files().map(|(_, file)| file);
    let of_api = config.gateway.credential_files().cloned();
    let files =
        secrets.iter().cloned().chain(database).chain(credentials.into_iter().flatten().cloned());
    files.chain(variables).chain(of_api).collect()
}

/// A sandbox that nothing was tried against.
impl From<Sandbox> for Enclosure {
    fn from(sandbox: Sandbox) -> Self {
        Self { sandbox, passed_over: String::new(), attempts: Vec::new(), groups: None }
    }
}

/// What a supervisor hands on to the service that it keeps.
#[derive(serde::Serialize, serde::Deserialize)]
struct Handed {
    bubblewrap: bool,
    nesting: bool,
    passed_over: String,
    attempts: Vec<String>,
}

/// What the operator hides, and the folder of the audit log: as a whole, so that the files of days to
/// come are hidden, too.
fn hidden_by_name(config: &Config) -> Vec<PathBuf> {
    let of_audit = config.audit.files().and_then(|file| file.parent()).map(Path::to_owned);
    config.sandbox.hidden.iter().map(PathBuf::from).chain(of_audit).collect()
}

/// What sessions may see of this machine.
fn view<'a>(config: &'a Config, secrets: &'a [PathBuf], supervisor: &'a Path) -> View<'a> {
    View {
        state_dir: &config.state_dir,
        secrets,
        program: &config.cli.path,
        visible: config.sandbox.readable.iter().map(PathBuf::from).collect(),
        hidden: hidden_by_name(config),
        tmp_bytes: config.cli.tmp_limit,
        max_tasks: config.cli.max_tasks as u64,
        own_network: config.policy.egress != EgressConfig::Open,
        supervisor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TenantCredential;

    #[test]
    fn every_file_with_a_secret_is_hidden_wherever_it_lies() {
        let mut config = Config::default();
        config.auth.tokens_file = Some("/tokens".into());
        config.tls.key = Some("/tls-key".into());
        config.store.url_file = Some("/url".into());
        config.cluster.key = Some("/node-key".into());
        config.cluster.token_file = Some("/node-token".into());
        config.traces.headers_file = Some("/headers".into());
        config.cli.env_files = vec!["API_KEY=/api-key".into()];
        config.gateway.api_key_file = Some("/gateway-key".into());
        config.gateway.tenant = vec![TenantCredential {
            tenant: "t".into(),
            api_key_file: None,
            bearer_token_file: Some("/tenant-token".into()),
        }];
        let hidden = hidden_files(&config, &["/config.toml".into()]);
        for file in [
            "/config.toml",
            "/tokens",
            "/tls-key",
            "/url",
            "/node-key",
            "/node-token",
            "/headers",
            "/api-key",
            "/gateway-key",
            "/tenant-token",
        ] {
            assert!(hidden.contains(&PathBuf::from(file)), "{file}: {hidden:?}");
        }
    }
}
