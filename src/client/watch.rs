//! `watch`: a session over all of its turns, and over restarts of the service. Shows what happens
//! and answers nothing; prompts are told with the command that answers them.

use std::collections::HashSet;

use super::{
    args::{Show, WatchArgs},
    connect::Service,
    exit::{Exit, Failure, Outcome},
    following::{Followed, Following},
    output::{is_screen, print, remark},
    prompts::Prompts,
    proto_json,
    values::one_line,
    view::View,
};
use crate::proto::{
    TurnEvent, WatchSessionRequest, WatchSessionResponse, WatchedFailure, turn_event::Kind,
    watch_session_response::Item,
};

/// Follows a session until it is closed. A service that goes is waited for.
pub async fn watch(service: &mut Service, args: WatchArgs) -> Outcome {
    let partials = args.show.partial(is_screen());
    let request = WatchSessionRequest {
        session_id: args.session,
        cursor: args.cursor,
        from_start: args.from_start,
        include_partial_messages: partials,
        ..WatchSessionRequest::default()
    };
    let prompts = Prompts::new(service.clone(), None).of_session(&request.session_id);
    let mut shown = Shown::new(args.show, prompts);
    let mut following = Following::new(service.clone(), request);
    loop {
        match following.next().await {
            Ok(Some(followed)) => shown.take(followed)?,
            ended => {
                shown.leave_turn()?;
                return ended.map(|_| Exit::Fine);
            }
        }
    }
}

/// What is shown of a session.
pub struct Shown {
    show: Show,
    /// The turn that is shown.
    turn: Option<(String, View)>,
    /// What is asked in the session.
    pub prompts: Prompts,
    /// Turns that need no heading: who reads this has begun them.
    pub own: HashSet<String>,
}

impl Shown {
    /// Nothing yet.
    pub fn new(show: Show, prompts: Prompts) -> Self {
        Self { show, turn: None, prompts, own: HashSet::new() }
    }

    /// Shows what came next.
    pub fn take(&mut self, followed: Followed) -> Result<(), Failure> {
        match followed {
            Followed::Item(response) => self.show(*response),
            Followed::Missing => {
                self.leave_turn()?;
                self.missing();
                Ok(())
            }
            Followed::Waiting(failure) => {
                self.leave_turn()?;
                remark(&format!("{}; waiting for the service\n", one_line(&failure.to_string())));
                Ok(())
            }
        }
    }

    fn show(&mut self, response: WatchSessionResponse) -> Result<(), Failure> {
        if self.show.form.json {
            print(&proto_json::line("WatchSessionResponse", &response)?)?;
            return Ok(());
        }
        match response.item {
            Some(Item::Event(watched)) => match watched.event {
                Some(event) => self.event(&watched.turn_id, &event),
                None => Ok(()),
            },
            Some(Item::Failure(failure)) => {
                self.leave_turn()?;
                remark(&failed(failure));
                Ok(())
            }
            Some(Item::Gap(_)) => {
                self.leave_turn()?;
                self.missing();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn event(&mut self, turn_id: &str, event: &TurnEvent) -> Result<(), Failure> {
        if self.turn.as_ref().is_none_or(|(turn, _)| turn != turn_id) {
            self.leave_turn()?;
            if !turn_id.is_empty() && !self.own.contains(turn_id) {
                remark(&heading(turn_id, event));
            }
        }
        let show = self.show;
        let (_, view) = self.turn.get_or_insert_with(|| (turn_id.to_owned(), View::new(show)));
        view.show(event)?;
        self.prompts.note(event);
        Ok(())
    }

    /// Whatever comes is not of the turn that is shown.
    pub fn leave_turn(&mut self) -> Result<(), Failure> {
        match self.turn.take() {
            Some((_, mut view)) => view.finish(),
            None => Ok(()),
        }
    }

    fn missing(&self) {
        if !self.show.form.json {
            remark("events are missing here, or may be\n");
        }
    }
}

fn heading(turn_id: &str, event: &TurnEvent) -> String {
    let by_itself = matches!(&event.kind, Some(Kind::Started(started)) if started.background);
    let whose = if by_itself { ", begun by the CLI itself" } else { "" };
    format!("turn {}{whose}\n", one_line(turn_id))
}

fn failed(failure: WatchedFailure) -> String {
    let WatchedFailure { turn_id, reason, message, .. } = failure;
    let (turn_id, reason, message) = (one_line(&turn_id), one_line(&reason), one_line(&message));
    format!("turn {turn_id} failed: {reason}: {message}\n")
}
