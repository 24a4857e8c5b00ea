//! A turn as a caller sees it: its events so far, and how it ended.

use prost::Message as _;
use session_pool::proto::{
    AttachResponse, EventPart, QueryResponse, ToolResultBlock, TurnEvent, TurnResult, TurnStarted,
    attach_response, content_block::Block, query_response, turn_event::Kind,
};
use tonic::{Status, Streaming};

/// A turn under way or ended.
#[derive(Debug)]
pub struct Turn {
    pub events: Vec<TurnEvent>,
    /// `Some` once it has ended: OK, or the error.
    pub end: Option<Result<(), Status>>,
    stream: Option<Source>,
    part: Vec<u8>,
}

/// The stream that the events come from.
#[derive(Debug)]
enum Source {
    Query(Streaming<QueryResponse>),
    Attach(Streaming<AttachResponse>),
}

impl Source {
    async fn message(&mut self) -> Result<Option<(Option<TurnEvent>, Option<EventPart>)>, Status> {
        Ok(match self {
            Self::Query(stream) => stream.message().await?.map(|message| match message.item {
                Some(query_response::Item::Event(event)) => (Some(*event), None),
                Some(query_response::Item::Part(part)) => (None, Some(part)),
                None => (None, None),
            }),
            Self::Attach(stream) => stream.message().await?.map(|message| match message.item {
                Some(attach_response::Item::Event(event)) => (Some(*event), None),
                Some(attach_response::Item::Part(part)) => (None, Some(part)),
                None => (None, None),
            }),
        })
    }
}

impl Turn {
    pub fn new(stream: Streaming<QueryResponse>) -> Self {
        Self::of(Source::Query(stream))
    }

    /// A turn that another call runs.
    pub fn attached(stream: Streaming<AttachResponse>) -> Self {
        Self::of(Source::Attach(stream))
    }

    fn of(stream: Source) -> Self {
        Self { events: Vec::new(), end: None, stream: Some(stream), part: Vec::new() }
    }

    pub fn refused(status: Status) -> Self {
        Self { events: Vec::new(), end: Some(Err(status)), stream: None, part: Vec::new() }
    }

    /// Waits for the next event; `None` when the turn has ended. Parts are put together,
    /// and every event is checked to have the next sequence number.
    pub async fn next(&mut self) -> Option<TurnEvent> {
        loop {
            let stream = self.stream.as_mut()?;
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    self.stream = None;
                    self.end = Some(Ok(()));
                    return None;
                }
                Err(status) => {
                    self.stream = None;
                    self.end = Some(Err(status));
                    return None;
                }
            };
            let event = match response {
                (Some(event), None) => event,
                (None, Some(part)) => {
                    self.part.extend(part.data);
                    if !part.last {
                        continue;
                    }
                    let whole = std::mem::take(&mut self.part);
                    TurnEvent::decode(whole.as_slice()).expect("parts of one event")
                }
                other => panic!("neither event nor part: {other:?}"),
            };
            let expected = self.events.last().map_or(event.sequence, |last| match &event.kind {
                // A turn that follows in the same stream is another one.
                Some(Kind::Started(started)) => {
                    let mut begun = self.events.iter().filter_map(|event| event.kind.as_ref());
                    let again = |kind: &Kind| matches!(kind, Kind::Started(it) if it.turn_id == started.turn_id);
                    assert!(!begun.any(again), "begun twice");
                    1
                }
                _ => last.sequence + 1,
            });
            assert_eq!(event.sequence, expected, "a gap");
            self.events.push(event.clone());
            return Some(event);
        }
    }

    /// Reads to the end.
    pub async fn finish(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Reads until an event of which `wanted` says so.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Kind) -> bool) -> TurnEvent {
        while let Some(event) = self.next().await {
            if event.kind.as_ref().is_some_and(&mut wanted) {
                return event;
            }
        }
        panic!("the turn ended first: {:?}", self.end);
    }

    /// Reads until the CLI has begun to work on the prompt.
    pub async fn until_init(&mut self) {
        self.until(|kind| matches!(kind, Kind::System(system) if system.init.is_some())).await;
    }

    /// Reads until text of the model contains `wanted`.
    pub async fn until_text(&mut self, wanted: &str) {
        self.until(|kind| text_of(kind).is_some_and(|text| text.contains(wanted))).await;
    }

    /// Leaves: the caller's side of the stream is dropped.
    pub fn leave(self) {
        drop(self);
    }

    pub fn started(&self) -> &TurnStarted {
        match self.events.first().and_then(|event| event.kind.as_ref()) {
            Some(Kind::Started(started)) => started,
            other => panic!("the first event is not started: {other:?}; {:?}", self.end),
        }
    }

    /// The text of all assistant messages.
    pub fn text(&self) -> String {
        let texts = self.events.iter().filter_map(|event| match event.kind.as_ref()? {
            kind @ Kind::Assistant(_) => text_of(kind),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    pub fn result(&self) -> &TurnResult {
        assert!(matches!(self.end, Some(Ok(()))), "the turn did not end well: {:?}", self.end);
        match self.events.last().and_then(|event| event.kind.as_ref()) {
            Some(Kind::Result(result)) => result,
            other => panic!("the last event is not a result: {other:?}"),
        }
    }

    /// The last result of a tool.
    #[track_caller]
    pub fn tool_result(&self) -> &ToolResultBlock {
        let blocks = self.events.iter().filter_map(|event| match event.kind.as_ref()? {
            Kind::User(message) => message.content.first(),
            _ => None,
        });
        let mut results = blocks.filter_map(|block| match block.block.as_ref()? {
            Block::ToolResult(result) => Some(result),
            _ => None,
        });
        results.next_back().expect("a tool result")
    }

    #[track_caller]
    pub fn error(&self) -> &Status {
        match &self.end {
            Some(Err(status)) => status,
            other => panic!("the turn did not fail: {other:?}"),
        }
    }
}

/// The text in an assistant message or a piece of one.
pub fn text_of(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Assistant(message) => {
            let texts = message.content.iter().filter_map(|block| match block.block.as_ref()? {
                Block::Text(text) => Some(text.text.as_str()),
                _ => None,
            });
            Some(texts.collect::<Vec<_>>().join(""))
        }
        Kind::StreamEvent(event) => match event.delta.as_ref()? {
            session_pool::proto::stream_event::Delta::Text(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}
