//! A session that is followed over the network: the items of one WatchSession after the other. A
//! stream that breaks off is called again behind the last item that came, until the session is
//! closed or the service says something that waiting does not help.

use std::time::Duration;

use tokio::time::sleep;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{assemble::Assembler, connect::Service, exit::Failure};
use crate::proto::{
    WatchSessionRequest, WatchSessionResponse, WatchedEvent, watch_session_response::Item,
};

/// How long a service that has gone is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What comes of a session.
#[derive(Debug)]
pub enum Followed {
    /// The next item, an event whole.
    Item(Box<WatchSessionResponse>),
    /// Events are missing here. The session is called for again.
    Missing,
    /// The stream has broken off. The session is called for again, until it is there.
    Waiting(Failure),
}

/// A session that is followed.
#[derive(Debug)]
pub struct Following {
    service: Service,
    /// The next call: its cursor is behind what has come.
    request: WatchSessionRequest,
    stream: Option<Streaming<WatchSessionResponse>>,
    assembler: Assembler,
    /// Something has come of the last call.
    came: bool,
    /// How long was waited before it; `None` if it was not the repetition of a failed one.
    pause: Option<Duration>,
    /// How long to wait before the next.
    rest: Option<Duration>,
}

impl Following {
    /// What is asked for has not been called for yet.
    pub fn new(service: Service, request: WatchSessionRequest) -> Self {
        let assembler = Assembler::default();
        Self { service, request, stream: None, assembler, came: false, pause: None, rest: None }
    }

    /// What comes next; `None` when the session is closed. Not to be called again after that or
    /// after a failure, and not to be given up in between.
    pub async fn next(&mut self) -> Result<Option<Followed>, Failure> {
        loop {
            if let Some(rest) = self.rest.take() {
                sleep(rest).await;
            }
            let failure = match self.item().await {
                Ok(item) => return Ok(item.map(|item| Followed::Item(item.into()))),
                Err(failure) => failure,
            };
            (self.stream, self.assembler) = (None, Assembler::default());
            if std::mem::take(&mut self.came) {
                self.pause = None;
            } else if self.pause.is_none() {
                // It has never been there.
                return Err(failure);
            }
            let is_first = self.pause.is_none();
            let next = next(&failure);
            self.rest = Some(self.pause.unwrap_or(FIRST_PAUSE));
            self.pause =
                Some(self.pause.map_or(FIRST_PAUSE, |pause| (2 * pause).min(LONGEST_PAUSE)));
            match next {
                Next::FromThere(cursor) => {
                    self.request.cursor = cursor;
                    return Ok(Some(Followed::Missing));
                }
                Next::Again if is_first => return Ok(Some(Followed::Waiting(failure))),
                Next::Again => {}
                Next::Nothing => return Err(failure),
            }
        }
    }

    /// The next item of the stream.
    async fn item(&mut self) -> Result<Option<WatchSessionResponse>, Failure> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.service.watch_session(self.request.clone()).await?;
                self.stream.insert(stream.into_inner())
            }
        };
        while let Some(response) = stream.message().await? {
            self.came = true;
            let Some(response) = whole(&mut self.assembler, response)? else { continue };
            let cursor = cursor(&response);
            if !cursor.is_empty() {
                cursor.clone_into(&mut self.request.cursor);
                self.request.from_start = false;
            }
            return Ok(Some(response));
        }
        Ok(None)
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
