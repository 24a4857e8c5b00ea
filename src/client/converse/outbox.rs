//! Prompts on their way to the service, one after the other: the next is sent when the one before
//! has begun, so that they run in the order in which they were typed. Each has a turn id of its
//! own, by which the service knows one that is sent again: a prompt that nobody has heard of is
//! repeated, and runs once.

use std::{collections::VecDeque, time::Duration};

use tokio::{task::JoinSet, time::sleep};
use tonic::Code;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::{
    client::{assemble::Assembler, connect::Service, exit::Failure, values::cut},
    proto::{
        BusyPolicy, DisconnectPolicy, QueryRequest, SessionOptions, TurnStarted, turn_event::Kind,
    },
};

/// How long a service that does not answer is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// Columns of a prompt that is told of.
const SHOWN: usize = 60;

/// A prompt that was typed.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The turn that it is going to be.
    pub turn_id: String,
    /// The prompt.
    pub text: String,
}

impl Outgoing {
    /// The prompt in a few words.
    pub fn in_short(&self) -> String {
        format!("\"{}\"", cut(&self.text, SHOWN))
    }
}

/// What became of a prompt.
#[derive(Debug)]
pub enum Sent {
    /// Its turn has begun, or was over already.
    Begun(Option<Box<TurnStarted>>),
    /// Nobody is there to take it: it waits, first of all. Whether that is so for the first time.
    Waits(bool),
    /// It is not going to run.
    Refused(Outgoing, Failure),
}

/// The prompts that have not begun.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Outgoing>,
    /// The one that is under way, or waits to be sent again.
    current: Option<Outgoing>,
    was_sent_before: bool,
    calls: JoinSet<Result<Option<Box<TurnStarted>>, Failure>>,
}

impl Outbox {
    /// Adds a prompt, and says which turn it is going to be.
    pub fn add(&mut self, text: String) -> String {
        let turn_id = Uuid::new_v4().to_string();
        self.waiting.push_back(Outgoing { turn_id: turn_id.clone(), text });
        turn_id
    }

    /// Sends the next one if none is under way.
    pub fn send(&mut self, service: &Service, session_id: &str, options: Option<&SessionOptions>) {
        if !self.calls.is_empty() {
            return;
        }
        if self.current.is_none() {
            self.current = self.waiting.pop_front();
            self.was_sent_before = false;
        }
        let Some(Outgoing { turn_id, text }) = self.current.clone() else { return };
        let request = QueryRequest {
            session_id: session_id.to_owned(),
            prompt: text,
            options: options.cloned(),
            turn_id,
            on_busy: BusyPolicy::Queue.into(),
            // Its events come to who follows the session.
            on_disconnect: DisconnectPolicy::Continue.into(),
            ..QueryRequest::default()
        };
        self.calls.spawn(call(service.clone(), request));
    }

    /// What became of the one that is under way. For ever while there is none; can be given up.
    pub async fn sent(&mut self) -> Sent {
        let Some(joined) = self.calls.join_next().await else {
            return std::future::pending().await;
        };
        let failure = match joined {
            Ok(Ok(started)) => {
                self.current = None;
                return Sent::Begun(started);
            }
            Ok(Err(failure)) => failure,
            Err(panic) => Failure::Output(std::io::Error::other(panic)),
        };
        if is_for_later(&failure) {
            return Sent::Waits(!std::mem::replace(&mut self.was_sent_before, true));
        }
        match self.current.take() {
            Some(outgoing) => Sent::Refused(outgoing, failure),
            None => Sent::Begun(None),
        }
    }

    /// The turn that is under way, and has not begun.
    pub fn under_way(&self) -> Option<&str> {
        self.current.as_ref().filter(|_| !self.calls.is_empty()).map(|it| it.turn_id.as_str())
    }

    /// Whether the one that is under way was sent before, and nobody took it.
    pub fn is_stuck(&self) -> bool {
        self.current.is_some() && self.was_sent_before
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }

    /// Lets go of all.
    pub fn drain(&mut self) -> Vec<Outgoing> {
        self.calls = JoinSet::new();
        self.current.take().into_iter().chain(self.waiting.drain(..)).collect()
    }
}

/// Whether the same may succeed when the service is there again.
fn is_for_later(failure: &Failure) -> bool {
    match failure {
        Failure::Lost => true,
        Failure::Call(status) => {
            let reason = status.get_details_error_info().map(|info| info.reason);
            status.code() == Code::Unavailable
                && reason.is_none_or(|reason| reason == "SHUTTING_DOWN")
        }
        Failure::Usage(_)
        | Failure::Unreachable { .. }
        | Failure::TimedOut(_)
        | Failure::Output(_) => false,
    }
}

/// Sends one, and waits until its turn has begun.
async fn call(
    mut service: Service,
    request: QueryRequest,
) -> Result<Option<Box<TurnStarted>>, Failure> {
    let started = async {
        let mut stream = service.query(request).await?.into_inner();
        let mut assembler = Assembler::default();
        while let Some(item) = stream.message().await? {
            let event = assembler.take(item)?;
            if let Some(Kind::Started(started)) = event.and_then(|event| event.kind) {
                return Ok(Some(started));
            }
        }
        Ok(None)
    }
    .await;
    if started.as_ref().is_err_and(is_for_later) {
        sleep(PAUSE).await;
    }
    started
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_a_service_that_is_away_is_waited_for() {
        let told = |code, reason: &str| {
            let mut details = ErrorDetails::new();
            details.set_error_info(reason, "sessionpool.v1", std::collections::HashMap::new());
            Failure::from(Status::with_error_details(code, "no", details))
        };
        assert!(is_for_later(&Failure::Lost));
        assert!(is_for_later(&told(Code::Unavailable, "SHUTTING_DOWN")));
        assert!(!is_for_later(&told(Code::Unavailable, "CONNECT_FAILED")));
        assert!(!is_for_later(&told(Code::ResourceExhausted, "QUEUE_FULL")));
        assert!(!is_for_later(&told(Code::PermissionDenied, "POLICY_DENIED")));
    }

    #[test]
    fn what_has_not_begun_is_given_back_in_its_order() {
        let mut outbox = Outbox::default();
        let ids = [outbox.add("one".into()), outbox.add("two".into())];
        assert!(!outbox.is_empty() && outbox.under_way().is_none());
        let left = outbox.drain();
        assert_eq!(left.iter().map(|it| it.turn_id.clone()).collect::<Vec<_>>(), ids);
        assert!(outbox.is_empty());
    }
}
