//! The program: reads the command line, then serves, or asks a service something.

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser as _;
use session_pool::{
    access::{credentials::Credentials, tokens},
    client::{
        self,
        args::{Arguments, Command, ConfigAction, ConfigArgs, TokenArgs},
        documents,
        exit::Exit,
    },
    config::{self, Config, ConfigError},
    os::{descriptors, keeper},
    server::{self, EarlyStop, Enclosure},
    telemetry,
};

/// How long threads that wait for a disk are waited for once everything else has ended.
const STUCK_THREADS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    // Not one of the commands: nobody but the service uses it, once for every CLI.
    if arguments.next().is_some_and(|first| first == keeper::SUBCOMMAND) {
        return keeper::run_subcommand(arguments);
    }
    match Arguments::parse().command {
        Command::Serve(args) => serve(args),
        Command::Config { action } => configuration(action),
        Command::Token(args) => token(&args),
        Command::Completions { shell } => written(&documents::completions(shell)),
        Command::Man { command } => match documents::manual(command.as_deref()) {
            Some(page) => written(&page),
            None => {
                complain("there is no such command; session-pool --help lists them");
                Exit::Usage.into()
            }
        },
        Command::Client(command) => ask(command.into()),
    }
}

/// Everything about the configuration is decided before anything is started.
fn serve(args: ConfigArgs) -> ExitCode {
    let (config, secrets) = match load_with_secrets(args) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    let served =
        enclose(&config, &secrets).and_then(|(enclosure, early)| run(config, enclosure, early));
    served.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        Exit::Other.into()
    })
}

/// Finds out what encloses CLIs, and puts this process itself under a keeper if it needs one.
fn enclose(config: &Config, secrets: &[PathBuf]) -> anyhow::Result<(Enclosure, EarlyStop)> {
    descriptors::keep_to_ourselves()?;
    let early = EarlyStop::hold_back()?;
    let enclosure = match Enclosure::of_keeper(config, secrets) {
        Some(enclosure) => Ok(enclosure),
        None => Enclosure::choose(config, secrets).and_then(|enclosure| {
            early.arm()?;
            if enclosure.needs_keeper() {
                enclosure.keep_ourselves(&early)?.repeat();
            }
            Ok(enclosure)
        }),
    };
    early.arm()?;
    Ok((enclosure?, early))
}

fn run(config: Config, enclosure: Enclosure, early: EarlyStop) -> anyhow::Result<ExitCode> {
    telemetry::init(&config.log)?;
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "file_descriptors_not_raised");
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(server::serve(config, enclosure, early));
    // A thread may be stuck in a disk that does not answer.
    runtime.shutdown_timeout(STUCK_THREADS);
    served
}

/// The configuration, and the files that it was read from.
fn load_with_secrets(args: ConfigArgs) -> Result<(Config, Vec<PathBuf>), ConfigError> {
    let sources = args.sources()?;
    let secrets = sources.file.clone().into_iter().collect();
    Ok((config::load(sources)?, secrets))
}

fn configuration(action: ConfigAction) -> ExitCode {
    let (loaded, show): (_, fn(&Config) -> String) = match action {
        ConfigAction::Print(args) => (load(args), config::print),
        ConfigAction::Check(args) => {
            let loaded = load(args);
            // Files that it names have to be good too.
            if let Some(Err(problem)) = loaded.as_ref().ok().map(Credentials::read) {
                complain(&format!("{problem:#}"));
                return Exit::Configuration.into();
            }
            (loaded, |_| "the configuration is accepted\n".into())
        }
    };
    match loaded.map(|config| show(&config)) {
        Ok(text) => {
            // A reader that has gone has read enough.
            drop(io::stdout().write_all(text.as_bytes()));
            Exit::Fine.into()
        }
        Err(error) => refuse(&error),
    }
}

/// Shows a new token, once, and what is to be added to the tokens file.
fn token(args: &TokenArgs) -> ExitCode {
    let (token, entry) = tokens::fresh(&args.tenant, args.admin, args.expires_in);
    let text = format!("{token}\n");
    complain(&format!(
        "give this token to its user; it is not shown again. Add to auth.tokens_file:\n\n{entry}"
    ));
    // A reader that has gone has read enough.
    drop(io::stdout().write_all(text.as_bytes()));
    Exit::Fine.into()
}

fn written(text: &[u8]) -> ExitCode {
    // A reader that has gone has read enough.
    drop(io::stdout().write_all(text));
    Exit::Fine.into()
}

fn ask(client: client::args::Client) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Other.into();
        }
    };
    let exit = runtime.block_on(client::run(client));
    // A command that was interrupted may still be stuck in a write.
    runtime.shutdown_background();
    exit.into()
}

fn load(args: ConfigArgs) -> Result<Config, ConfigError> {
    config::load(args.sources()?)
}

fn refuse(error: &ConfigError) -> ExitCode {
    complain(&error.to_string());
    Exit::Configuration.into()
}

fn complain(text: &str) {
    drop(writeln!(io::stderr(), "session-pool: {text}"));
}
