//! What the tests of sessions and of the pool share: sessions in memory and in paused time. The
//! CLI is a task that speaks the protocol over a pipe, and the store can be told to wait or to
//! fail. Knows no test.

pub mod gated_store;
mod memory_cli;
pub mod memory_supply;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    domain::{
        failure::{Cause, Failure},
        input::Input,
        options::Options,
    },
    session::{
        BackgroundPolicy, BusyPolicy, DisconnectPolicy, MismatchPolicy, Settings, TurnRequest,
    },
    turn::{
        event::{Class, Event, Partials, Started, prompt_of},
        listener::Listener,
    },
};
use gated_store::LOCK_LIMIT;

pub const SECOND: Duration = Duration::from_secs(1);

pub fn settings() -> Settings {
    Settings {
        session_ttl: 3600 * SECOND,
        connection_recovery: true,
        first_chunk_timeout: 10 * SECOND,
        ongoing_timeout: 60 * SECOND,
        stall_timeout: Some(600 * SECOND),
        stuck_threshold: Some(900 * SECOND),
        interrupt_timeout: 10 * SECOND,
        max_queued_turns: 4,
        turn_retention: 60 * SECOND,
        named_turn_retention: 3600 * SECOND,
        hibernate_after: None,
        commit_timeout: LOCK_LIMIT,
        prompt_timeout: Some(600 * SECOND),
        background_max_age: Some(3600 * SECOND),
        background_timeout: 600 * SECOND,
        tells_trace: true,
    }
}

pub fn request(prompt: &str) -> TurnRequest {
    TurnRequest {
        turn_id: None,
        input: Arc::new(Input::Text(prompt.to_owned())),
        options: Options::default(),
        resume: None,
        new_conversation: false,
        on_busy: BusyPolicy::Queue,
        on_disconnect: DisconnectPolicy::Interrupt,
        on_background: BackgroundPolicy::Keep,
        on_mismatch: MismatchPolicy::Fail,
        partials: Partials::Hidden,
        asked_at: Instant::now(),
        deadline: None,
        span: tracing::Span::none(),
        trace: crate::traces::Trace::default(),
        held: None,
    }
}

/// A turn as its listener saw it.
#[derive(Debug)]
pub struct Seen {
    pub sequences: Vec<u64>,
    pub started: Vec<Arc<Started>>,
    pub frames: Vec<(Class, String)>,
    pub end: Result<(), Failure>,
}

/// Reads a turn to its end.
pub async fn read(mut listener: Listener) -> Seen {
    let mut seen =
        Seen { sequences: Vec::new(), started: Vec::new(), frames: Vec::new(), end: Ok(()) };
    loop {
        match listener.batch().await {
            Ok(Some(batch)) => {
                for (sequence, event) in (batch.first..).zip(batch.events) {
                    seen.sequences.push(sequence);
                    match event {
                        Event::Started(started) => seen.started.push(started),
                        Event::Frame(class, line) => {
                            let line = match class {
                                Class::Prompt => prompt_of(&line).1,
                                _ => &line[..],
                            };
                            seen.frames.push((class, String::from_utf8_lossy(line).into_owned()));
                        }
                    }
                }
            }
            Ok(None) => return seen,
            Err(failure) => {
                seen.end = Err(failure);
                return seen;
            }
        }
    }
}

/// Reads a turn up to its first message.
pub async fn answered(mut listener: Listener) -> Listener {
    loop {
        let batch = listener.batch().await.expect("it runs").expect("it has not ended");
        let is_message = |event: &Event| matches!(event, Event::Frame(Class::Assistant, _));
        if batch.events.iter().any(is_message) {
            return listener;
        }
    }
}

/// Waits until nothing goes on any more before the paused clock does.
pub async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// Waits until something holds, for at most a minute of the paused clock.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            settle().await;
        }
    };
    timeout(60 * SECOND, waiting).await.unwrap_or_else(|_| panic!("never so: {what}"));
}

pub fn text(seen: &Seen) -> String {
    seen.frames.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
}

pub fn cause(seen: &Seen) -> Cause {
    seen.end.clone().expect_err("the turn failed").cause
}
