//! What a turn asks: a prompt, or blocks of content.

use serde_json::value::RawValue;

use super::{Policy, check::Check};
use crate::{
    cli::request::{Input, InputBlock, MediaKind},
    proto,
};

const MAX_BLOCKS: usize = 1000;

/// Decodes the prompt or the content.
pub(super) fn input(
    check: &mut Check,
    prompt: String,
    content: Vec<proto::InputBlock>,
    policy: &Policy,
) -> Input {
    let limit = policy.max_prompt_bytes;
    if content.is_empty() {
        if prompt.trim().is_empty() {
            check.bad("prompt", "must not be blank");
        }
        check.text("prompt", &prompt, limit);
        check_slash(check, "prompt", &prompt, policy);
        return Input::Text(prompt);
    }
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
            let (block, bytes) = input_block(check, &format!("content[{index}]"), block)?;
            size += bytes;
            Some(block)
        })
        .collect();
    if size > limit {
        check.bad("content", format!("must have at most {limit} bytes in all, has {size}"));
    }
    if let Some(InputBlock::Text(text)) = blocks.first() {
        check_slash(check, "content[0].text", text, policy);
    }
    Input::Blocks(blocks)
}

fn check_slash(check: &mut Check, field: &str, text: &str, policy: &Policy) {
    if !policy.slash_commands && text.trim_start().starts_with('/') {
        check.deny(field, "slash commands are off (policy.slash_commands = false)");
    }
}

fn input_block(
    check: &mut Check,
    field: &str,
    block: proto::InputBlock,
) -> Option<(InputBlock, usize)> {
    use proto::input_block::Block;
    let proto::InputBlock { block } = block;
    let media = |check: &mut Check, kind, name: &str, media: proto::InputMedia| {
        let proto::InputMedia { media_type, data } = media;
        if media_type.is_empty() {
            check.bad(&format!("{field}.{name}.media_type"), "must not be empty");
        }
        if data.is_empty() {
            check.bad(&format!("{field}.{name}.data"), "must not be empty");
        }
        let size = data.len();
        (InputBlock::Media { kind, media_type, data: data.into() }, size)
    };
    match block {
        None => {
            check.bad(field, "must be a text, an image, a document or block_json");
            None
        }
        Some(Block::Text(text)) => {
            if text.is_empty() {
                check.bad(&format!("{field}.text"), "must not be empty");
            }
            let size = text.len();
            Some((InputBlock::Text(text), size))
        }
        Some(Block::Image(image)) => Some(media(check, MediaKind::Image, "image", image)),
        Some(Block::Document(document)) => {
            Some(media(check, MediaKind::Document, "document", document))
        }
        Some(Block::BlockJson(text)) => {
            let size = text.len();
            let raw = RawValue::from_string(text).ok().filter(|raw| raw.get().starts_with('{'));
            if raw.is_none() {
                check.bad(&format!("{field}.block_json"), "must be a JSON object");
            }
            raw.map(|raw| (InputBlock::Json(raw), size))
        }
    }
}
