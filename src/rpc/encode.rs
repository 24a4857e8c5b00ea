//! Events to the contract's messages. What a line's class says is what it becomes, however
//! odd its values are: a stream without its `result` would look whole. Nothing is ever
//! dropped for its shape: what has no field goes into `extra_json`.

mod prompts;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::value::RawValue;

pub use prompts::prompt_kind;

use super::decode::Payload;
use crate::{
    cli::{json::Lenient as _, message as cli},
    domain::notice::{EgressRefused, LimitKind, RateLimited},
    proto::{self, turn_event::Kind},
    turn::event::{Class, Event, ProcessOrigin, Started, Told as _, prompt_of},
};

/// An event of a turn.
pub fn event(sequence: u64, event: &Event, payload: Payload) -> proto::TurnEvent {
    let told = |kind| proto::TurnEvent { sequence, kind, json: String::new() };
    let (class, line) = match event {
        Event::Started(event) => return told(Some(Kind::Started(Box::new(started(event))))),
        Event::Frame(Class::PromptResolved, bytes) => {
            return told(prompts::resolved(bytes).map(Kind::PromptResolved));
        }
        Event::Frame(Class::Steered, bytes) => {
            return told(prompts::steered(bytes).map(Kind::Steered));
        }
        Event::Frame(Class::RateLimited, bytes) => {
            return told(RateLimited::read(bytes).map(rate_limited).map(Kind::RateLimited));
        }
        Event::Frame(Class::EgressRefused, bytes) => {
            return told(EgressRefused::read(bytes).map(egress_refused).map(Kind::EgressRefused));
        }
        Event::Frame(Class::Prompt, bytes) => {
            let (expires, line) = prompt_of(bytes);
            let kind = || prompts::prompt(expires, text(line)).map(Kind::Prompt);
            return frame(sequence, kind, text(line), payload);
        }
        Event::Frame(class, line) => (*class, text(line)),
    };
    frame(sequence, || typed(class, line), line, payload)
}

/// A frame of the CLI, with what it says if that can be told in fields.
fn frame(
    sequence: u64,
    typed: impl FnOnce() -> Option<Kind>,
    line: &str,
    payload: Payload,
) -> proto::TurnEvent {
    let kind =
        (payload != Payload::Json).then(|| typed().unwrap_or_else(|| Kind::Other(other(line))));
    let json = if payload == Payload::Typed { String::new() } else { line.to_owned() };
    proto::TurnEvent { sequence, kind, json }
}

/// Checked to be UTF-8 when it was read.
fn text(line: &[u8]) -> &str {
    std::str::from_utf8(line).unwrap_or_default()
}

fn typed(class: Class, line: &str) -> Option<Kind> {
    match class {
        Class::System => cli::System::parse(line).map(system).map(Kind::System),
        Class::Assistant => cli::Assistant::parse(line).map(assistant).map(Kind::Assistant),
        Class::User => cli::User::parse(line).map(user).map(Kind::User),
        Class::StreamEvent => {
            cli::StreamEvent::parse(line).map(stream_event).map(Kind::StreamEvent)
        }
        Class::Result | Class::InterruptedResult | Class::UnstructuredResult => {
            cli::TurnResult::parse(line).map(|frame| Kind::Result(result(frame, class)))
        }
        // What is more than a line of the CLI, or none, is made above.
        Class::Prompt
        | Class::PromptResolved
        | Class::Steered
        | Class::RateLimited
        | Class::EgressRefused
        | Class::Other => None,
    }
}

/// A limit that requests wait for.
pub fn rate_limited(limit: RateLimited) -> proto::RateLimited {
    let kind = match limit.kind {
        LimitKind::Requests => proto::RateLimitKind::Requests,
        LimitKind::Overloaded => proto::RateLimitKind::Overloaded,
        LimitKind::Quota => proto::RateLimitKind::Quota,
        LimitKind::Tenant => proto::RateLimitKind::Tenant,
    };
    proto::RateLimited { until: Some(limit.until.into()), kind: kind.into(), model: limit.model }
}

fn egress_refused(EgressRefused { host, reason }: EgressRefused) -> proto::EgressRefused {
    proto::EgressRefused { host, reason }
}

/// The prost form of a duration; one that is too long for it becomes the longest.
pub fn duration(value: Duration) -> prost_types::Duration {
    value.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// Milliseconds of the CLI, which may be fractions and should not be negative.
fn milliseconds(value: f64) -> prost_types::Duration {
    duration(Duration::try_from_secs_f64(value / 1000.0).unwrap_or_default())
}

fn started(event: &Started) -> proto::TurnStarted {
    proto::TurnStarted {
        session_id: event.session_id.to_string(),
        turn_id: event.turn_id.to_string(),
        client_id: event.client_id.to_string(),
        cli_session_id: event.cli_session_id.to_string(),
        origin: match event.origin {
            ProcessOrigin::Created => proto::TurnOrigin::Created,
            ProcessOrigin::CreatedFromSpare => proto::TurnOrigin::CreatedFromSpare,
            ProcessOrigin::Reused => proto::TurnOrigin::Reused,
            ProcessOrigin::Resumed => proto::TurnOrigin::Resumed,
        }
        .into(),
        queued_for: Some(duration(event.queued_for)),
        connect_time: Some(duration(event.connect_time)),
        start_time: Some(event.start_time.into()),
        background: event.background,
    }
}

fn json(value: cli::Json<'_>) -> String {
    value.map_or_else(String::new, |raw| raw.get().to_owned())
}

fn texts(values: Vec<cli::Text<'_>>) -> Vec<String> {
    values.into_iter().map(cli::Text::into_string).collect()
}

fn system(frame: cli::System<'_>) -> proto::SystemMessage {
    let mut message = proto::SystemMessage {
        subtype: frame.subtype.into_string(),
        init: None,
        api_retry: None,
        cli_session_id: frame.session_id.into_string(),
        uuid: frame.uuid.into_string(),
        extra_json: String::new(),
    };
    match message.subtype.as_str() {
        "init" => {
            let init = cli::Init::parse(&frame.extra).unwrap_or_default();
            let (init, extra) = system_init(init);
            message.init = Some(init);
            message.extra_json = extra;
        }
        "api_retry" => {
            let retry = cli::ApiRetry::parse(&frame.extra).unwrap_or_default();
            message.api_retry = Some(proto::ApiRetry {
                attempt: retry.attempt,
                max_retries: retry.max_retries,
                retry_delay: Some(milliseconds(retry.retry_delay_ms)),
                error_status: retry.error_status,
                error: retry.error.into_string(),
            });
            message.extra_json = retry.extra;
        }
        _ => message.extra_json = frame.extra,
    }
    message
}

fn system_init(init: cli::Init<'_>) -> (proto::SystemInit, String) {
    let servers = init.mcp_servers.into_iter().map(|server| proto::McpServerStatus {
        name: server.name.into_string(),
        status: server.status.into_string(),
        extra_json: server.extra,
    });
    let message = proto::SystemInit {
        cwd: init.cwd.into_string(),
        model: init.model.into_string(),
        permission_mode: init.permission_mode.into_string(),
        tools: texts(init.tools),
        mcp_servers: servers.collect(),
        slash_commands: texts(init.slash_commands),
        api_key_source: init.api_key_source.into_string(),
        claude_code_version: init.claude_code_version.into_string(),
        output_style: init.output_style.into_string(),
        agents: texts(init.agents),
        skills: texts(init.skills),
    };
    (message, init.extra)
}

fn usage(usage: cli::Usage<'_>) -> proto::Usage {
    proto::Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_creation_input_tokens: usage.cache_creation_input_tokens,
        cache_read_input_tokens: usage.cache_read_input_tokens,
        extra_json: usage.extra,
    }
}

fn assistant(frame: cli::Assistant<'_>) -> proto::AssistantMessage {
    let message = frame.message;
    proto::AssistantMessage {
        message_id: message.id.into_string(),
        model: message.model.into_string(),
        content: content(message.content).0,
        stop_reason: message.stop_reason.into_string(),
        usage: Some(usage(message.usage)),
        parent_tool_use_id: frame.parent_tool_use_id.into_string(),
        cli_session_id: frame.session_id.into_string(),
        uuid: frame.uuid.into_string(),
        request_id: frame.request_id.into_string(),
        error: frame.error.into_string(),
        message_extra_json: message.extra,
        extra_json: frame.extra,
    }
}

fn user(frame: cli::User<'_>) -> proto::UserMessage {
    let (content, plain_text) = content(frame.message.content);
    proto::UserMessage {
        content,
        parent_tool_use_id: frame.parent_tool_use_id.into_string(),
        tool_use_result_json: json(frame.tool_use_result),
        is_replay: frame.is_replay,
        is_synthetic: frame.is_synthetic,
        cli_session_id: frame.session_id.into_string(),
        uuid: frame.uuid.into_string(),
        plain_text,
        message_extra_json: frame.message.extra,
        extra_json: frame.extra,
    }
}

/// The blocks, and whether they stand for plain text.
fn content(content: cli::Content<'_>) -> (Vec<proto::ContentBlock>, bool) {
    match content {
        cli::Content::Plain(text) => {
            let text = proto::TextBlock { text: text.into_string(), extra_json: String::new() };
            let block = Some(proto::content_block::Block::Text(text));
            (vec![proto::ContentBlock { block }], true)
        }
        cli::Content::Blocks(blocks) => (blocks.into_iter().map(block).collect(), false),
    }
}

fn block(raw: &RawValue) -> proto::ContentBlock {
    use proto::content_block::Block;
    let block = match cli::Block::parse(raw) {
        cli::Block::Text(block) => Block::Text(proto::TextBlock {
            text: block.text.into_string(),
            extra_json: block.extra,
        }),
        cli::Block::Thinking(block) => Block::Thinking(proto::ThinkingBlock {
            thinking: block.thinking.into_string(),
            signature: block.signature.into_string(),
            extra_json: block.extra,
        }),
        cli::Block::ToolUse(block) => Block::ToolUse(proto::ToolUseBlock {
            id: block.id.into_string(),
            name: block.name.into_string(),
            input_json: json(block.input),
            extra_json: block.extra,
        }),
        cli::Block::ToolResult(block) => Block::ToolResult(tool_result(block)),
        cli::Block::Other(kind, text) => Block::Other(proto::OtherBlock {
            r#type: kind.into_string(),
            block_json: text.to_owned(),
        }),
    };
    proto::ContentBlock { block: Some(block) }
}

fn tool_result(block: cli::ToolResultBlock<'_>) -> proto::ToolResultBlock {
    let content = block.content.map_or("", RawValue::get);
    let text = block.content.filter(|_| content.starts_with('"'));
    let text = text.and_then(|raw| cli::Text::read(raw).value()).map(cli::Text::into_string);
    proto::ToolResultBlock {
        tool_use_id: block.tool_use_id.into_string(),
        content_json: if text.is_some() { String::new() } else { content.to_owned() },
        text: text.unwrap_or_default(),
        is_error: block.is_error,
        extra_json: block.extra,
    }
}

fn stream_event(frame: cli::StreamEvent<'_>) -> proto::StreamEvent {
    use proto::stream_event::Delta;
    let raw = frame.event.map_or("", RawValue::get);
    let event = cli::ApiEvent::parse(raw).unwrap_or_default();
    let mut said_all = event.extra.is_empty() && event.kind.0 == "content_block_delta";
    let delta = event.delta.and_then(|delta| {
        said_all &= delta.extra.is_empty();
        match (&*delta.kind.0, delta.text, delta.thinking, delta.partial_json) {
            ("text_delta", Some(text), None, None) => Some(Delta::Text(text.into_string())),
            ("thinking_delta", None, Some(text), None) => Some(Delta::Thinking(text.into_string())),
            ("input_json_delta", None, None, Some(text)) => {
                Some(Delta::PartialJson(text.into_string()))
            }
            _ => None,
        }
    });
    said_all &= delta.is_some();
    proto::StreamEvent {
        event_type: event.kind.into_string(),
        index: event.index,
        delta,
        event_json: if said_all { String::new() } else { raw.to_owned() },
        parent_tool_use_id: frame.parent_tool_use_id.into_string(),
        cli_session_id: frame.session_id.into_string(),
        uuid: frame.uuid.into_string(),
        extra_json: frame.extra,
    }
}

fn result(frame: cli::TurnResult<'_>, class: Class) -> proto::TurnResult {
    let denials = frame.permission_denials.into_iter().map(|denial| proto::PermissionDenial {
        tool_name: denial.tool_name.into_string(),
        tool_use_id: denial.tool_use_id.into_string(),
        tool_input_json: json(denial.tool_input),
        extra_json: denial.extra,
    });
    proto::TurnResult {
        is_error: cli::has_failed(frame.is_error, &frame.subtype),
        subtype: frame.subtype.into_string(),
        interrupted: class == Class::InterruptedResult,
        structured_output_missing: class == Class::UnstructuredResult,
        result: frame.result.into_string(),
        structured_output_json: json(frame.structured_output),
        num_turns: frame.num_turns,
        duration: Some(milliseconds(frame.duration_ms)),
        api_duration: Some(milliseconds(frame.duration_api_ms)),
        total_cost_usd: cli::total_cost(frame.total_cost_usd, frame.model_usage)
            .unwrap_or_default(),
        usage: Some(usage(frame.usage)),
        model_usage_json: json(frame.model_usage),
        permission_denials: denials.collect(),
        stop_reason: frame.stop_reason.into_string(),
        terminal_reason: frame.terminal_reason.into_string(),
        errors: texts(frame.errors),
        api_error_status: frame.api_error_status,
        cli_session_id: frame.session_id.into_string(),
        uuid: frame.uuid.into_string(),
        extra_json: frame.extra,
    }
}

fn other(line: &str) -> proto::OtherFrame {
    let kind = cli::Head::parse(line).map(|head| head.kind.into_string()).unwrap_or_default();
    proto::OtherFrame { r#type: kind, frame_json: line.to_owned() }
}
