//! Log lines for machines: one flat JSON object each. What the spans of an event say (ids
//! of tenant, session, turn and process) stands beside its own fields, so that one filter
//! on `turn_id` finds every line of a turn.

use std::fmt;

use serde::Serializer as _;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Writes every event to `writer`.
pub fn layer<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Flat)
        .with_writer(writer)
}

struct Flat;

impl<S, N> FormatEvent<S, N> for Flat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut line = Line::default();
        line.set("timestamp", time.into());
        line.set("level", metadata.level().as_str().into());
        event.record(&mut line);
        line.set("target", metadata.target().into());
        let spans = context.event_scope().into_iter().flatten();
        let mut names = Vec::new();
        // From the innermost out: what is nearer to the event knows better.
        for span in spans {
            names.insert(0, Value::from(span.name()));
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            let fields = fields.and_then(|it| serde_json::from_str::<Map<String, Value>>(it).ok());
            for (name, value) in fields.into_iter().flatten() {
                line.set(&name, value);
            }
        }
        if !names.is_empty() {
            line.set("spans", names.into());
        }
        line.write(&mut writer)
    }
}

/// A line's members, in their order.
#[derive(Default)]
struct Line(Vec<(String, Value)>);

impl Line {
    /// Adds a member, unless it is there.
    fn set(&mut self, name: &str, value: Value) {
        if self.0.iter().all(|(known, _)| known != name) {
            self.0.push((name.to_owned(), value));
        }
    }

    fn write(self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut text = Vec::new();
        let mut json = serde_json::Serializer::new(&mut text);
        json.collect_map(self.0).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing::{error_span, info};
    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn f3_a_line_is_flat_has_the_ids_of_its_spans_and_numbers_as_numbers() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(layer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let query = error_span!("query", tenant = "a", caller = "ci");
            let turn = error_span!(parent: &query, "turn", turn_id = "t", client_id = tracing::field::Empty);
            turn.record("client_id", "c1");
            turn.in_scope(|| {
                info!(tenant = "b", turn_ms = 12_u64, cost_usd = 0.5, ok = true, "an_event");
            });
            info!(error = %"odd \"text\"\nin lines", "outside");
        });
        let text = String::from_utf8(sink.0.lock().expect("no panic").clone()).expect("UTF-8");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        let mut first = lines[0].clone();
        assert!(first["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
        first.as_object_mut().expect("an object").remove("timestamp");
        let wanted = serde_json::json!({
            "level": "INFO", "message": "an_event", "target": module_path!(),
            "tenant": "b", "caller": "ci", "turn_id": "t", "client_id": "c1",
            "turn_ms": 12, "cost_usd": 0.5, "ok": true, "spans": ["query", "turn"],
        });
        assert_eq!(first, wanted);
        assert_eq!(lines[1]["error"], "odd \"text\"\nin lines");
        assert!(lines[1].get("spans").is_none());
    }
}
