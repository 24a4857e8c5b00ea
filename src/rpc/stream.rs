//! A turn's log as a response stream. It ends with the turn, at the caller's deadline,
//! or when the caller goes away: then it is dropped, and with it the listener, which is
//! how the session hears of it.
//!
//! tonic does not enforce `grpc-timeout` on the body of a stream (observed on 0.14.9),
//! so the deadline is read and kept here. It is kept by a task and not by the stream:
//! hyper polls a body only while its caller has room for more, so that a timer in the
//! stream would stand still for as long as the caller does not read. At the deadline the
//! task takes the listener, what is not sent yet and the tenant's share out of the stream,
//! whether or not anybody polls it again.
//!
//! A caller's reset drops the stream while it is waited upon, also when the CLI is silent
//! and when the caller's window is full: hyper watches the HTTP/2 stream in both states.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use prost::{Message as _, bytes::Bytes};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;
use tonic::Status;

use super::{
    decode::Payload,
    encode,
    heartbeat::{self, Heartbeat},
    status,
};
use crate::{
    budget::Reservation,
    domain::ids::SessionId,
    proto,
    tasks::spawn_owned,
    tenant::Share,
    turn::{
        event::Event,
        listener::{Follow, Listener},
    },
};

/// An event whose encoding is over this travels in parts: callers accept 4 MiB by
/// default, and a message has some bytes around the event.
pub(super) const LARGEST_EVENT: usize = 3 * 1024 * 1024;

/// A line of at most this makes no event that would be larger: the shortest items of a list become
/// four times as long, and nothing else more. To measure an event costs as much as to encode it.
const SURELY_FITS: usize = LARGEST_EVENT / 16;

/// One message of a stream of events, whichever rpc it is for.
#[derive(Debug)]
pub enum Item {
    /// A whole event.
    Event(Box<proto::TurnEvent>),
    /// A part of one.
    Part(proto::EventPart),
}

impl From<Item> for proto::QueryResponse {
    fn from(item: Item) -> Self {
        use proto::query_response::Item as Wire;
        let item = match item {
            Item::Event(event) => Wire::Event(event),
            Item::Part(part) => Wire::Part(part),
        };
        Self { item: Some(item) }
    }
}

impl From<Item> for proto::AttachResponse {
    fn from(item: Item) -> Self {
        use proto::attach_response::Item as Wire;
        let item = match item {
            Item::Event(event) => Wire::Event(event),
            Item::Part(part) => Wire::Part(part),
        };
        Self { item: Some(item) }
    }
}

/// The events of a turn, as messages of type `M`.
#[derive(Debug)]
pub struct EventStream<M> {
    source: Arc<Mutex<Source>>,
    /// Ends the source at the caller's deadline.
    timer: Option<JoinHandle<()>>,
    messages: std::marker::PhantomData<fn() -> M>,
}

/// What a stream and its timer share.
#[derive(Debug)]
struct Source {
    /// `None` once its turn has ended.
    listener: Option<Listener>,
    /// What comes behind the turn; `None` once nothing does.
    follow: Option<Follow>,
    /// Its share of the tenant's streams.
    share: Share,
    session_id: Option<SessionId>,
    payload: Payload,
    next: u64,
    events: VecDeque<Event>,
    /// An event that travels in parts, as far as it is not sent.
    parts: Option<Parts>,
    /// What the events take in memory, where that is for this stream alone.
    held: Option<Reservation>,
    /// What it says when there is nothing else to say.
    heartbeat: Option<Heartbeat>,
    /// How the stream ends, when it is to end with an error and nobody has been told yet.
    error: Option<Status>,
    waker: Option<Waker>,
}

impl<M: From<Item>> EventStream<M> {
    /// The events that `listener` hears, until `deadline`.
    pub fn new(
        mut listener: Listener,
        share: Share,
        session_id: Option<SessionId>,
        payload: Payload,
        deadline: Option<Instant>,
    ) -> Self {
        let source = Arc::new(Mutex::new(Source {
            follow: listener.take_follow(),
            listener: Some(listener),
            share,
            session_id,
            payload,
            next: 1,
            events: VecDeque::new(),
            parts: None,
            held: None,
            heartbeat: None,
            error: None,
            waker: None,
        }));
        let timer = deadline.map(|deadline| {
            let source = Arc::clone(&source);
            spawn_owned(async move {
                sleep_until(deadline).await;
                lock(&source).expire();
            })
        });
        Self { source, timer, messages: std::marker::PhantomData }
    }

    /// The same, with a sign of life when nothing else was sent for so long.
    #[must_use]
    pub fn with_heartbeat(self, interval: Option<Duration>) -> Self {
        lock(&self.source).heartbeat = interval.map(Heartbeat::every);
        self
    }
}

impl<M> Drop for EventStream<M> {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

/// Held for taking and encoding one message, never across a wait.
fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// The next message of what has been taken from the log already.
    fn ready(&mut self) -> Option<Item> {
        if let Some(part) = self.next_part() {
            return Some(Item::Part(part));
        }
        let event = self.events.pop_front()?;
        let sequence = self.next;
        self.next += 1;
        let surely_fits = event.bytes() <= SURELY_FITS;
        let event = encode::event(sequence, &event, self.payload);
        if surely_fits || event.encoded_len() <= LARGEST_EVENT {
            return Some(Item::Event(Box::new(event)));
        }
        let rest: Bytes = event.encode_to_vec().into();
        let held = self.listener.as_ref().map(|listener| listener.claim(rest.len()));
        self.parts = Some(Parts::new(sequence, rest, held));
        self.next_part().map(Item::Part)
    }

    fn next_part(&mut self) -> Option<proto::EventPart> {
        let parts = self.parts.as_mut()?;
        let part = parts.next();
        if part.last {
            self.parts = None;
        }
        Some(part)
    }

    /// The next message, or else a sign of life.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Status>>> {
        let next = self.poll_turn(cx);
        let Some(heartbeat) = &mut self.heartbeat else { return next };
        if next.is_ready() {
            heartbeat.note_sent();
            return next;
        }
        heartbeat.poll(cx).map(|()| Some(Ok(Item::Event(Box::new(heartbeat::event())))))
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Status>>> {
        if let Some(item) = self.ready() {
            return Poll::Ready(Some(Ok(item)));
        }
        let Some(listener) = &mut self.listener else { return self.poll_follow(cx) };
        let end = match listener.poll_batch(cx) {
            Poll::Ready(Ok(Some(batch))) => {
                self.next = batch.first;
                self.events.extend(batch.events);
                self.held = batch.held;
                let item = self.ready().map(Ok);
                return Poll::Ready(item);
            }
            Poll::Ready(Ok(None)) if self.follow.is_some() => {
                self.listener = None;
                return self.poll_follow(cx);
            }
            Poll::Ready(Ok(None)) => None,
            Poll::Ready(Err(failure)) => {
                let failure =
                    failure.concerning(self.session_id.as_ref(), Some(listener.turn_id()));
                let status = status::of_failure(&failure);
                if self.follow.is_some() {
                    // Told at the end of what comes behind it.
                    self.listener = None;
                    self.error.get_or_insert(status);
                    return self.poll_follow(cx);
                }
                Some(Err(status))
            }
            Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        self.let_go();
        Poll::Ready(end)
    }

    /// The next message of the turn that comes next, if one does.
    fn poll_follow(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Status>>> {
        let Some(follow) = &mut self.follow else {
            return Poll::Ready(self.error.take().map(Err));
        };
        let end = match follow.poll_next(cx) {
            Poll::Ready(Some(Ok(listener))) => {
                self.listener = Some(listener);
                if follow.brings_own_turn() {
                    self.error = None;
                }
                return self.poll_turn(cx);
            }
            Poll::Ready(Some(Err(failure))) => {
                let failure = failure.concerning(self.session_id.as_ref(), None);
                Some(Err(self.error.take().unwrap_or_else(|| status::of_failure(&failure))))
            }
            Poll::Ready(None) => self.error.take().map(Err),
            Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        self.let_go();
        Poll::Ready(end)
    }

    /// Ends the stream because its deadline has passed, whether or not it is polled. A
    /// stream that has ended by itself is left alone.
    fn expire(&mut self) {
        if self.listener.is_none() && self.follow.is_none() {
            return;
        }
        self.let_go();
        self.error = Some(status::deadline_passed());
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Gives back all that the stream holds of the turn and of the tenant's quota.
    fn let_go(&mut self) {
        self.listener = None;
        self.follow = None;
        self.share = Share::default();
        self.events = VecDeque::new();
        self.parts = None;
        self.held = None;
    }
}

/// An event that is too large for one message, cut as it is sent.
#[derive(Debug)]
pub(super) struct Parts {
    sequence: u64,
    index: u32,
    /// What is not sent yet of its encoding.
    rest: Bytes,
    _held: Option<Reservation>,
}

impl Parts {
    /// All of an event's encoding, for which this is claimed.
    pub(super) fn new(sequence: u64, rest: Bytes, held: Option<Reservation>) -> Self {
        Self { sequence, index: 0, rest, _held: held }
    }

    /// The next of them; the last one says so.
    pub(super) fn next(&mut self) -> proto::EventPart {
        let data = self.rest.split_to(self.rest.len().min(LARGEST_EVENT)).to_vec();
        let index = self.index;
        self.index += 1;
        proto::EventPart { sequence: self.sequence, index, last: self.rest.is_empty(), data }
    }
}

impl<M: From<Item>> Stream for EventStream<M> {
    type Item = Result<M, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        lock(&self.source).poll(cx).map(|next| next.map(|item| item.map(M::from)))
    }
}

#[cfg(test)]
mod tests;
