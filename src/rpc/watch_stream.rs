//! The stream of one who follows a session. One task for each, which owns the follower and ends
//! with the stream, however that ends. It takes the next thing to tell when there is room for it:
//! who does not read holds up nobody, and what is told of the session is as new as it can be.

use std::{
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use prost::Message as _;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_stream::Stream;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{
    decode::Payload,
    encode,
    heartbeat::Heartbeat,
    snapshot,
    status::{deadline_passed, of_failure},
    stream::{LARGEST_EVENT, Parts},
};
use crate::{
    domain::failure::Failure,
    pool::{Told, Watch},
    proto::{self, watch_session_response::Item},
    session::feed::Step,
    tasks::{at, spawn_owned},
    tenant::Share,
    turn::event::Event,
};

/// What a caller is told.
#[derive(Debug)]
pub struct WatchStream {
    responses: mpsc::Receiver<Result<proto::WatchSessionResponse, Status>>,
    task: JoinHandle<()>,
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for WatchStream {
    type Item = Result<proto::WatchSessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.responses.poll_recv(cx)
    }
}

/// Who follows a session, and how.
#[derive(Debug)]
pub struct Following {
    /// The session.
    pub watch: Watch,
    /// What events are filled with.
    pub payload: Payload,
    /// How long the stream may be quiet without a sign of life.
    pub heartbeat: Option<Duration>,
    /// When the caller's time is over.
    pub deadline: Option<Instant>,
    /// Its share of the tenant's streams.
    pub share: Share,
    /// The name of this node where there are others.
    pub node: Arc<str>,
}

/// The caller does not read any more.
#[derive(Debug)]
struct Left;

struct Outbox {
    responses: mpsc::Sender<Result<proto::WatchSessionResponse, Status>>,
    payload: Payload,
    node: Arc<str>,
}

impl Following {
    /// Begins the stream.
    pub fn begin(self) -> WatchStream {
        let (sender, responses) = mpsc::channel(1);
        WatchStream { responses, task: spawn_owned(self.run(sender)) }
    }

    async fn run(self, responses: mpsc::Sender<Result<proto::WatchSessionResponse, Status>>) {
        let Self { watch, payload, heartbeat, deadline, share, node } = self;
        let outbox = Outbox { responses: responses.clone(), payload, node };
        let told = async move {
            // Both go when the caller's time is over.
            let (_share, mut watch) = (share, watch);
            outbox.tell_all(&mut watch, heartbeat.map(Heartbeat::every)).await
        };
        let ended = tokio::select! {
            ended = told => ended,
            () = at(deadline) => Ok(Err(deadline_passed())),
        };
        if let Ok(Err(status)) = ended {
            responses.send(Err(status)).await.ok();
        }
    }
}

impl Outbox {
    /// Tells all that there is to tell. Returns how the stream ends.
    async fn tell_all(
        &self,
        watch: &mut Watch,
        mut heartbeat: Option<Heartbeat>,
    ) -> Result<Result<(), Status>, Left> {
        self.send(Item::Phase(proto::WatchPhase::Replay.into()), String::new()).await?;
        loop {
            match self.next(watch, &mut heartbeat).await? {
                Told::Status(status) => {
                    self.send(
                        Item::Session(snapshot::session(&status, &self.node).into()),
                        String::new(),
                    )
                    .await?;
                }
                Told::Step(Step::Over(end)) => return Ok(end.map_err(|it| of_failure(&it))),
                Told::Step(step) => self.tell(watch, step).await?,
            }
        }
    }

    /// What to tell next. Says meanwhile that the stream lives. Whatever was told before has just
    /// been sent.
    async fn next(
        &self,
        watch: &mut Watch,
        heartbeat: &mut Option<Heartbeat>,
    ) -> Result<Told, Left> {
        if let Some(heartbeat) = heartbeat {
            heartbeat.note_sent();
        }
        // One wait, however often the stream says that it lives: the store may be slower than that.
        let mut next = pin!(watch.next());
        loop {
            // Not before there is room: it may be another thing by then.
            drop(self.responses.reserve().await.map_err(|_| Left)?);
            tokio::select! {
                biased;
                told = &mut next => return Ok(told),
                () = self.responses.closed() => return Err(Left),
                () = beat(heartbeat) => {
                    self.send(Item::Heartbeat(proto::Heartbeat {}), String::new()).await?;
                }
            }
        }
    }

    async fn tell(&self, watch: &Watch, step: Step) -> Result<(), Left> {
        match step {
            Step::Events { turn, position, batch } => {
                let turn = turn.to_string();
                // Claimed until all of them are sent.
                let _held = batch.held;
                for (sequence, event) in (batch.first..).zip(batch.events) {
                    let cursor = watch.cursor(position, sequence);
                    self.event(&turn, sequence, &event, cursor, watch).await?;
                }
                Ok(())
            }
            Step::Aside { class, bytes, cursor } => {
                self.event("", 0, &Event::Frame(class, bytes), cursor, watch).await
            }
            Step::Failed { turn, failure, cursor } => {
                let item = failed(turn.to_string(), &failure, cursor);
                self.send(Item::Failure(item), String::new()).await
            }
            Step::Gap { after, before } => {
                self.send(Item::Gap(proto::WatchGap { after, before }), String::new()).await
            }
            Step::CaughtUp { cursor } => {
                self.send(Item::Phase(proto::WatchPhase::Live.into()), cursor).await
            }
            // Dealt with before.
            Step::Over(_) => Ok(()),
        }
    }

    async fn event(
        &self,
        turn: &str,
        sequence: u64,
        event: &Event,
        cursor: String,
        watch: &Watch,
    ) -> Result<(), Left> {
        let event = encode::event(sequence, event, self.payload);
        let turn_id = turn.to_owned();
        if event.encoded_len() <= LARGEST_EVENT {
            let item = proto::WatchedEvent { turn_id, event: Some(event), cursor };
            return self.send(Item::Event(item.into()), String::new()).await;
        }
        let rest = event.encode_to_vec();
        let held = watch.claim(rest.len());
        let mut parts = Parts::new(sequence, rest.into(), Some(held));
        loop {
            let part = parts.next();
            let last = part.last;
            let cursor = if last { cursor.clone() } else { String::new() };
            let item = proto::WatchedPart { turn_id: turn_id.clone(), part: Some(part), cursor };
            self.send(Item::Part(item), String::new()).await?;
            if last {
                return Ok(());
            }
        }
    }

    async fn send(&self, item: Item, cursor: String) -> Result<(), Left> {
        let response = proto::WatchSessionResponse { item: Some(item), cursor };
        self.responses.send(Ok(response)).await.map_err(|_| Left)
    }
}

/// Waits until the stream has been quiet for too long; for ever, if nobody minds.
async fn beat(heartbeat: &mut Option<Heartbeat>) {
    match heartbeat {
        Some(heartbeat) => poll_fn(|cx| heartbeat.poll(cx)).await,
        None => pending().await,
    }
}

/// What the turn's own callers are told as the status of their call.
fn failed(turn_id: String, failure: &Failure, cursor: String) -> proto::WatchedFailure {
    let status = of_failure(failure);
    let info = status.get_details_error_info();
    let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
    let message = status.message().to_owned();
    proto::WatchedFailure { turn_id, reason, message, metadata, cursor }
}
