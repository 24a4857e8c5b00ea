//! A turn's log as a response stream. It ends with the turn, at the caller's deadline,
//! or when the caller goes away: then it is dropped, and with it the listener, which is
//! how the session hears of it.
//!
//! tonic does not enforce `grpc-timeout` on the body of a stream (observed on 0.14.9),
//! so the deadline is read and kept here. A caller's reset drops the stream while it is
//! waited upon, also when the CLI is silent: hyper watches the HTTP/2 stream whenever
//! the body is pending.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prost::{Message as _, bytes::Bytes};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tonic::{Status, metadata::MetadataMap};

use super::{decode::Payload, encode, status};
use crate::{
    ids::SessionId,
    proto,
    tenant::Share,
    turn::{event::Event, log::Listener},
};

/// An event whose encoding is over this travels in parts: callers accept 4 MiB by
/// default, and a message has some bytes around the event.
const LARGEST_EVENT: usize = 3 * 1024 * 1024;

/// One message of a stream of events, whichever rpc it is for.
#[derive(Debug)]
pub struct Item {
    /// A whole event.
    pub event: Option<proto::TurnEvent>,
    /// A part of one.
    pub part: Option<proto::EventPart>,
}

impl From<Item> for proto::QueryResponse {
    fn from(Item { event, part }: Item) -> Self {
        Self { event, part }
    }
}

impl From<Item> for proto::AttachResponse {
    fn from(Item { event, part }: Item) -> Self {
        Self { event, part }
    }
}

/// The events of a turn, as messages of type `M`.
#[derive(Debug)]
pub struct EventStream<M> {
    /// `None` once the stream has ended.
    listener: Option<Listener>,
    /// Its share of the tenant's streams.
    _share: Share,
    session_id: Option<SessionId>,
    payload: Payload,
    deadline: Option<Pin<Box<Sleep>>>,
    next: u64,
    events: VecDeque<Event>,
    parts: VecDeque<proto::EventPart>,
    messages: std::marker::PhantomData<fn() -> M>,
}

impl<M: From<Item>> EventStream<M> {
    /// The events that `listener` hears, until `deadline`.
    pub fn new(
        listener: Listener,
        share: Share,
        session_id: Option<SessionId>,
        payload: Payload,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            listener: Some(listener),
            _share: share,
            session_id,
            payload,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            next: 1,
            events: VecDeque::new(),
            parts: VecDeque::new(),
            messages: std::marker::PhantomData,
        }
    }

    /// The next message of what has been taken from the log already.
    fn ready(&mut self) -> Option<Item> {
        if let Some(part) = self.parts.pop_front() {
            return Some(Item { event: None, part: Some(part) });
        }
        let event = self.events.pop_front()?;
        let sequence = self.next;
        self.next += 1;
        let event = encode::event(sequence, &event, self.payload);
        if event.encoded_len() <= LARGEST_EVENT {
            return Some(Item { event: Some(event), part: None });
        }
        self.parts = split(sequence, &event);
        let part = self.parts.pop_front();
        Some(Item { event: None, part })
    }

    fn deadline_passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}

fn split(sequence: u64, event: &proto::TurnEvent) -> VecDeque<proto::EventPart> {
    let encoded: Bytes = event.encode_to_vec().into();
    let count = encoded.len().div_ceil(LARGEST_EVENT);
    encoded
        .chunks(LARGEST_EVENT)
        .enumerate()
        .map(|(index, data)| proto::EventPart {
            sequence,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            last: index + 1 == count,
            data: data.to_vec(),
        })
        .collect()
}

impl<M: From<Item>> Stream for EventStream<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(item) = this.ready() {
            return Poll::Ready(Some(Ok(item.into())));
        }
        let Some(listener) = &mut this.listener else { return Poll::Ready(None) };
        let end = match listener.poll_batch(cx) {
            Poll::Ready(Ok(Some(batch))) => {
                this.next = batch.first;
                this.events.extend(batch.events);
                let item = this.ready().map(|item| Ok(item.into()));
                return Poll::Ready(item);
            }
            Poll::Ready(Ok(None)) => None,
            Poll::Ready(Err(failure)) => {
                let failure =
                    failure.concerning(this.session_id.as_ref(), Some(listener.turn_id()));
                Some(Err(status::of_failure(&failure)))
            }
            Poll::Pending if this.deadline_passed(cx) => Some(Err(status::deadline_passed())),
            Poll::Pending => return Poll::Pending,
        };
        this.listener = None;
        Poll::Ready(end)
    }
}

/// The caller's deadline, from its `grpc-timeout`: at most eight digits and a unit.
pub fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_digits_and_a_unit() {
        let in_seconds = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("a value"));
            deadline(&metadata).map(|at| (at - Instant::now()).as_secs_f64().round())
        };
        assert_eq!(in_seconds("2S"), Some(2.0));
        assert_eq!(in_seconds("3000m"), Some(3.0));
        assert_eq!(in_seconds("99999999H"), Some(99_999_999.0 * 3600.0));
        for bad in ["", "S", "12", "123456789S", "1x", "-1S"] {
            assert_eq!(in_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_large_event_is_the_sum_of_its_parts() {
        let event =
            proto::TurnEvent { sequence: 7, kind: None, json: "x".repeat(2 * LARGEST_EVENT + 5) };
        let parts = split(7, &event);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| part.data.len() <= LARGEST_EVENT && part.sequence == 7));
        assert_eq!(parts.iter().map(|part| part.last).collect::<Vec<_>>(), [false, false, true]);
        let whole: Vec<u8> = parts.into_iter().flat_map(|part| part.data).collect();
        assert_eq!(proto::TurnEvent::decode(whole.as_slice()).expect("decodes"), event);
    }
}
