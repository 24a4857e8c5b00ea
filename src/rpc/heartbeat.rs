//! Signs of life in a stream that is quiet: a timer that is polled where the stream itself has
//! nothing to send. It begins anew with whatever is sent, and it is part of the stream: no task
//! of its own, and silent while the caller does not read. What it is for are proxies between the
//! two, which see no more of a caller that does not read than this does.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::proto::{self, turn_event::Kind};

/// The shortest interval that a caller may ask for.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);

/// When a quiet stream says that it lives.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether something was sent since the timer was set.
    stale: bool,
}

impl Heartbeat {
    /// For a stream that begins now.
    pub fn every(interval: Duration) -> Self {
        Self { interval, timer: Box::pin(sleep(interval)), stale: false }
    }

    /// Something was sent.
    pub fn note_sent(&mut self) {
        // The timer is set when the stream is quiet again: a busy one does not pay for it.
        self.stale = true;
    }

    /// Ready when nothing was sent for as long as the interval. To be polled when there is
    /// nothing else to send.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.stale) {
            self.timer.as_mut().reset(Instant::now() + self.interval);
        }
        self.timer.as_mut().poll(cx).map(|()| self.stale = true)
    }
}

/// A sign of life among the events of a turn.
pub fn event() -> proto::TurnEvent {
    let kind = Some(Kind::Heartbeat(proto::Heartbeat {}));
    proto::TurnEvent { sequence: 0, kind, json: String::new() }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::{
        domain::ids::{TenantId, TurnId},
        rpc::{decode::Payload, stream::EventStream},
        tenant::Share,
        turn::{event::Partials, storage::Storage},
    };

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_says_in_every_interval_that_it_lives() {
        let began = Instant::now();
        let mut heartbeat = Heartbeat::every(Duration::from_secs(5));
        for beat in 1..=3 {
            poll_fn(|cx| heartbeat.poll(cx)).await;
            assert_eq!(began.elapsed(), Duration::from_secs(5) * beat);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_begins_the_interval_anew() {
        let began = Instant::now();
        let mut heartbeat = Heartbeat::every(Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(4)).await;
        heartbeat.note_sent();
        poll_fn(|cx| heartbeat.poll(cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_turn_beats_without_a_number_until_its_deadline() {
        let storage = Storage::in_memory(1 << 20);
        let accounts = storage.accounts(&TenantId::default());
        let log = storage.log(
            TurnId::fresh(),
            &accounts,
            Arc::default(),
            tracing::Span::none(),
            crate::traces::TurnTrace::default(),
        );
        let listener = log.listen(1, Partials::Hidden).expect("room");
        let at = Instant::now() + Duration::from_secs(5);
        let mut stream = EventStream::<proto::QueryResponse>::new(
            listener,
            Share::default(),
            None,
            Payload::Json,
            Some(at),
        )
        .with_heartbeat(Some(Duration::from_secs(2)));
        for _ in 0..2 {
            let message = stream.next().await.expect("a beat").expect("no error");
            let Some(proto::query_response::Item::Event(event)) = message.item else {
                panic!("not an event")
            };
            assert_eq!(event.sequence, 0);
            assert!(matches!(event.kind, Some(Kind::Heartbeat(_))));
        }
        let status = stream.next().await.expect("an end").expect_err("a deadline");
        assert_eq!((status.code(), Instant::now()), (tonic::Code::DeadlineExceeded, at));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(stream.next().await.is_none(), "what has ended is silent");
    }
}
