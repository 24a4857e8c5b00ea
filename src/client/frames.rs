//! A turn's events as JSON for programs: the CLI's own frames, one a line.

use serde::Deserialize;
use serde_json::json;

use super::{
    exit::Exit,
    values::{enum_name, seconds},
};
use crate::proto::{TurnEvent, TurnStarted, turn_event::Kind};

/// The line for an event, if there is one.
pub fn line(event: &TurnEvent) -> Option<String> {
    match &event.kind {
        // The service's own event, so no frame stands for it.
        Some(Kind::Started(started)) => Some(started_line(started)),
        _ if event.json.is_empty() => None,
        _ => Some(event.json.trim_end().into()),
    }
}

fn started_line(started: &TurnStarted) -> String {
    json!({
        "type": "session_pool_started",
        "session_id": started.session_id,
        "turn_id": started.turn_id,
        "client_id": started.client_id,
        "cli_session_id": started.cli_session_id,
        "origin": enum_name(started.origin().as_str_name(), "TURN_ORIGIN_"),
        "queued_for_seconds": seconds(started.queued_for),
        "connect_time_seconds": seconds(started.connect_time),
        "start_time": started.start_time.map(|time| time.to_string()),
        "background": started.background,
    })
    .to_string()
}

/// How a turn ended, by its last event, whose frame is read if it has no fields.
pub fn exit_of(last: &TurnEvent) -> Exit {
    let (interrupted, is_error) = match &last.kind {
        Some(Kind::Result(result)) => (result.interrupted, result.is_error),
        _ => match serde_json::from_str::<ResultFrame>(&last.json) {
            Ok(frame) => (frame.terminal_reason.starts_with("aborted"), frame.is_error),
            Err(_) => return Exit::Other,
        },
    };
    match (interrupted, is_error) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::TurnFailed,
        (false, false) => Exit::Fine,
    }
}

/// What has to be known of a `result` frame.
#[derive(Deserialize)]
struct ResultFrame {
    is_error: bool,
    #[serde(default)]
    terminal_reason: String,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::proto::{TurnOrigin, TurnResult};

    fn framed(json: &str) -> TurnEvent {
        TurnEvent { json: json.into(), ..TurnEvent::default() }
    }

    #[test]
    fn frames_pass_byte_for_byte() {
        let frame = r#"{"type":"assistant", "n":1.000000000000000000001}"#;
        assert_eq!(line(&framed(frame)).as_deref(), Some(frame));
        assert_eq!(line(&framed("")), None);
    }

    #[test]
    fn started_has_a_line_of_its_own() {
        let mut started = TurnStarted { session_id: "s\"1".into(), ..TurnStarted::default() };
        started.set_origin(TurnOrigin::Reused);
        let kind = Some(Kind::Started(Box::new(started)));
        let line = line(&TurnEvent { kind, ..TurnEvent::default() }).unwrap();
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["type"], "session_pool_started");
        assert_eq!(object["session_id"], "s\"1");
        assert_eq!(object["origin"], "REUSED");
        assert_eq!(object["start_time"], Value::Null);
    }

    #[test]
    fn the_last_event_says_how_the_turn_ended() {
        for (json, exit) in [
            (r#"{"type":"result","is_error":false}"#, Exit::Fine),
            (
                r#"{"type":"result","is_error":true,"terminal_reason":"api_error"}"#,
                Exit::TurnFailed,
            ),
            (r#"{"is_error":true,"terminal_reason":"aborted_tools"}"#, Exit::Interrupted),
            (r#"{"type":"assistant"}"#, Exit::Other),
        ] {
            assert_eq!(exit_of(&framed(json)), exit, "{json}");
        }
        let typed = TurnResult { is_error: true, interrupted: true, ..TurnResult::default() };
        let event = TurnEvent { kind: Some(Kind::Result(typed)), ..TurnEvent::default() };
        assert_eq!(exit_of(&event), Exit::Interrupted);
    }
}
