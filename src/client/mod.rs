//! The subcommands for people and scripts: a client of the service, over the network.
//! Knows the generated types and nothing of how the service works inside.
//!
//! - [`args`] is the command line of the whole program, `serve` and `config` included.
//! - [`exit`] says how a command ended: exit codes, and errors as one line.
//! - [`documents`] writes completions and manual pages, made of the command line.
//! - `connect` makes the connection, `tls` reads the files for it; `assemble` joins events that came in parts.
//! - `turn` runs `query` and `attach`, `watch` shows a session over all of its turns, which
//!   `following` follows; `converse` talks with one, by `attach` at a terminal and by `chat`.
//!   `view` shows the events of a turn, and `render` turns them into text for people.
//!   `prompts` answers what the CLI asks, by the person at the `terminal`; `respond` does by name.
//! - `proto_json` writes every `--json`, in the form that grpcurl prints.
//! - `sessions` runs the commands about sessions, `overview` those about the service;
//!   `tables`, `stats` and `values` write what they answer.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tonic::transport::Channel;

pub mod args;
mod assemble;
mod connect;
mod converse;
mod details;
pub mod documents;
pub mod exit;
mod following;
mod hooks;
mod output;
mod overview;
mod prompts;
mod proto_json;
mod questions;
mod render;
mod respond;
mod sessions;
mod stats;
mod tables;
mod terminal;
mod tls;
mod turn;
mod values;
mod view;
mod watch;

use crate::config::{Sources, is_setting};
use args::{Client, ClientCommand};
use exit::{Exit, Failure, Outcome};

/// Runs one subcommand to its end and says how it ended; what went wrong is told on
/// stderr.
///
/// Ctrl-C ends it at once: the connection closes, by which the service knows that
/// nobody waits for the turn any more. The command runs as a task of its own, so that
/// this works also while it is stuck writing to a pipe that nobody reads; the caller
/// must not wait for such a task when it stops the runtime. A conversation decides about Ctrl-C by
/// itself; until it does, the signal ends the program.
pub async fn run(client: Client) -> Exit {
    warn_of_variables();
    let (interrupted, said) = client.command.when_interrupted();
    let is_conversation = converse::is_meant(&client.command);
    // Before the command shows anything: whoever sees that may press the keys at once.
    let mut interrupts = match is_conversation {
        true => None,
        false => signal(SignalKind::interrupt()).ok(),
    };
    let interrupt = async {
        match &mut interrupts {
            Some(interrupts) => interrupts.recv().await,
            None => None,
        }
    };
    let mut command = JoinSet::new();
    command.spawn(execute(client));
    let outcome = tokio::select! {
        Some(joined) = command.join_next() => joined.unwrap_or_else(|panic| {
            Err(Failure::Output(io::Error::other(panic)))
        }),
        Some(()) = interrupt => {
            output::remark(&said);
            Ok(interrupted)
        }
    };
    outcome.unwrap_or_else(|failure| failure.report())
}

/// Tells of wrong spellings of this side's own variables. Those of the service are its business.
fn warn_of_variables() {
    let Ok(sources) = Sources::from_process(None, Vec::new()) else { return };
    for variable in sources.unknown_variables() {
        if variable.nearest.as_ref().is_some_and(|near| !is_setting(near)) {
            output::remark(&format!("session-pool: {variable}\n"));
        }
    }
}

async fn execute(client: Client) -> Outcome {
    let Client { server, command } = client;
    // Read before connecting: a prompt that cannot be read needs no service.
    let command = command.with_prompt()?;
    let metadata = connect::CallMetadata::read(&server, command.session())?;
    let channel = connect::connect(&server).await?;
    let mut service = connect::service(channel.clone(), metadata);
    let outcome = ask(&mut service, channel, command).await;
    match outcome {
        // Nothing of HTTP/2 came back: it may be TLS that was spoken to.
        Err(Failure::Lost) => Err(connect::explain(&server).await.unwrap_or(Failure::Lost)),
        outcome => outcome,
    }
}

async fn ask(service: &mut connect::Service, channel: Channel, command: ClientCommand) -> Outcome {
    let is_conversation = converse::is_meant(&command);
    match command {
        ClientCommand::Query(query) => turn::query(service, *query).await,
        ClientCommand::Attach(attach) if is_conversation => converse::attach(service, attach).await,
        ClientCommand::Attach(attach) => turn::attach(service, attach).await,
        ClientCommand::Chat(chat) => converse::chat(service, *chat).await,
        ClientCommand::Watch(args) => watch::watch(service, args).await,
        ClientCommand::Respond(respond) => respond::respond(service, respond).await,
        ClientCommand::Show(show) => sessions::show(service, show).await,
        ClientCommand::Update(update) => sessions::update(service, *update).await,
        ClientCommand::Interrupt(interrupt) => sessions::interrupt(service, interrupt).await,
        ClientCommand::StopTask(task) => sessions::stop_task(service, task).await,
        ClientCommand::InterruptAll(form) => sessions::interrupt_all(service, form).await,
        ClientCommand::Close(close) => sessions::close(service, close).await,
        ClientCommand::Sessions(list) => sessions::list(service, list).await,
        ClientCommand::Stats(form) => overview::stats(service, form).await,
        ClientCommand::Health(health) => overview::health(service, channel, health).await,
    }
}
