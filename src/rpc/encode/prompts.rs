//! What the CLI asks, and how that was resolved, to the contract's messages.

use std::time::SystemTime;

use serde_json::value::RawValue;

use super::json;
use crate::{
    cli::{
        frame::RequestKind,
        hooks::{self, Called},
        message as cli,
        questions::{self, Question},
    },
    proto,
    turn::event::{PromptResolved, Resolution, Resolver, SteerState, Steered, Told as _},
};

/// What a prompt of this subtype asks, which may be about a tool.
pub fn prompt_kind(subtype: &str, tool_name: &str) -> proto::PromptKind {
    match RequestKind::of(subtype, tool_name) {
        RequestKind::ToolPermission => proto::PromptKind::ToolPermission,
        RequestKind::Question => proto::PromptKind::Question,
        RequestKind::Hook => proto::PromptKind::Hook,
        RequestKind::Elicitation => proto::PromptKind::Elicitation,
        RequestKind::Dialog => proto::PromptKind::Dialog,
        RequestKind::Mcp | RequestKind::Unknown => proto::PromptKind::Unspecified,
    }
}

/// What became of a message for the turn that ran; `None` if the bytes are none.
pub fn steered(bytes: &[u8]) -> Option<proto::Steered> {
    let Steered { message_uuid, state } = Steered::read(bytes)?;
    let state = match state {
        SteerState::Taken => proto::SteeredState::Taken,
        SteerState::BecameTurn => proto::SteeredState::BecameTurn,
    };
    Some(proto::Steered { message_uuid, state: state.into() })
}

/// A prompt, which is refused at this time; `None` if the line is no request.
pub fn prompt(expires: Option<SystemTime>, line: &str) -> Option<proto::PromptEvent> {
    let frame = cli::ControlRequest::parse(line)?;
    let raw = frame.request.map_or("", RawValue::get);
    let request = cli::PromptRequest::parse(raw).unwrap_or_default();
    let kind = prompt_kind(&request.subtype.0, &request.tool_name.0);
    let questions = match kind {
        proto::PromptKind::Question => request.input.map_or("", RawValue::get),
        _ => "",
    };
    let hook = (kind == proto::PromptKind::Hook).then(|| hook(&request));
    let elicitation = (kind == proto::PromptKind::Elicitation).then(|| proto::Elicitation {
        server: request.mcp_server_name.into_string(),
        message: request.message.into_string(),
        schema_json: json(request.requested_schema),
    });
    let (tool_name, input_json) = match request.input.filter(|_| hook.is_some()) {
        Some(told) => hooks::tool(told),
        None => (request.tool_name.into_string(), request.input),
    };
    Some(proto::PromptEvent {
        expire_time: expires.map(Into::into),
        prompt_id: frame.request_id.map(cli::name_of).unwrap_or_default(),
        kind: kind.into(),
        questions: questions::questions(questions).into_iter().map(question).collect(),
        elicitation,
        hook,
        tool_name,
        input_json: json(input_json),
        suggestions_json: json(request.suggestions),
        tool_use_id: request.tool_use_id.into_string(),
        description: request.description.into_string(),
        decision_reason: request.decision_reason.into_string(),
        extra_json: frame.extra,
        request_json: raw.to_owned(),
    })
}

fn hook(request: &cli::PromptRequest<'_>) -> proto::HookCall {
    let told = request.input;
    let called = Called::by(&request.callback.0);
    proto::HookCall {
        event: called.map_or("", |called| called.event.name()).to_owned(),
        matcher: called.map_or("", |called| called.matcher).to_owned(),
        tool_name: told.map(|told| hooks::tool(told).0).unwrap_or_default(),
        input_json: json(told),
    }
}

fn question(question: Question<'_>) -> proto::Question {
    let (text, multi_select) = (question.text(), question.multi_select);
    let header = question.header.into_string();
    let options = question.options.into_iter().map(|choice| proto::QuestionOption {
        label: choice.label.into_string(),
        description: choice.description.into_string(),
    });
    proto::Question { question: text, header, multi_select, options: options.collect() }
}

/// How a prompt was resolved; `None` if the bytes do not say it.
pub fn resolved(bytes: &[u8]) -> Option<proto::PromptResolved> {
    let PromptResolved { prompt_id, by, resolution, message } = PromptResolved::read(bytes)?;
    let by = match by {
        Resolver::Caller => proto::PromptResolver::Caller,
        Resolver::Timeout => proto::PromptResolver::Timeout,
        Resolver::TurnEnded => proto::PromptResolver::TurnEnded,
        Resolver::Cli => proto::PromptResolver::Cli,
    };
    let decision = match resolution {
        None => proto::PromptDecision::Unspecified,
        Some(Resolution::Allowed) => proto::PromptDecision::Allowed,
        Some(Resolution::Denied) => proto::PromptDecision::Denied,
        Some(Resolution::Answered) => proto::PromptDecision::Answered,
    };
    Some(proto::PromptResolved { prompt_id, by: by.into(), decision: decision.into(), message })
}
