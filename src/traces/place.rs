//! Places in a trace, and the spans at them. A place is known from the moment that something
//! begins, so that others can have it for their parent; its span is handed over when that has
//! ended, however it ends: dropping a [`Span`] ends it.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceId},
};

use super::{
    Recorder,
    context::{TRACEPARENT, TRACESTATE, VARIABLE, write},
};

/// A place in a trace, for as long as something happens there; by default in none. Cloning gives
/// the same place.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Place>>);

#[derive(Debug)]
struct Place {
    /// Its span, or the caller's.
    context: SpanContext,
    /// Of a span of the service's own: its parent.
    parent: Option<Parent>,
    recorder: Option<Arc<Recorder>>,
}

#[derive(Debug, Clone, Copy)]
struct Parent {
    id: SpanId,
    is_remote: bool,
}

impl Trace {
    /// Where a caller's trace goes on.
    pub(super) fn of_caller(caller: SpanContext, recorder: Option<Arc<Recorder>>) -> Self {
        Self(Some(Arc::new(Place { context: caller, parent: None, recorder })))
    }

    /// Where a trace begins.
    pub(super) fn root(recorder: &Arc<Recorder>) -> Self {
        let (context, recorder) = (recorder.root(), Some(Arc::clone(recorder)));
        Self(Some(Arc::new(Place { context, parent: None, recorder })))
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The trace's id.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.0.as_ref().map(|place| place.context.trace_id())
    }

    /// The id of the service's own span at this place.
    pub fn span_id(&self) -> Option<SpanId> {
        let place = self.0.as_ref()?;
        place.parent.map(|_| place.context.span_id())
    }

    /// A place below this one. Without an exporter it is this one.
    #[must_use]
    pub fn below(&self) -> Self {
        let Some(place) = &self.0 else { return Self::default() };
        let Some(recorder) = &place.recorder else { return self.clone() };
        Self(Some(Arc::new(Place {
            context: recorder.child_of(&place.context),
            parent: Some(Parent {
                id: place.context.span_id(),
                is_remote: place.context.is_remote(),
            }),
            recorder: Some(Arc::clone(recorder)),
        })))
    }

    /// The span at this place, which begins now unless it says otherwise.
    pub fn span(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Span {
        let recorded = self.0.as_ref().filter(|place| {
            let sampled = place.context.is_sampled() && place.parent.is_some();
            sampled && place.recorder.is_some()
        });
        let open = recorded.map(|_| {
            Box::new(Open {
                kind,
                name: name.into(),
                began: SystemTime::now(),
                attributes: Vec::new(),
                status: Status::Unset,
            })
        });
        Span { place: self.clone(), open }
    }

    /// A span below this place, of the service's own work.
    pub fn begin(&self, name: &'static str) -> Span {
        self.below().span(name, SpanKind::Internal)
    }

    /// Names this place as the parent of a call to another node, in the place of its caller's, if
    /// it is the service's own.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        let Some(place) = self.0.as_ref().filter(|place| place.parent.is_some()) else { return };
        let (parent, state) = write(&place.context);
        headers.remove(TRACESTATE);
        for (name, value) in [(TRACEPARENT, Some(parent)), (TRACESTATE, state)] {
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        }
    }

    /// The variables by which a program learns its place in a trace; none where there is no trace.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let Some(place) = &self.0 else { return BTreeMap::new() };
        let (parent, state) = write(&place.context);
        let state = state.map(|state| (TRACESTATE.to_ascii_uppercase(), state));
        state.into_iter().chain([(VARIABLE.to_owned(), parent)]).collect()
    }
}

/// Something that goes on at a place, and is recorded when it has ended. Without an exporter, and
/// in a trace that is not recorded, it is nothing; so is the default.
#[derive(Debug, Default)]
#[must_use]
pub struct Span {
    place: Trace,
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    kind: SpanKind,
    name: Cow<'static, str>,
    began: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    /// Whether what is said of it is kept.
    pub fn is_recorded(&self) -> bool {
        self.open.is_some()
    }

    /// It began then.
    pub fn began(&mut self, at: SystemTime) {
        if let Some(open) = &mut self.open {
            open.began = at;
        }
    }

    /// Says something of it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.open {
            open.attributes.push(KeyValue::new(name, value));
        }
    }

    /// It has failed, for this reason. The words for it are in the log: they may hold what a CLI
    /// has printed.
    pub fn fail(&mut self, reason: &'static str) {
        self.set("error.type", reason);
        if let Some(open) = &mut self.open {
            open.status = Status::Error { description: reason.into() };
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(open), Some(place)) = (self.open.take(), &self.place.0) else { return };
        let (Some(parent), Some(recorder)) = (place.parent, &place.recorder) else { return };
        let Open { kind, name, began, attributes, status } = *open;
        recorder.queue.push(super::queue::Ended {
            context: place.context.clone(),
            parent: parent.id,
            parent_is_remote: parent.is_remote,
            kind,
            name,
            began,
            attributes,
            status,
        });
    }
}

/// A turn's place in the trace of the call that asked for it.
#[derive(Debug, Default)]
pub struct TurnTrace {
    /// The call's place.
    pub call: Trace,
    /// The turn's own, below it.
    pub turn: Trace,
    /// Whether it has been told that the turn waits no more.
    has_waited: AtomicBool,
}

impl TurnTrace {
    /// The place of a turn that a call asks for at this place.
    pub fn below(call: Trace) -> Self {
        Self { turn: call.below(), call, has_waited: AtomicBool::new(false) }
    }

    /// The span of its wait for its turn, which is over; said once.
    pub fn waited(&self) -> Option<Span> {
        let first = !self.has_waited.swap(true, Ordering::Relaxed);
        first.then(|| self.call.begin("queue"))
    }
}
