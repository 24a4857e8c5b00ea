//! The loop of a conversation. Everything that can happen is one [`Step`], and is done with before
//! the next; only an editor holds up what the session says, since it has the terminal.

use std::{collections::HashSet, io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    keyboard::{Keyboard, Line},
    outbox::{Outbox, Sent},
    typed::Typed,
};
use crate::{
    client::{
        args::Show,
        connect::Service,
        exit::{Exit, Failure, Outcome},
        following::{Followed, Following},
        output::remark,
        prompts::Prompts,
        values::cut,
        watch::Shown,
    },
    proto::{InterruptResponse, SessionOptions, WatchSessionRequest},
};

/// How long the kernel may take to empty the buffers of a terminal.
const FLUSH: Duration = Duration::from_millis(30);

/// Items that may wait to be shown. Those that come meanwhile wait in the service.
const ITEMS: usize = 16;

/// What becomes of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It stays as it is.
    Stays,
    /// It is closed; its conversation can be taken up again.
    IsClosed,
    /// It is closed, and its conversation is forgotten.
    IsForgotten,
}

/// What happens.
#[derive(Debug)]
enum Step {
    Interrupt,
    Leave,
    Line(Line),
    Followed(Result<Option<Followed>, Failure>),
    Sent(Sent),
    Interrupted(Result<InterruptResponse, Failure>),
}

/// What is done after a step.
#[derive(Debug)]
pub(super) enum Next {
    GoOn,
    /// Write a prompt that begins like this.
    EditPrompt(String),
    /// Write another input of the tool that is asked about.
    EditInput,
    Leave,
    /// The session has gone already.
    Gone,
}

/// Signals that a conversation takes itself.
pub(super) struct Signals {
    pub(super) interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// One person and one session.
pub struct Conversation {
    pub(super) service: Service,
    pub(super) session_id: String,
    pub(super) ends: Ends,
    /// What the session is to be, where a prompt makes it.
    pub(super) options: Option<SessionOptions>,
    pub(super) shown: Shown,
    pub(super) outbox: Outbox,
    /// A prompt was sent, so there may be a session.
    pub(super) was_asked: bool,
    partials: bool,
    pub(super) keyboard: Keyboard,
    pub(super) signals: Signals,
    pub(super) typed: Typed,
    /// What comes of the session, while it is in the pool.
    pub(super) followed: Option<mpsc::Receiver<Result<Option<Followed>, Failure>>>,
    follower: JoinSet<()>,
    /// The stream has come to the present.
    pub(super) is_live: bool,
    /// The session's picture is the first since then.
    pub(super) is_first_picture: bool,
    pub(super) is_running: bool,
    pub(super) interrupts: JoinSet<Result<InterruptResponse, Failure>>,
    pub(super) interrupted_at: Option<Instant>,
    /// Turns whose failure was told.
    pub(super) told: HashSet<String>,
}

impl Conversation {
    /// With a session that is not followed yet.
    pub fn new(
        service: &Service,
        session_id: String,
        show: Show,
        ends: Ends,
    ) -> Result<Self, Failure> {
        let prompts = Prompts::new(service.clone(), None).of_session(&session_id).in_conversation();
        Ok(Self {
            service: service.clone(),
            session_id,
            ends,
            options: None,
            shown: Shown::new(show, prompts),
            outbox: Outbox::default(),
            was_asked: false,
            partials: show.partial(true),
            keyboard: Keyboard::open()?,
            signals: Signals::listen()?,
            typed: Typed::default(),
            followed: None,
            follower: JoinSet::new(),
            is_live: false,
            is_first_picture: true,
            is_running: false,
            interrupts: JoinSet::new(),
            interrupted_at: None,
            told: HashSet::new(),
        })
    }

    /// Follows the session, from now on or from the first turn that is kept.
    pub fn follow(&mut self, from_start: bool) {
        let request = WatchSessionRequest {
            session_id: self.session_id.clone(),
            from_start,
            include_partial_messages: self.partials,
            ..WatchSessionRequest::default()
        };
        let mut following = Following::new(self.service.clone(), request);
        let (sender, receiver) = mpsc::channel(ITEMS);
        (self.is_live, self.is_first_picture) = (false, true);
        self.followed = Some(receiver);
        self.follower = JoinSet::new();
        self.follower.spawn(async move {
            loop {
                let followed = following.next().await;
                let is_last = !matches!(followed, Ok(Some(_)));
                if sender.send(followed).await.is_err() || is_last {
                    return;
                }
            }
        });
    }

    /// Until the person leaves or the session is closed.
    pub async fn run(&mut self) -> Outcome {
        match self.talk().await {
            Ok(is_gone) => {
                self.leave();
                if is_gone { Ok(Exit::Fine) } else { self.end().await }
            }
            Err(failure) => {
                self.leave();
                // The first failure is the one to tell.
                drop(self.end().await);
                Err(failure)
            }
        }
    }

    /// Says whether the session has gone.
    async fn talk(&mut self) -> Result<bool, Failure> {
        loop {
            if self.is_reachable() {
                // Where nothing is followed there is no session yet, or none any more.
                let options = self.options.as_ref().filter(|_| self.followed.is_none());
                self.was_asked |= !self.outbox.is_empty();
                self.outbox.send(&self.service, &self.session_id, options);
            }
            let asked = self.asked();
            let step = self.step().await?;
            match self.take(step).await? {
                Next::GoOn => {}
                Next::EditPrompt(text) => self.edit_prompt(&text).await?,
                Next::EditInput => self.edit_input().await?,
                Next::Leave => return Ok(false),
                Next::Gone => return Ok(true),
            }
            if self.asked().is_some() && self.asked() != asked {
                self.forget_typed();
            }
        }
    }

    fn asked(&self) -> Option<String> {
        self.shown.prompts.asked().map(|prompt| prompt.prompt_id.clone())
    }

    /// What was typed before a question is no answer to it.
    fn forget_typed(&mut self) {
        for line in self.keyboard.typed_before() {
            remark(&format!(
                "typed before this was asked, and not taken: {}\n",
                cut(&line.text, 60)
            ));
        }
    }

    /// Closes what is to be closed, unless somebody has no time for that.
    async fn end(&mut self) -> Outcome {
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            outcome = self.close() => outcome,
            _ = interrupt.recv() => Ok(Exit::Interrupted),
        }
    }

    /// Whether prompts can be sent: not while the stream of a session is broken off, or its
    /// beginning might be missed.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_live || self.followed.is_none()
    }

    /// Waits for what happens next.
    async fn step(&mut self) -> Result<Step, Failure> {
        let Signals { interrupt, terminate, hang_up } = &mut self.signals;
        Ok(tokio::select! {
            biased;
            _ = interrupt.recv() => Step::Interrupt,
            _ = terminate.recv() => Step::Leave,
            _ = hang_up.recv() => Step::Leave,
            // Before what the session says: what was typed before a question is no answer to it.
            line = self.keyboard.line() => line?.map_or(Step::Leave, Step::Line),
            sent = self.outbox.sent() => Step::Sent(sent),
            Some(joined) = self.interrupts.join_next() => {
                Step::Interrupted(joined.unwrap_or_else(|panic| Err(io::Error::other(panic).into())))
            }
            followed = next_of(&mut self.followed) => Step::Followed(followed),
        })
    }

    async fn take(&mut self, step: Step) -> Result<Next, Failure> {
        match step {
            Step::Interrupt => {
                // What is written at once is lost: the kernel empties the terminal's buffers behind
                // the signal, and nothing tells when it has.
                sleep(FLUSH).await;
                Ok(self.interrupt())
            }
            Step::Leave => {
                remark("\n");
                Ok(Next::Leave)
            }
            Step::Line(line) => Ok(self.line(line).await),
            Step::Followed(followed) => self.followed(followed).await,
            Step::Sent(sent) => {
                self.sent(sent);
                Ok(Next::GoOn)
            }
            Step::Interrupted(outcome) => {
                match outcome {
                    Ok(response) if !response.had_active_turn => remark("no turn was running\n"),
                    Ok(_) => {}
                    Err(failure) => remark(&format!("not interrupted: {failure}\n")),
                }
                Ok(Next::GoOn)
            }
        }
    }
}

async fn next_of(
    followed: &mut Option<mpsc::Receiver<Result<Option<Followed>, Failure>>>,
) -> Result<Option<Followed>, Failure> {
    match followed {
        // It ends behind its last item.
        Some(receiver) => receiver.recv().await.unwrap_or(Ok(None)),
        None => std::future::pending().await,
    }
}
