//! Delivering an answer: over time as a stream of events, or whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use super::message::{Break, Message, Piece, Text};
use super::rules;
use super::sse::{self, Encoder};

/// Events waiting for the connection; the client's pace holds the stream up beyond that.
const CHANNEL: usize = 64;

/// The client has left, or the server is stopping: nothing more to deliver.
#[derive(Debug)]
pub struct Ended;

/// Waits, unless the server stops first.
pub async fn pause(duration: Duration, stop: &CancellationToken) -> Result<(), Ended> {
    tokio::select! {
        () = tokio::time::sleep(duration) => Ok(()),
        () = stop.cancelled() => Err(Ended),
    }
}

/// The two ends of a streamed body.
pub fn body(stop: CancellationToken) -> (Outlet, EventStream) {
    let (events, receiver) = mpsc::channel(CHANNEL);
    let stream = EventStream { events: receiver, broken: None };
    (Outlet { events, stop }, stream)
}

/// Where the events of one stream go.
#[derive(Debug)]
pub struct Outlet {
    events: mpsc::Sender<io::Result<Bytes>>,
    stop: CancellationToken,
}

impl Outlet {
    /// Delivers the message and ends the stream, in the way the message says.
    pub async fn deliver(self, message: Message) {
        // Either way there is nobody left to tell.
        let (Ok(()) | Err(Ended)) = self.pieces(&message).await;
    }

    async fn pieces(&self, message: &Message) -> Result<(), Ended> {
        let mut encoder = Encoder::default();
        if message.pieces.first() == Some(&Piece::Broken(Break::SilentFromTheStart)) {
            return self.silence().await;
        }
        self.send(encoder.start(message)).await?;
        for piece in &message.pieces {
            match piece {
                Piece::Text(text) => self.text(&mut encoder, text).await?,
                Piece::Thinking(text) => self.thinking(&mut encoder, text).await?,
                Piece::ToolUse { id, name, input } => {
                    self.tool_use(&mut encoder, id, name, input).await?;
                }
                Piece::Pause(duration) => self.pause(*duration).await?,
                Piece::Broken(how) => return self.broken(&mut encoder, *how).await,
            }
        }
        self.send(encoder.finish(message)).await
    }

    async fn text(&self, encoder: &mut Encoder, text: &Text) -> Result<(), Ended> {
        self.send(encoder.open(&json!({ "type": "text", "text": "" }))).await?;
        for (index, delta) in deltas(text).enumerate() {
            if let Text::Words { every, .. } = text
                && index > 0
            {
                self.pause(*every).await?;
            }
            self.send(encoder.delta("text_delta", "text", &delta)).await?;
        }
        self.send(encoder.close()).await
    }

    async fn thinking(&self, encoder: &mut Encoder, text: &str) -> Result<(), Ended> {
        let empty = json!({ "type": "thinking", "thinking": "", "signature": "" });
        self.send(encoder.open(&empty)).await?;
        for part in parts(text) {
            let delta = encoder.delta("thinking_delta", "thinking", part);
            self.send(delta).await?;
        }
        let signature = encoder.delta("signature_delta", "signature", &rules::signature(text));
        self.send(signature).await?;
        self.send(encoder.close()).await
    }

    async fn tool_use(
        &self,
        encoder: &mut Encoder,
        id: &str,
        name: &str,
        input: &Value,
    ) -> Result<(), Ended> {
        let empty = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
        self.send(encoder.open(&empty)).await?;
        for part in parts(&input.to_string()) {
            let delta = encoder.delta("input_json_delta", "partial_json", part);
            self.send(delta).await?;
        }
        self.send(encoder.close()).await
    }

    async fn broken(&self, encoder: &mut Encoder, how: Break) -> Result<(), Ended> {
        if how == Break::ErrorEvent {
            return self.send(Encoder::error("overloaded_error", "Overloaded")).await;
        }
        self.send(encoder.open(&json!({ "type": "text", "text": "" }))).await?;
        self.send(encoder.delta("text_delta", "text", "So far so ")).await?;
        if how == Break::Dropped {
            let broken = io::Error::from(io::ErrorKind::ConnectionAborted);
            return self.events.send(Err(broken)).await.map_err(|_| Ended);
        }
        self.silence().await
    }

    async fn send(&self, event: Bytes) -> Result<(), Ended> {
        tokio::select! {
            sent = self.events.send(Ok(event)) => sent.map_err(|_| Ended),
            () = self.stop.cancelled() => Err(Ended),
        }
    }

    async fn pause(&self, duration: Duration) -> Result<(), Ended> {
        tokio::select! {
            paused = pause(duration, &self.stop) => paused,
            () = self.events.closed() => Err(Ended),
        }
    }

    async fn silence(&self) -> Result<(), Ended> {
        self.pause(Duration::MAX).await
    }
}

/// The events of one stream, as a response body reads them.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<io::Result<Bytes>>,
    broken: Option<io::Error>,
}

impl Stream for EventStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        match ready!(self.events.poll_recv(cx)) {
            Some(Err(broken)) => {
                // The connection throws away what it has not written yet when the body fails. It writes
                // when the body has nothing for it, so the failure waits for the next poll.
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            item => Poll::Ready(item),
        }
    }
}

/// Delivers the message whole; its pauses come before it. A tool call ends it as in a stream.
pub async fn whole(message: &Message, stop: &CancellationToken) -> Result<Value, Ended> {
    let (mut content, mut chars) = (Vec::new(), 0);
    for piece in &message.pieces {
        let block = match piece {
            Piece::Text(text) => {
                if let Text::Words { count, every } = text {
                    pause(*every * count.saturating_sub(1), stop).await?;
                }
                json!({ "type": "text", "text": deltas(text).collect::<String>() })
            }
            Piece::Thinking(text) => {
                json!({ "type": "thinking", "thinking": text, "signature": rules::signature(text) })
            }
            Piece::ToolUse { id, name, input } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
            Piece::Pause(duration) => {
                pause(*duration, stop).await?;
                continue;
            }
            // Planned for streams only.
            Piece::Broken(_) => continue,
        };
        chars += block.to_string().len();
        content.push(block);
    }
    Ok(message.whole(content, sse::tokens(chars)))
}

fn deltas(text: &Text) -> Box<dyn Iterator<Item = String> + Send + '_> {
    match text {
        Text::Whole(text) => Box::new(parts(text).map(str::to_owned)),
        Text::Words { count, .. } => Box::new((1..=*count).map(|n| match n {
            1 => "word1".to_owned(),
            n => format!(" word{n}"),
        })),
        Text::Deltas { count, size } => {
            let letters = (0..*count).zip(('a'..='z').cycle());
            Box::new(letters.map(|(_, letter)| letter.to_string().repeat(*size)))
        }
    }
}

/// Cuts a text into a few parts, between characters; an empty one has none.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let size = text.chars().count().div_ceil(4).max(1);
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(size).map_or(rest.len(), |(at, _)| at);
        let (part, after) = rest.split_at(end);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}
