//! Typed events of what a model says and does: thinking, tool calls and their results.

use session_pool::proto::{
    ContentBlock, Payload, QueryRequest, content_block::Block, turn_event::Kind,
};

use crate::{
    bed::{Bed, Version, each_version, in_pieces, init, json, kinds},
    support::{service::query, turn::Turn},
};

each_version!(thinking_tool_calls_and_results, payloads_hold_what_they_promise);

fn blocks(turn: &Turn) -> Vec<&ContentBlock> {
    let blocks = kinds(turn).flat_map(|kind| match kind {
        Kind::Assistant(message) => message.content.iter(),
        Kind::User(message) => message.content.iter(),
        _ => [].iter(),
    });
    blocks.collect()
}

async fn thinking_tool_calls_and_results(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = "[[think hmm, let me see]] [[bash echo \"a\tb\"; echo c]] \
                  [[tool Read {\"file_path\":\"missing.txt\"}]] [[say done]]";
    let turn = bed.run(in_pieces(query("a", prompt))).await;
    let blocks = blocks(&turn);
    let thought = blocks.iter().find_map(|block| match block.block.as_ref()? {
        Block::Thinking(block) => Some(block),
        _ => None,
    });
    let thought = thought.expect("a thinking block");
    assert_eq!(thought.thinking, "hmm, let me see");
    assert!(!thought.signature.is_empty());

    let calls = blocks.iter().filter_map(|block| match block.block.as_ref()? {
        Block::ToolUse(call) => Some(call),
        _ => None,
    });
    let calls: Vec<_> = calls.collect();
    let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["Bash", "Read"]);
    assert_eq!(json(&calls[0].input_json)["command"], "echo \"a\tb\"; echo c");
    let path = json(&calls[1].input_json)["file_path"].take();
    assert!(path.as_str().is_some_and(|path| path.ends_with("missing.txt")), "{path}");

    let results = blocks.iter().filter_map(|block| match block.block.as_ref()? {
        Block::ToolResult(result) => Some(result),
        _ => None,
    });
    let results: Vec<_> = results.collect();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0].tool_use_id, calls[0].id);
    assert_eq!((results[0].text.as_str(), results[0].is_error), ("a\tb\nc", false));
    assert_eq!(results[1].tool_use_id, calls[1].id);
    assert!(results[1].is_error);
    let structured = kinds(&turn).find_map(|kind| match kind {
        Kind::User(message) => Some(message.tool_use_result_json.as_str()),
        _ => None,
    });
    assert_eq!(json(structured.expect("a result"))["stdout"], "a\tb\nc");

    let result = turn.result();
    assert_eq!((result.result.as_str(), result.num_turns), ("done", 3));
    assert_eq!(result.terminal_reason, "completed");
    assert_eq!(result.stop_reason, "end_turn");
    assert!(result.usage.as_ref().is_some_and(|usage| usage.output_tokens > 0), "{result:?}");
    assert!(result.duration.is_some_and(|time| time.seconds > 0 || time.nanos > 0));
    assert!(json(&result.model_usage_json).is_object());
    assert_eq!(init(&turn).claude_code_version, version.as_str());
    let session = bed.service.session("a").await.expect("a session");
    assert!((session.total_cost_usd - result.total_cost_usd).abs() < 1e-9, "{session:?}");
    bed.stop().await;
}

async fn payloads_hold_what_they_promise(version: Version) {
    let bed = Bed::start(version).await;
    let ask = |payload: Payload| {
        let request = query("a", "[[bash echo hi]]");
        bed.service.run(QueryRequest { payload: payload.into(), ..request })
    };
    let typed = ask(Payload::Typed).await;
    assert!(typed.events.iter().all(|event| event.json.is_empty() && event.kind.is_some()));
    let raw = ask(Payload::Json).await;
    let (first, rest) = raw.events.split_first().expect("events");
    assert!(matches!(first.kind, Some(Kind::Started(_))));
    assert!(rest.iter().all(|event| event.kind.is_none()));
    let types: Vec<String> = rest
        .iter()
        .map(|event| json(&event.json)["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(types.last().map(String::as_str), Some("result"), "{types:?}");
    for wanted in ["system", "assistant", "user"] {
        assert!(types.iter().any(|found| found == wanted), "{types:?}");
    }
    // No control traffic of the service's own, no transcripts, no echo of the prompt.
    let foreign = ["control_response", "transcript_mirror", "keep_alive"];
    assert!(!types.iter().any(|found| foreign.contains(&found.as_str())), "{types:?}");
    bed.stop().await;
}
