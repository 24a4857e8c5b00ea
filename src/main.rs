//! The program: reads the command line, then serves, or asks a service something.

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser as _;
use session_pool::{
    client::{
        self,
        args::{Arguments, Command, ConfigAction, ConfigArgs, TokenArgs},
        documents,
        exit::Exit,
    },
    config::{self, Config, ConfigError, UnknownVariable},
    server,
};

fn main() -> ExitCode {
    if let Some(exit) = server::run_helper(env::args_os().skip(1)) {
        return exit;
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
    let Loaded { config, secrets, unknown } = match load(args) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    server::run(config, &secrets, &unknown).unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        Exit::Other.into()
    })
}

/// The configuration, and what is known of where it is from.
struct Loaded {
    config: Config,
    /// The files that it was read from.
    secrets: Vec<PathBuf>,
    /// Variables that look as if they were to say something.
    unknown: Vec<UnknownVariable>,
}

fn load(args: ConfigArgs) -> Result<Loaded, ConfigError> {
    let sources = args.sources()?;
    let secrets = sources.file.clone().into_iter().collect();
    let unknown = sources.unknown_variables();
    Ok(Loaded { config: config::load(sources)?, secrets, unknown })
}

fn configuration(action: ConfigAction) -> ExitCode {
    let (args, check) = match action {
        ConfigAction::Print(args) => (args, false),
        ConfigAction::Check(args) => (args, true),
    };
    let Loaded { config, unknown, .. } = match load(args) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    unknown.iter().for_each(|variable| complain(&variable.to_string()));
    if !check {
        return written(config::print(&config).as_bytes());
    }
    // Files that it names have to be good too.
    if let Err(problem) = server::check_files(&config) {
        complain(&format!("{problem:#}"));
        return Exit::Configuration.into();
    }
    written(b"the configuration is accepted\n")
}

/// Shows a new token, once, and what is to be added to the tokens file.
fn token(args: &TokenArgs) -> ExitCode {
    let (token, entry) = server::new_token(&args.tenant, args.admin, args.expires_in);
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

fn refuse(error: &ConfigError) -> ExitCode {
    complain(&error.to_string());
    Exit::Configuration.into()
}

fn complain(text: &str) {
    drop(writeln!(io::stderr(), "session-pool: {text}"));
}
