//! The events that the service logs in this process, with their fields.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, Once},
};

use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::Context, prelude::*};

static EVENTS: Mutex<Vec<Logged>> = Mutex::new(Vec::new());

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    pub level: Level,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

/// Keeps what is logged from now on. Tests of one program share the record: look for
/// events by the session's id.
pub fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let layer = Capture.with_filter(LevelFilter::DEBUG);
        tracing_subscriber::registry().with(layer).init();
    });
}

/// The events of this name that concern a session.
pub fn events(message: &str, session: &str) -> Vec<Logged> {
    let events = EVENTS.lock().expect("no panic");
    events
        .iter()
        .filter(|event| event.message == message)
        .filter(|event| event.fields.get("session_id").is_some_and(|id| id == session))
        .cloned()
        .collect()
}

/// The events of this name, whatever they concern.
pub fn named(message: &str) -> Vec<Logged> {
    let events = EVENTS.lock().expect("no panic");
    events.iter().filter(|event| event.message == message).cloned().collect()
}

/// Whether any event so far holds this text, in its message or a field.
pub fn mentions(text: &str) -> bool {
    let events = EVENTS.lock().expect("no panic");
    events.iter().any(|event| {
        event.message.contains(text) || event.fields.values().any(|value| value.contains(text))
    })
}

/// The events so far that hold this text, in their message or a field.
pub fn mentioning(text: &str) -> Vec<Logged> {
    let events = EVENTS.lock().expect("no panic");
    let holds = |event: &&Logged| {
        event.message.contains(text) || event.fields.values().any(|value| value.contains(text))
    };
    events.iter().filter(holds).cloned().collect()
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("session_pool") {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        let level = *event.metadata().level();
        EVENTS.lock().expect("no panic").push(Logged { level, message, fields: fields.0 });
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
