//! The command line of the program.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};

use super::{
    exit::{Exit, Failure},
    values::one_line,
};

mod configuration;
mod options;
mod session;

pub use configuration::{ConfigAction, ConfigArgs, TokenArgs};
pub use options::{
    Answer, AttachArgs, ChatArgs, CloseArgs, Form, InterruptArgs, OnBackground, OnBusy,
    OnDisconnect, OnMismatch, QueryArgs, RespondArgs, SessionsArgs, Show, ShowArgs, StopTaskArgs,
    UpdateArgs, WatchArgs,
};
pub use session::OptionArgs;

const EXIT_CODES: &str = "Exit codes:
   0  fine
   1  the turn ended, and its result is an error
   2  wrong use of the command line
   3  no such session or turn
   4  refused now, worth a retry (at capacity, busy, unavailable, not serving)
   5  a timeout
   6  interrupted or cancelled
   7  refused (policy, options, arguments, credentials)
   8  anything else
  64  the configuration is refused
  69  cannot connect";

/// Claude CLI sessions as a gRPC service, and a client of it.
#[derive(Debug, Parser)]
#[command(name = "session-pool", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service.
    Serve(ConfigArgs),
    /// Show or check the configuration that `serve` would run with.
    Config {
        /// Which of the two.
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Make a token: it goes to stdout, its entry for auth.tokens_file to stderr.
    Token(TokenArgs),
    /// Write a completion script for a shell to stdout.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Write the manual page, of the program or of one of its commands, to stdout.
    Man {
        /// The command, for example query.
        command: Option<String>,
    },
    /// What a running service is asked for.
    #[command(flatten)]
    Client(#[command(subcommand)] AddressedCommand),
}

/// A command for a running service.
#[derive(Debug, Subcommand)]
pub enum AddressedCommand {
    /// Run one turn and show it as it happens.
    Query(Box<Addressed<QueryArgs>>),
    /// Talk with a session; with --turn, or elsewhere than at a terminal, join a turn.
    ///
    /// At a terminal, without --turn, --from and --json: follows the session over all of its turns
    /// and over restarts of the service, asks what the CLI asks (y, n, a: always, e: edit the input in
    /// $EDITOR), and sends what is typed as prompts. A line is a prompt; one that ends in \ goes on
    /// with the next; :edit writes one in $EDITOR. Ctrl-C interrupts the running turn, and leaves at
    /// the second time within 2 seconds or when none runs; Ctrl-D leaves. The session stays.
    ///
    /// Otherwise: shows the turn, which is running or ended a moment ago, and ends with it.
    Attach(Addressed<AttachArgs>),
    /// Talk with a session of its own, at a terminal, as attach does.
    ///
    /// The first prompt makes the session with the options that are given here. It is closed when one
    /// leaves; its conversation stays, unless --forget is given, and `attach` takes it up again.
    Chat(Box<Addressed<ChatArgs>>),
    /// Follow a session over all of its turns, until it is closed.
    Watch(Addressed<WatchArgs>),
    /// Answer what the CLI asks in a turn: whether a tool may run, first of all.
    Respond(Addressed<RespondArgs>),
    /// Show one session.
    Show(Addressed<ShowArgs>),
    /// Change options of a session.
    Update(Box<Addressed<UpdateArgs>>),
    /// Stop a session's turn.
    Interrupt(Addressed<InterruptArgs>),
    /// Stop a subagent or a command that works in a session's background.
    StopTask(Addressed<StopTaskArgs>),
    /// Stop every session's turn.
    InterruptAll(Addressed<ScopeArgs>),
    /// End a session.
    Close(Addressed<CloseArgs>),
    /// List the sessions.
    Sessions(Addressed<SessionsArgs>),
    /// Show the pool's figures.
    Stats(Addressed<StatsArgs>),
    /// Ask whether the service takes new turns.
    Health(Addressed<HealthArgs>),
}

/// Whose sessions a command is about.
#[derive(Debug, Clone, Copy, Args)]
pub struct ScopeArgs {
    /// Those of all tenants, not only of the caller's; needs the role admin.
    #[arg(long)]
    pub all_tenants: bool,
    /// How to show it.
    #[command(flatten)]
    pub form: Form,
}

/// Arguments of `stats`.
#[derive(Debug, Clone, Copy, Args)]
pub struct StatsArgs {
    /// The figures of all nodes that share the database, and of each.
    #[arg(long)]
    pub cluster: bool,
    /// Whose they are.
    #[command(flatten)]
    pub whose: ScopeArgs,
}

/// Arguments of `health`.
#[derive(Debug, Clone, Copy, Args)]
pub struct HealthArgs {
    /// Show also what the service runs and how it encloses that.
    #[arg(long, short)]
    pub verbose: bool,
    /// How to show it.
    #[command(flatten)]
    pub form: Form,
}

/// A command's arguments and where its service is.
#[derive(Debug, Args)]
pub struct Addressed<A: Args> {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    args: A,
}

/// Where the service is, and who asks it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Service")]
pub struct ServerArgs {
    /// Where the service listens: http://host:port, or https://host:port for TLS.
    #[arg(
        long,
        value_name = "URL",
        env = "SESSION_POOL_ADDRESS",
        default_value = "http://127.0.0.1:50051"
    )]
    pub address: String,
    /// File that holds the token to send; without it the variable SESSION_POOL_TOKEN counts.
    #[arg(long, value_name = "PATH", env = "SESSION_POOL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Authorities that the service's certificate may be from (PEM).
    #[arg(long, value_name = "PATH", env = "SESSION_POOL_CA_CERT")]
    pub ca_cert: Option<PathBuf>,
    /// Client certificate to show (PEM).
    #[arg(long, value_name = "PATH", env = "SESSION_POOL_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "PATH", env = "SESSION_POOL_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// A client command ready to run.
#[derive(Debug)]
pub struct Client {
    /// Where the service is, and who asks it.
    pub server: ServerArgs,
    /// What it is asked.
    pub command: ClientCommand,
}

/// What the service is asked.
#[derive(Debug)]
pub enum ClientCommand {
    /// `query`
    Query(Box<QueryArgs>),
    /// `attach`
    Attach(AttachArgs),
    /// `chat`
    Chat(Box<ChatArgs>),
    /// `watch`
    Watch(WatchArgs),
    /// `respond`
    Respond(RespondArgs),
    /// `show`
    Show(ShowArgs),
    /// `update`
    Update(Box<UpdateArgs>),
    /// `interrupt`
    Interrupt(InterruptArgs),
    /// `stop-task`
    StopTask(StopTaskArgs),
    /// `interrupt-all`
    InterruptAll(ScopeArgs),
    /// `close`
    Close(CloseArgs),
    /// `sessions`
    Sessions(SessionsArgs),
    /// `stats`
    Stats(StatsArgs),
    /// `health`
    Health(HealthArgs),
}

impl From<AddressedCommand> for Client {
    fn from(command: AddressedCommand) -> Self {
        fn with<A: Args>(addressed: Addressed<A>, wrap: fn(A) -> ClientCommand) -> Client {
            Client { server: addressed.server, command: wrap(addressed.args) }
        }
        match command {
            AddressedCommand::Query(args) => with(*args, |args| ClientCommand::Query(args.into())),
            AddressedCommand::Attach(args) => with(args, ClientCommand::Attach),
            AddressedCommand::Chat(args) => with(*args, |args| ClientCommand::Chat(args.into())),
            AddressedCommand::Watch(args) => with(args, ClientCommand::Watch),
            AddressedCommand::Respond(args) => with(args, ClientCommand::Respond),
            AddressedCommand::Show(args) => with(args, ClientCommand::Show),
            AddressedCommand::Update(args) => {
                with(*args, |args| ClientCommand::Update(args.into()))
            }
            AddressedCommand::Interrupt(args) => with(args, ClientCommand::Interrupt),
            AddressedCommand::StopTask(args) => with(args, ClientCommand::StopTask),
            AddressedCommand::InterruptAll(args) => with(args, ClientCommand::InterruptAll),
            AddressedCommand::Close(args) => with(args, ClientCommand::Close),
            AddressedCommand::Sessions(args) => with(args, ClientCommand::Sessions),
            AddressedCommand::Stats(args) => with(args, ClientCommand::Stats),
            AddressedCommand::Health(args) => with(args, ClientCommand::Health),
        }
    }
}

impl ClientCommand {
    /// The one session that all its calls are about, if there is one.
    pub(super) fn session(&self) -> Option<&str> {
        let session = match self {
            Self::Query(args) => &args.session,
            Self::Attach(args) => &args.session,
            Self::Watch(args) => &args.session,
            Self::Respond(args) => &args.session,
            Self::Show(args) => &args.session,
            Self::Update(args) => &args.session,
            Self::Interrupt(args) => &args.session,
            Self::StopTask(args) => &args.session,
            Self::Close(args) => &args.session,
            Self::Chat(_)
            | Self::InterruptAll(_)
            | Self::Sessions(_)
            | Self::Stats(_)
            | Self::Health(_) => return None,
        };
        Some(session)
    }

    /// How it ends by Ctrl-C, which is the usual end of watching, and what is said then.
    pub(super) fn when_interrupted(&self) -> (Exit, String) {
        let (exit, said) = match self {
            Self::Sessions(SessionsArgs { watch: true, .. }) | Self::Watch(_) => {
                return (Exit::Fine, String::new());
            }
            Self::Query(query) => {
                let session = one_line(&query.session);
                let of =
                    if session.is_empty() { session } else { format!(" of session {session}") };
                let said = match query.on_disconnect {
                    OnDisconnect::Interrupt => format!("interrupted: the turn{of} was interrupted"),
                    OnDisconnect::Continue => format!("left: the turn{of} goes on"),
                };
                (Exit::Interrupted, said)
            }
            Self::Attach(_) => (Exit::Interrupted, "left the turn".to_owned()),
            _ => (Exit::Interrupted, "interrupted".to_owned()),
        };
        (exit, format!("\n{said}\n"))
    }

    /// The command with its prompt read from stdin if it says `-` or nothing.
    pub(super) fn with_prompt(mut self) -> Result<Self, Failure> {
        if let Self::Query(query) = &mut self
            && query.prompt.as_deref().is_none_or(|prompt| prompt == "-")
        {
            if query.prompt.is_none() && io::stdin().is_terminal() {
                let usage = "no prompt: give it as an argument, or pipe it to stdin";
                return Err(Failure::Usage(usage.to_owned()));
            }
            let text = io::read_to_string(io::stdin())
                .map_err(|error| Failure::Usage(format!("cannot read the prompt: {error}")))?;
            // The line end is the shell's.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            query.prompt = Some(text.strip_suffix('\r').unwrap_or(text).to_owned());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &[&str]) -> Arguments {
        Arguments::try_parse_from([&["session-pool"], words].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_variable_of_the_command_line_is_known_as_one() {
        let mut names = vec!["SESSION_POOL_TOKEN".to_owned()];
        for command in Arguments::command().get_subcommands() {
            let of_command = command.get_arguments().filter_map(clap::Arg::get_env);
            names.extend(of_command.filter_map(|name| Some(name.to_str()?.to_owned())));
        }
        assert!(names.len() > 5, "{names:?}");
        let env = names.into_iter().map(|name| (name, String::new())).collect();
        let sources = crate::config::Sources { env, ..Default::default() };
        assert_eq!(sources.unknown_variables(), []);
    }

    #[test]
    fn a_query_takes_its_options() {
        let words = [
            "query",
            "--address",
            "http://h:1",
            "--session",
            "s",
            "--allow",
            "Bash",
            "--allow",
            "Read",
            "--on-busy",
            "reject",
            "--timeout",
            "90s",
            "say hi",
        ];
        let Command::Client(command) = parse(&words).command else { panic!("not a client") };
        let Client { server, command: ClientCommand::Query(query) } = command.into() else {
            panic!("not a query")
        };
        assert_eq!(server.address, "http://h:1");
        assert_eq!(query.session, "s");
        assert_eq!(query.options.allow, ["Bash", "Read"]);
        assert_eq!(query.on_busy, OnBusy::Reject);
        assert_eq!(query.timeout, Some(Duration::from_secs(90)));
        assert_eq!(query.prompt.as_deref(), Some("say hi"));
    }

    #[test]
    fn short_forms_become_settings_after_the_general_ones() {
        let words = ["serve", "--listen", "127.0.0.1:2", "--set", "server.listen=127.0.0.1:1"];
        let Command::Serve(args) = parse(&words).command else { panic!("not serve") };
        let flags = args.sources().unwrap().flags;
        let of = |port: &str| ("server.listen".to_owned(), format!("127.0.0.1:{port}"));
        assert_eq!(flags, [of("1"), of("2")]);
    }
}
