//! What events carry: typed fields, the CLI's own bytes, and whatever is not known.

use session_pool::proto::{
    Payload, QueryRequest, SessionOptions, TurnEvent, content_block::Block, turn_event::Kind,
};

use crate::support::{
    service::{Service, query, query_with, script},
    turn::Turn,
};

/// Odd spacing, an odd order of keys, numbers that a double cannot hold.
const ODD: &str = r#"{ "message":{"role":"assistant","content":[ {"type":"tool_use","id":"t1","name":"Sum","input":{ "big":12345678901234567890123,"money":1.10,"far":1E+400 }},{"depth":1.50,"type":"hologram"},{"type":"text","text":"\u00e9\/"} ],"n":0.10}, "type" :"assistant","brand_new":{"a":[1.0,2]} }"#;

fn with(payload: Payload, lines: &[&str]) -> QueryRequest {
    QueryRequest { payload: payload.into(), ..query("a", &script(lines)) }
}

/// Drops ids and times that differ from turn to turn.
fn frames(turn: &Turn) -> &[TurnEvent] {
    assert!(matches!(turn.end, Some(Ok(()))), "{:?}", turn.end);
    assert!(matches!(turn.events[0].kind, Some(Kind::Started(_))));
    assert_eq!(turn.events[0].json, "");
    &turn.events[1..]
}

#[tokio::test]
async fn json_is_byte_for_byte_what_the_cli_printed() {
    let service = Service::start(|_| {}).await;
    let raw = format!("raw {ODD}");
    let json = service.run(with(Payload::Json, &[&raw])).await;
    assert!(frames(&json).iter().all(|event| event.kind.is_none() && !event.json.is_empty()));
    assert!(frames(&json).iter().any(|event| event.json == ODD));
    let last = &json.events.last().expect("a result").json;
    assert!(last.contains(r#""type":"result""#), "{last}");

    let both = service.run(with(Payload::Both, &[&raw])).await;
    assert!(frames(&both).iter().all(|event| event.kind.is_some() && !event.json.is_empty()));
    assert!(frames(&both).iter().any(|event| event.json == ODD));

    for payload in [Payload::Typed, Payload::Unspecified] {
        let typed = service.run(with(payload, &[&raw])).await;
        assert!(frames(&typed).iter().all(|event| event.kind.is_some() && event.json.is_empty()));
    }
    service.stop().await;
}

#[tokio::test]
async fn typed_fields_keep_every_digit_and_what_they_do_not_know() {
    let service = Service::start(|_| {}).await;
    let turn = service.run(with(Payload::Typed, &[&format!("raw {ODD}")])).await;
    let message = turn
        .events
        .iter()
        .find_map(|event| match event.kind.as_ref()? {
            Kind::Assistant(message) => Some(message),
            _ => None,
        })
        .expect("an assistant message");
    let blocks: Vec<&Block> =
        message.content.iter().filter_map(|block| block.block.as_ref()).collect();
    let [Block::ToolUse(tool), Block::Other(other), Block::Text(text)] = blocks[..] else {
        panic!("other blocks: {blocks:?}");
    };
    assert_eq!((tool.id.as_str(), tool.name.as_str()), ("t1", "Sum"));
    assert_eq!(tool.input_json, r#"{ "big":12345678901234567890123,"money":1.10,"far":1E+400 }"#);
    assert_eq!(other.r#type, "hologram");
    assert_eq!(other.block_json, r#"{"depth":1.50,"type":"hologram"}"#);
    assert_eq!(text.text, "é/");
    assert!(message.extra_json.contains(r#"{"a":[1.0,2]}"#), "{}", message.extra_json);
    assert!(message.message_extra_json.contains("0.10"), "{}", message.message_extra_json);
    service.stop().await;
}

#[tokio::test]
async fn unknown_frames_pass_through() {
    let service = Service::start(|_| {}).await;
    let odd = r#"raw {"type":7,"what":1.0}"#;
    let turn = service.run(with(Payload::Both, &["unknown-frame weather", odd, "say end"])).await;
    let others: Vec<_> = turn
        .events
        .iter()
        .filter_map(|event| match event.kind.as_ref()? {
            Kind::Other(other) => Some((other.r#type.as_str(), other, &event.json)),
            _ => None,
        })
        .collect();
    let weather = others.iter().find(|(kind, ..)| *kind == "weather").expect("passed on");
    assert_eq!(weather.1.frame_json, *weather.2);
    let odd = others.iter().find(|(.., json)| json.contains("what")).expect("passed on");
    assert_eq!(odd.1.frame_json, r#"{"type":7,"what":1.0}"#);
    assert_eq!(turn.result().result, "end");
    service.stop().await;
}

#[tokio::test]
async fn frames_of_a_known_type_and_an_unknown_shape_pass_through() {
    let service = Service::start(|_| {}).await;
    let lines = [
        r#"{"type":"assistant","message":"just text"}"#,
        r#"{"type":"assistant"}"#,
        r#"{"type":"user","message":{"content":[1,2,3]}}"#,
        r#"{"type":"system","subtype":["odd"]}"#,
        r#"{"type":"stream_event"}"#,
        r#"{"type":"system","subtype":"init"}"#,
    ];
    let raw: Vec<String> = lines.iter().map(|line| format!("raw {line}")).collect();
    let raw: Vec<&str> = raw.iter().map(String::as_str).chain(["say end"]).collect();
    let mut request = with(Payload::Both, &raw);
    let options = request.options.get_or_insert_default();
    options.include_partial_messages = Some(true);
    let turn = service.run(request).await;
    for line in lines {
        assert!(turn.events.iter().any(|event| event.json == line), "lost: {line}");
    }
    assert_eq!(turn.result().result, "end");
    service.stop().await;
}

#[tokio::test]
async fn an_ordinary_turn_has_its_events_in_order() {
    let service = Service::start(|_| {}).await;
    let lines = [
        "thinking let me see",
        r#"tool t1 Read {"path":"a"}"#,
        "tool-result t1 the file",
        "retry 2",
        "say the answer",
    ];
    let turn = service.query("a", &script(&lines)).await;
    let kinds: Vec<&str> = turn
        .events
        .iter()
        .filter_map(|event| {
            Some(match event.kind.as_ref()? {
                Kind::Started(_) => "started",
                Kind::System(system) if system.init.is_some() => "init",
                Kind::System(system) if system.api_retry.is_some() => "retry",
                Kind::Assistant(message) => match message.content[0].block.as_ref()? {
                    Block::Thinking(_) => "thinking",
                    Block::ToolUse(_) => "tool",
                    Block::Text(_) => "text",
                    _ => "?",
                },
                Kind::User(_) => "user",
                Kind::Result(_) => "result",
                _ => return None,
            })
        })
        .collect();
    let wanted =
        ["started", "init", "thinking", "tool", "user", "retry", "retry", "text", "result"];
    assert_eq!(kinds, wanted);
    let result = turn.result();
    assert_eq!((result.subtype.as_str(), result.result.as_str()), ("success", "the answer"));
    assert!(!result.is_error && !result.interrupted);
    assert!(result.usage.is_some() && result.total_cost_usd > 0.0 && result.num_turns > 0);
    service.stop().await;
}

#[tokio::test]
async fn a_failed_turn_ends_well_with_is_error() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["error API Error: 500"])).await;
    let result = turn.result();
    assert!(result.is_error && !result.interrupted);
    assert_eq!((result.subtype.as_str(), result.api_error_status), ("success", 500));
    service.stop().await;
}

#[tokio::test]
async fn partial_messages_come_when_asked_for() {
    let service = Service::start(|_| {}).await;
    let options =
        SessionOptions { include_partial_messages: Some(true), ..SessionOptions::default() };
    let prompt = script(&["partial 30 8"]);
    let turn = service.run(query_with("a", &prompt, options)).await;
    let pieces: Vec<String> = turn
        .events
        .iter()
        .filter_map(|event| match event.kind.as_ref()? {
            kind @ Kind::StreamEvent(_) => crate::support::turn::text_of(kind),
            _ => None,
        })
        .collect();
    assert_eq!(pieces.len(), 30);
    assert_eq!(pieces.concat(), turn.text());
    let plain = service.query("b", &prompt).await;
    assert!(!plain.events.iter().any(|e| matches!(e.kind, Some(Kind::StreamEvent(_)))));
    assert_eq!(plain.text(), turn.text());
    service.stop().await;
}
