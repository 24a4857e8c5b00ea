//! Blocks of content in the place of a prompt.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Policy,
    check::{Check, MAX_DEPTH, is_object},
    media::{self, Slot},
};
use crate::{
    domain::input::{Input, InputBlock},
    proto,
};

const MAX_BLOCKS: usize = 1000;

/// Decodes blocks of content, beside which there is no prompt.
pub(super) fn blocks(
    check: &mut Check,
    prompt: &str,
    content: Vec<proto::InputBlock>,
    policy: &Policy,
) -> Input {
    let limit = policy.max_prompt_bytes;
    if !prompt.is_empty() {
        check.bad("prompt", "must be empty when content is set");
    }
    if content.len() > MAX_BLOCKS {
        check.bad(
            "content",
            format!("must have at most {MAX_BLOCKS} blocks, has {}", content.len()),
        );
    }
    let mut size = 0;
    let blocks: Vec<InputBlock> = content
        .into_iter()
        .take(MAX_BLOCKS)
        .enumerate()
        .filter_map(|(index, block)| {
            let (block, bytes) = input_block(check, &format!("content[{index}]"), block, policy)?;
            size += bytes;
            Some(block)
        })
        .collect();
    if size > limit {
        check.bad("content", format!("must have at most {limit} bytes in all, has {size}"));
    }
    Input::Blocks(blocks)
}

fn input_block(
    check: &mut Check,
    field: &str,
    block: proto::InputBlock,
    policy: &Policy,
) -> Option<(InputBlock, usize)> {
    use proto::input_block::Block;
    let proto::InputBlock { block } = block;
    match block {
        None => {
            check.bad(field, "must be a text, an image, a document or block_json");
            None
        }
        Some(Block::Text(text)) => {
            if text.is_empty() {
                check.bad(&format!("{field}.text"), "must not be empty");
            }
            // How long it may be is said of all blocks together.
            check.text(&format!("{field}.text"), &text, usize::MAX);
            check.deny_all(&format!("{field}.text"), policy.judge_text(&text));
            let size = text.len();
            Some((InputBlock::Text(text), size))
        }
        Some(Block::Image(image)) => {
            let size = image.data.len();
            Some((media::inline(check, field, Slot::Image, image), size))
        }
        Some(Block::Document(document)) => {
            let size = document.data.len();
            Some((media::inline(check, field, Slot::Document, document), size))
        }
        Some(Block::BlockJson(text)) => {
            let size = text.len();
            json_block(check, &format!("{field}.block_json"), text, policy)
                .map(|raw| (InputBlock::Json(raw), size))
        }
    }
}

/// What matters here of a block in JSON. A key that comes twice is refused.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

fn json_block(
    check: &mut Check,
    field: &str,
    text: String,
    policy: &Policy,
) -> Option<Box<RawValue>> {
    // A list of two would pass for a struct of two.
    let raw = RawValue::from_string(text).ok().filter(|raw| is_object(raw.get()));
    let head = raw.as_ref().and_then(|raw| serde_json::from_str::<Head<'_>>(raw.get()).ok());
    let Some(head) = head.filter(|head| !head.kind.is_empty()) else {
        let problem =
            format!("must be a JSON object with one type, nested at most {MAX_DEPTH} deep");
        check.bad(field, problem);
        return None;
    };
    if head.kind == "text" {
        let text = head.text.and_then(|text| serde_json::from_str::<String>(text.get()).ok());
        match text {
            Some(text) => check.deny_all(field, policy.judge_text(&text)),
            None => check.bad(field, "must have a text, since its type is text"),
        }
    }
    if let Some(raw) = &raw {
        media::in_json(check, field, raw.get());
    }
    raw
}
