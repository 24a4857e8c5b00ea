//! One who follows a session, as a test sees it.

use prost::Message as _;
use session_pool::proto::{
    Session, TurnEvent, WatchGap, WatchPhase, WatchSessionRequest, WatchSessionResponse,
    WatchedFailure, session_pool_service_client::SessionPoolServiceClient as Client,
    watch_session_response::Item,
};
use tonic::{Status, Streaming, transport::Channel};

/// What a follower is told, but for pictures of the session.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An event of a turn; of none if that is empty.
    Event(String, Box<TurnEvent>),
    Phase(WatchPhase),
    Gap(WatchGap),
    Failure(WatchedFailure),
}

/// The stream of one who follows a session.
pub struct Follower {
    stream: Streaming<WatchSessionResponse>,
    /// All that it was told, with the cursors behind it; empty where nothing was said of that.
    pub told: Vec<(Told, String)>,
    /// The pictures of the session.
    pub pictures: Vec<Session>,
    /// Parts that events came in.
    pub parts: usize,
    /// `Some` once it has ended: OK, or the error.
    pub end: Option<Result<(), Status>>,
    part: Vec<u8>,
}

/// A request with only its session.
pub fn of(session: &str) -> WatchSessionRequest {
    WatchSessionRequest { session_id: session.into(), ..WatchSessionRequest::default() }
}

/// From the first that is kept.
pub fn from_start(session: &str) -> WatchSessionRequest {
    WatchSessionRequest { from_start: true, ..of(session) }
}

/// From where another stood.
pub fn from(session: &str, cursor: &str) -> WatchSessionRequest {
    WatchSessionRequest { cursor: cursor.into(), ..of(session) }
}

impl Follower {
    pub async fn open(
        client: &Client<Channel>,
        request: WatchSessionRequest,
    ) -> Result<Self, Status> {
        let stream = client.clone().watch_session(request).await?.into_inner();
        let (told, pictures, part) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { stream, told, pictures, parts: 0, end: None, part })
    }

    /// The next that it is told; `None` at the end. Parts are put together, and pictures kept.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            let response = match self.stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    self.end = Some(Ok(()));
                    return None;
                }
                Err(status) => {
                    self.end = Some(Err(status));
                    return None;
                }
            };
            let (told, cursor) = match response.item.expect("an item") {
                Item::Session(session) => {
                    self.pictures.push(*session);
                    continue;
                }
                Item::Event(event) => (
                    Told::Event(event.turn_id, event.event.expect("an event").into()),
                    event.cursor,
                ),
                Item::Part(watched) => {
                    let part = watched.part.expect("a part");
                    self.parts += 1;
                    self.part.extend(part.data);
                    assert_eq!(part.last, !watched.cursor.is_empty());
                    if !part.last {
                        continue;
                    }
                    let event = TurnEvent::decode(std::mem::take(&mut self.part).as_slice());
                    (Told::Event(watched.turn_id, event.expect("one event").into()), watched.cursor)
                }
                Item::Phase(phase) => {
                    let phase = WatchPhase::try_from(phase).expect("a phase");
                    (Told::Phase(phase), response.cursor)
                }
                Item::Gap(gap) => (Told::Gap(gap.clone()), gap.before),
                // Not told, nor kept anywhere.
                Item::Heartbeat(_) => continue,
                Item::Failure(failure) => (Told::Failure(failure.clone()), failure.cursor),
            };
            self.told.push((told.clone(), cursor));
            return Some(told);
        }
    }

    /// Reads on until something of which `wanted` says so. Fails the test at the end.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Told) -> bool) {
        let reading = async {
            while let Some(told) = self.next().await {
                if wanted(&told) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(super::PATIENCE, reading).await;
        assert!(found == Ok(true), "never told; {:?}; told so far: {:?}", self.end, self.told);
    }

    pub async fn until_live(&mut self) {
        self.until(|told| *told == Told::Phase(WatchPhase::Live)).await;
    }

    /// Reads the last event of that turn.
    pub async fn until_result(&mut self, of: &str) {
        use session_pool::proto::turn_event::Kind;
        let is_result = |event: &TurnEvent| matches!(event.kind, Some(Kind::Result(_)));
        self.until(
            |told| matches!(told, Told::Event(turn, event) if turn == of && is_result(event)),
        )
        .await;
    }

    /// Reads to the end.
    pub async fn finish(&mut self) {
        while self.next().await.is_some() {}
    }

    /// The events of a turn so far.
    pub fn of_turn(&self, of: &str) -> Vec<TurnEvent> {
        let events = self.told.iter().filter_map(|(told, _)| match told {
            Told::Event(turn, event) if turn == of => Some(TurnEvent::clone(event)),
            _ => None,
        });
        events.collect()
    }

    /// The turns of which there were events, in the order of their first ones.
    pub fn turns(&self) -> Vec<String> {
        let mut turns: Vec<String> = Vec::new();
        for (told, _) in &self.told {
            // What belongs to no turn comes in between.
            if let Told::Event(turn, _) = told
                && !turn.is_empty()
                && turns.last() != Some(turn)
            {
                assert!(!turns.contains(turn), "{turn} goes on behind another");
                turns.push(turn.clone());
            }
        }
        turns
    }

    pub fn gaps(&self) -> Vec<WatchGap> {
        let gaps = self.told.iter().filter_map(|(told, _)| match told {
            Told::Gap(gap) => Some(gap.clone()),
            _ => None,
        });
        gaps.collect()
    }

    /// The last cursor that it was told.
    pub fn cursor(&self) -> String {
        let cursors = self.told.iter().map(|(_, cursor)| cursor);
        cursors.rev().find(|cursor| !cursor.is_empty()).expect("one").clone()
    }
}
