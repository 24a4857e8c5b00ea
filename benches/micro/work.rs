//! The work that is measured of the inside of the service, on frames as the newest CLI has printed them. Each part is
//! a function of its own that is never inlined: `benches/counts` has its instructions counted by its name.

use std::{sync::Arc, time::Duration, time::SystemTime};

use bytes::Bytes;
use prost::Message as _;
use session_pool::{
    internals::{
        budget::{Bounds, Budget},
        cli::{
            frame::{Frame, FrameKind},
            lines::LineReader,
        },
        domain::ids::{CliSessionId, ClientId, SessionId, SessionKey, TenantId, TurnId},
        pool::contended::Registry,
        rpc::{decode::Payload, encode},
        traces::TurnTrace,
        turn::{
            event::{Class, Event, Partials, ProcessOrigin, Started},
            storage::{Storage, StorageSettings},
        },
    },
    proto::{QueryResponse, query_response::Item},
};
use tokio::runtime::{Builder, Runtime};
use tracing::Span;

/// Frames that were recorded: what a CLI prints in a session of several turns.
const RECORDED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/frames/2.1.332.ndjson"));
/// A read of a pipe that is full has so many of them.
const AT_ONCE: usize = 64;
const MAX_LINE: usize = 16 << 20;

/// A runtime of one thread, so that a count is the same each time.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// The recorded lines without those that answer requests, which are long and rare.
pub fn lines() -> Vec<u8> {
    let frames = RECORDED.lines().filter(|line| !line.contains("control_response"));
    frames.flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}

/// The frequent ones of them as a log has them.
pub fn frames() -> Vec<(Class, Bytes)> {
    let parsed = RECORDED.lines().map(|line| Frame::parse(Bytes::from_static(line.as_bytes())));
    let known = parsed.filter_map(Result::ok).filter_map(|frame| {
        let class = match frame.kind {
            FrameKind::Assistant { .. } => Class::Assistant,
            FrameKind::User { .. } => Class::User,
            FrameKind::StreamEvent => Class::StreamEvent,
            _ => return None,
        };
        Some((class, frame.raw))
    });
    known.collect()
}

/// The same as events.
pub fn events() -> Vec<Event> {
    frames().into_iter().map(|(class, line)| Event::Frame(class, line)).collect()
}

/// The codec: what a CLI prints becomes frames. Returns how many.
#[inline(never)]
pub fn codec(runtime: &Runtime, printed: &[u8]) -> usize {
    runtime.block_on(async {
        let mut reader = LineReader::new(printed, MAX_LINE);
        let (mut cut, mut frames) = (Vec::new(), 0);
        loop {
            let more = reader.read_lines(&mut cut).await.expect("lines");
            frames += cut.drain(..).filter_map(|line| Frame::parse(line).ok()).count();
            if !more {
                return frames;
            }
        }
    })
}

/// Events to the contract's messages, and those to bytes. Returns how many.
fn encoded(events: &[Event], payload: Payload) -> usize {
    let encoded = events.iter().zip(1..).map(|(event, sequence)| {
        let event = encode::event(sequence, event, payload);
        QueryResponse { item: Some(Item::Event(Box::new(event))) }.encode_to_vec().len()
    });
    encoded.sum()
}

/// Of typed events.
#[inline(never)]
pub fn encode_typed(events: &[Event]) -> usize {
    encoded(events, Payload::Typed)
}

/// Of events that are JSON.
#[inline(never)]
pub fn encode_json(events: &[Event]) -> usize {
    encoded(events, Payload::Json)
}

/// The log of one turn, written to and read to its end. Returns how many events a listener has seen.
#[inline(never)]
pub fn log(runtime: &Runtime, storage: &Storage, frames: &[(Class, Bytes)]) -> usize {
    let accounts = storage.accounts(&TenantId::default());
    let turn = TurnId::fresh();
    let log =
        storage.log(turn.clone(), &accounts, Arc::default(), Span::none(), TurnTrace::default());
    log.start(Started {
        session_id: SessionId::anonymous(),
        turn_id: turn,
        client_id: ClientId::fresh(),
        cli_session_id: CliSessionId::fresh(),
        origin: ProcessOrigin::Created,
        queued_for: Duration::ZERO,
        connect_time: Duration::ZERO,
        start_time: SystemTime::UNIX_EPOCH,
        background: false,
    });
    let mut listener = log.listen(1, Partials::Shown).expect("a place");
    runtime.block_on(async {
        let mut seen = 0;
        for some in frames.chunks(AT_ONCE) {
            log.append(some.iter().cloned());
            seen += listener.batch().await.expect("well").map_or(0, |batch| batch.events.len());
        }
        log.end(Ok(()));
        while let Some(batch) = listener.batch().await.expect("well") {
            seen += batch.events.len();
        }
        seen
    })
}

/// Memory for all logs.
pub fn storage() -> Storage {
    let plenty =
        || Budget::new(Bounds { key: "", total: 1 << 30, tenant_key: "", of_tenant: None });
    Storage::new(StorageSettings {
        buffer_bytes: 64 << 20,
        spill_bytes: 0,
        spill_folder: std::env::temp_dir(),
        disk_reserve: 0,
        memory: plenty(),
        disk: plenty(),
    })
}

/// Calls that are made at a time.
pub const CALLS: usize = 1_024;

/// So many sessions of one tenant.
pub fn keys(count: usize) -> Vec<SessionKey> {
    let tenant = TenantId::parse("tenant").expect("a name");
    let of = |number| SessionId::parse(&format!("session-{number}")).expect("a name");
    (0..count).map(|number| SessionKey::new(tenant.clone(), of(number))).collect()
}

/// All of them but one, which is free to come and go.
pub fn registry(keys: &[SessionKey]) -> Registry {
    Registry::with(keys.iter().skip(1))
}

/// The registry: finds sessions all over it, and has one come and go now and then. Returns how many were there.
#[inline(never)]
pub fn calls(registry: &Registry, keys: &[SessionKey]) -> usize {
    let mut there = 0;
    for call in 0..CALLS {
        if call % 16 == 0 {
            registry.come_and_go(&keys[0]);
        }
        // A step that meets all of them, in no order.
        there += usize::from(registry.find(&keys[call * 7_919 % keys.len()]));
    }
    there
}
