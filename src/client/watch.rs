//! `watch`: a session over all of its turns, and over restarts of the service. Shows what happens
//! and answers nothing; prompts are told with the command that answers them.

use std::time::Duration;

use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    args::{Show, WatchArgs},
    assemble::Assembler,
    connect::Service,
    exit::{Exit, Failure, Outcome},
    output::{is_screen, print, remark},
    prompts::Prompts,
    proto_json,
    values::one_line,
    view::View,
};
use crate::proto::{
    TurnEvent, WatchSessionRequest, WatchSessionResponse, WatchedEvent, WatchedFailure,
    turn_event::Kind, watch_session_response::Item,
};

/// How long a service that has gone is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Follows a session until it is closed. A service that goes is waited for.
pub async fn watch(service: &mut Service, args: WatchArgs) -> Outcome {
    let partials = args.show.partial(is_screen());
    let mut request = WatchSessionRequest {
        session_id: args.session,
        cursor: args.cursor,
        from_start: args.from_start,
        include_partial_messages: partials,
        ..WatchSessionRequest::default()
    };
    let prompts = Prompts::new(service.clone(), None).of_session(&request.session_id);
    let mut shown = Shown { show: args.show, turn: None, prompts };
    let mut pause = None;
    loop {
        let (ended, came) = follow(service, &mut request, &mut shown).await;
        shown.leave_turn()?;
        let Err(failure) = ended else { return Ok(Exit::Fine) };
        if came {
            pause = None;
        }
        let has_begun = came || pause.is_some();
        match next(&failure) {
            Next::FromThere(cursor) if has_begun => {
                shown.missing();
                request.cursor = cursor;
            }
            Next::Again if has_begun => {
                if pause.is_none() {
                    remark(&format!(
                        "{}; waiting for the service\n",
                        one_line(&failure.to_string())
                    ));
                }
            }
            Next::FromThere(_) | Next::Again | Next::Nothing => return Err(failure),
        }
        sleep(pause.unwrap_or(FIRST_PAUSE)).await;
        pause = Some(pause.map_or(FIRST_PAUSE, |pause| (2 * pause).min(LONGEST_PAUSE)));
    }
}

/// What is to be done about a stream that has ended.
enum Next {
    /// Call again.
    Again,
    /// Call again with this cursor: what was before it has gone.
    FromThere(String),
    /// Nothing helps.
    Nothing,
}

fn next(failure: &Failure) -> Next {
    let Failure::Call(status) = failure else {
        return if matches!(failure, Failure::Lost) { Next::Again } else { Next::Nothing };
    };
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => Next::Again,
        Code::OutOfRange => first_kept(status).map_or(Next::Nothing, Next::FromThere),
        _ => Next::Nothing,
    }
}

fn first_kept(status: &Status) -> Option<String> {
    let info = status.get_details_error_info().filter(|info| info.reason == "EVENTS_EXPIRED")?;
    info.metadata.get("limit").cloned()
}

/// One call. Says whether anything came; where to go on is in the request then.
async fn follow(
    service: &mut Service,
    request: &mut WatchSessionRequest,
    shown: &mut Shown,
) -> (Result<(), Failure>, bool) {
    let mut came = false;
    let ended = async {
        let mut stream = service.watch_session(request.clone()).await?.into_inner();
        let mut assembler = Assembler::default();
        while let Some(response) = stream.message().await? {
            came = true;
            let Some(response) = whole(&mut assembler, response)? else { continue };
            let cursor = cursor(&response).to_owned();
            shown.show(response)?;
            // Behind what was shown: a call that breaks off in between shows it again.
            if !cursor.is_empty() {
                (request.cursor, request.from_start) = (cursor, false);
            }
        }
        Ok(())
    };
    (ended.await, came)
}

/// An item with its event whole, whatever that came in; `None` until all of it is there.
fn whole(
    assembler: &mut Assembler,
    response: WatchSessionResponse,
) -> Result<Option<WatchSessionResponse>, Failure> {
    let (turn_id, cursor) = match &response.item {
        Some(Item::Event(event)) => (event.turn_id.clone(), event.cursor.clone()),
        Some(Item::Part(part)) => (part.turn_id.clone(), part.cursor.clone()),
        _ => return Ok(Some(response)),
    };
    let event = assembler.take(response)?;
    Ok(event.map(|event| {
        let event = WatchedEvent { turn_id, event: Some(event), cursor };
        WatchSessionResponse { item: Some(Item::Event(event.into())), cursor: String::new() }
    }))
}

/// Where to go on behind an item; empty where it says nothing of that.
fn cursor(response: &WatchSessionResponse) -> &str {
    match &response.item {
        Some(Item::Event(event)) => &event.cursor,
        Some(Item::Failure(failure)) => &failure.cursor,
        Some(Item::Gap(gap)) => &gap.before,
        _ => &response.cursor,
    }
}

/// What is shown of a session.
struct Shown {
    show: Show,
    /// The turn that is shown.
    turn: Option<(String, View)>,
    prompts: Prompts,
}

impl Shown {
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
            if !turn_id.is_empty() {
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
    fn leave_turn(&mut self) -> Result<(), Failure> {
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
