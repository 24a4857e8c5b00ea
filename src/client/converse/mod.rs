//! `attach` and `chat` at a terminal: one person talks with one session. Its turns are shown as
//! they happen, whoever began them; what the person types becomes prompts or answers.
//!
//! - [`keyboard`] reads lines and [`typed`] makes prompts of them, [`editor`] is for longer ones.
//! - [`outbox`] sends prompts one after the other. What is typed while the service is away waits
//!   there.
//! - [`talk`] is the loop over all that happens, [`steps`] what is done about it, [`leaving`] the end.
//!
//! The terminal stays in line mode all the time. Ctrl-C is for the turn at first: [`steps`] says
//! when it is for this program.

mod editor;
mod keyboard;
mod leaving;
mod outbox;
mod steps;
mod talk;
mod typed;

use std::io::{self, IsTerminal as _};

use uuid::Uuid;

use super::{
    args::{AttachArgs, ChatArgs, ClientCommand},
    connect::Service,
    exit::{Failure, Outcome},
    output::remark,
    values::one_line,
};
use talk::{Conversation, Ends};

const HELP: &str = "a line is a prompt; \\ at its end: it goes on; :edit writes one in an editor; \
                    Ctrl-C interrupts the turn; Ctrl-D leaves";

/// Whether a command is a conversation, which has its own mind about Ctrl-C.
pub fn is_meant(command: &ClientCommand) -> bool {
    match command {
        ClientCommand::Attach(args) => is_at_terminal() && is_open(args),
        ClientCommand::Chat(_) => is_at_terminal(),
        _ => false,
    }
}

/// Whether nothing is asked for that only a turn has.
fn is_open(args: &AttachArgs) -> bool {
    args.turn.is_empty() && args.from == 1 && !args.show.form.json
}

/// Whether somebody can type, and sees what is asked.
fn is_at_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Talks with a session of which others know.
pub async fn attach(service: &Service, args: AttachArgs) -> Outcome {
    remark(&format!("session {}: {HELP}\n", one_line(&args.session)));
    let mut conversation = Conversation::new(service, args.session, args.show, Ends::Stays)?;
    conversation.follow(false);
    conversation.run().await
}

/// Talks with a session of its own, which the first prompt makes.
pub async fn chat(service: &Service, args: ChatArgs) -> Outcome {
    if !is_at_terminal() {
        let usage = "chat needs a terminal; query runs a turn from anywhere";
        return Err(Failure::Usage(usage.to_owned()));
    }
    let session = format!("chat-{}", Uuid::new_v4());
    remark(&format!("session {session}: {HELP}\n"));
    if !args.forget {
        remark(&format!("to come back: session-pool attach {session}\n"));
    }
    let ends = if args.forget { Ends::IsForgotten } else { Ends::IsClosed };
    let show = args.show();
    let mut conversation = Conversation::new(service, session, show, ends)?;
    conversation.options = Some(args.options.into_message());
    conversation.run().await
}
