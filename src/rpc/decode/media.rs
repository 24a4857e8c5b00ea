//! Which media a prompt may hold: those that the Messages API takes, whether they come as
//! bytes or inside a block in JSON. Owns the list of types and how the bytes of each begin;
//! knows nothing of prompts. A medium that the API refuses would stay in the conversation
//! and make every later turn fail, so it is refused before anything is sent.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check::{Check, shown};
use crate::{
    domain::input::{InputBlock, MediaKind},
    proto,
};

const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const PDF: &str = "application/pdf";
const PLAIN: &str = "text/plain";
/// How deep blocks may be within blocks: a tool's result that holds a document of images is 2.
const MAX_HELD: usize = 3;
/// How far into a PDF its header may stand.
const PDF_HEADER_WITHIN: usize = 1024;

/// What a medium was sent as.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    Image,
    Document,
}

impl Slot {
    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Document => "document",
        }
    }
}

/// Decodes bytes with a type. A plain text becomes a text source, which is the only way in
/// which the API takes one.
pub(super) fn inline(
    check: &mut Check,
    field: &str,
    slot: Slot,
    media: proto::InputMedia,
) -> InputBlock {
    let proto::InputMedia { media_type, data } = media;
    let field = format!("{field}.{}", slot.name());
    let media_type = media_type.to_ascii_lowercase();
    let known = match slot {
        Slot::Image => known_type(check, &field, &media_type, &IMAGES),
        Slot::Document => known_type(check, &field, &media_type, &[PDF, PLAIN]),
    };
    let at = format!("{field}.data");
    if data.is_empty() {
        check.bad(&at, "must not be empty");
    } else if media_type == PLAIN && known {
        let text = String::from_utf8(data).unwrap_or_else(|_| {
            check.bad(&at, "must be UTF-8, since its type is text/plain");
            String::new()
        });
        plain_text(check, &at, &text);
        return InputBlock::PlainDocument(text);
    } else if known {
        bytes_of(check, &at, &media_type, &data);
    }
    let kind = match slot {
        Slot::Image => MediaKind::Image,
        Slot::Document => MediaKind::Document,
    };
    InputBlock::Media { kind, media_type, data: Bytes::from(data) }
}

fn known_type(check: &mut Check, field: &str, media_type: &str, allowed: &[&str]) -> bool {
    let known = allowed.contains(&media_type);
    if !known {
        check.one_of(&format!("{field}.media_type"), media_type, allowed);
    }
    known
}

fn plain_text(check: &mut Check, field: &str, text: &str) {
    check.text(field, text, usize::MAX);
    if !text.is_empty() && text.trim().is_empty() {
        check.bad(field, "must not be blank");
    }
}

/// The bytes have to be what their type says.
fn bytes_of(check: &mut Check, field: &str, media_type: &str, data: &[u8]) {
    match recognised(data) {
        Some(found) if found == media_type && IMAGES.contains(&found) => image(check, field, data),
        Some(found) if found == media_type => {}
        Some(found) => check.bad(field, format!("must be {media_type}, is {found}")),
        None => check.bad(field, format!("must be {media_type}: its first bytes are not of one")),
    }
}

/// An image that is cut off is refused by the API at every later turn. One that is too large
/// the CLI shrinks.
fn image(check: &mut Check, field: &str, data: &[u8]) {
    if imagesize::blob_size(data).is_err() {
        check.bad(field, "must be a whole image: its header ends before its width and height");
    }
}

fn recognised(data: &[u8]) -> Option<&'static str> {
    let webp = || data.starts_with(b"RIFF") && data.get(8..12) == Some(b"WEBP".as_slice());
    let head = &data[..data.len().min(PDF_HEADER_WITHIN)];
    if data.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if data.starts_with(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if data.starts_with(b"GIF87a") || data.starts_with(b"GIF89a") {
        Some("image/gif")
    } else if webp() {
        Some("image/webp")
    } else if memmem::find(head, b"%PDF-").is_some() {
        Some(PDF)
    } else {
        None
    }
}

/// What matters here of a block in JSON. A key that comes twice is refused.
#[derive(Deserialize)]
struct Holder<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    media_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// Checks the media of a block in JSON, also those in the blocks that it holds.
pub(super) fn in_json(check: &mut Check, field: &str, block: &str) {
    block_of(check, field, block, MAX_HELD);
}

/// Each level of blocks within blocks is read once more, so there are few of them.
fn block_of(check: &mut Check, field: &str, block: &str, levels: usize) {
    // What has no shape to be checked is refused by who reads the block itself.
    let Ok(holder) = serde_json::from_str::<Holder<'_>>(block) else { return };
    let slot = match &*holder.kind {
        "image" => Slot::Image,
        "document" => Slot::Document,
        "tool_result" => return held(check, &format!("{field}.content"), holder.content, levels),
        _ => return,
    };
    let field = format!("{field}.source");
    let source = holder.source.filter(|raw| raw.get().starts_with('{'));
    let source = source.and_then(|raw| serde_json::from_str::<Source<'_>>(raw.get()).ok());
    match source {
        Some(source) => json_source(check, &field, slot, source, levels),
        None => check.bad(
            &field,
            format!("must be an object with one type: an {} has a source", slot.name()),
        ),
    }
}

/// Blocks within a block: their media count like its own.
fn held(check: &mut Check, field: &str, content: Option<&RawValue>, levels: usize) {
    let blocks =
        content.map_or(Ok(Vec::new()), |raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()));
    // A plain string is no list and holds no media.
    for (index, block) in blocks.unwrap_or_default().into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match levels.checked_sub(1) {
            Some(levels) => block_of(check, &field, block.get(), levels),
            None => {
                let problem =
                    format!("must not hold blocks within blocks more than {MAX_HELD} deep");
                return check.bad(&field, problem);
            }
        }
    }
}

fn json_source(check: &mut Check, field: &str, slot: Slot, source: Source<'_>, levels: usize) {
    let media_type = source.media_type.unwrap_or_default();
    let data = source.data.unwrap_or_default();
    match (slot, &*source.kind) {
        (_, "url" | "file") => {}
        (Slot::Document, "content") => {
            held(check, &format!("{field}.content"), source.content, levels)
        }
        (Slot::Document, "text") => {
            known_type(check, field, &media_type, &[PLAIN]);
            if data.is_empty() {
                check.bad(&format!("{field}.data"), "must not be empty");
            }
            plain_text(check, &format!("{field}.data"), &data);
        }
        (_, "base64") => {
            let allowed: &[&str] = if let Slot::Image = slot { &IMAGES } else { &[PDF] };
            let known = known_type(check, field, &media_type, allowed);
            base64_data(check, &format!("{field}.data"), known.then_some(&*media_type), &data);
        }
        (Slot::Image, kind) => {
            check.one_of(&format!("{field}.type"), kind, &["base64", "url", "file"]);
        }
        (Slot::Document, kind) => {
            let allowed = ["base64", "text", "content", "url", "file"];
            check.one_of(&format!("{field}.type"), kind, &allowed);
        }
    }
}

fn base64_data(check: &mut Check, field: &str, media_type: Option<&str>, data: &str) {
    match STANDARD.decode(data) {
        Ok(bytes) if bytes.is_empty() => check.bad(field, "must not be empty"),
        Ok(bytes) => {
            if let Some(media_type) = media_type {
                bytes_of(check, field, media_type, &bytes);
            }
        }
        // The text may begin with "data:", which says what is wrong; it is a caller's own.
        Err(error) => {
            let problem = format!(
                "must be base64 (RFC 4648, section 4, padded), is {}: {error}",
                shown(data)
            );
            check.bad(field, problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0\0\0\0";
    const JPEG: &[u8] =
        b"\xff\xd8\xff\xc0\0\x11\x08\0\x01\0\x01\x03\x01\x22\0\x02\x11\x01\x03\x11\x01";
    const WEBP: &[u8] = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const PDF_FILE: &[u8] = b"%PDF-1.7\nrest";

    fn inlined(slot: Slot, media_type: &str, data: &[u8]) -> Result<InputBlock, (String, String)> {
        let mut check = Check::default();
        let media = proto::InputMedia { media_type: media_type.into(), data: data.to_vec() };
        let block = inline(&mut check, "c", slot, media);
        check.refused().map_or(Ok(block), Err)
    }

    fn refused_in_json(block: &serde_json::Value) -> Option<String> {
        let mut check = Check::default();
        in_json(&mut check, "b", &block.to_string());
        check.refused().map(|(fields, _)| fields)
    }

    #[test]
    fn e6_media_are_of_a_type_that_the_api_takes_and_are_what_they_say() {
        for (slot, media_type, data) in [
            (Slot::Image, "image/png", PNG),
            (Slot::Image, "IMAGE/PNG", PNG),
            (Slot::Image, "image/jpeg", JPEG),
            (Slot::Image, "image/gif", GIF),
            (Slot::Image, "image/webp", WEBP),
            (Slot::Document, "application/pdf", PDF_FILE),
            (Slot::Document, "application/pdf", b"\xef\xbb\xbf%PDF-1.4"),
        ] {
            let block = inlined(slot, media_type, data).expect(media_type);
            let InputBlock::Media { media_type: sent, .. } = block else { panic!("{block:?}") };
            assert_eq!(sent, media_type.to_ascii_lowercase());
        }
        for (slot, media_type, data, field, told) in [
            (Slot::Document, "application/msword", PDF_FILE, "c.document.media_type", "text/plain"),
            (Slot::Document, "text/markdown", b"# a", "c.document.media_type", "text/plain"),
            (Slot::Document, "image/png", PNG, "c.document.media_type", "image/png"),
            (Slot::Image, "image/svg+xml", b"<svg/>", "c.image.media_type", "image/webp"),
            (Slot::Image, "image/jpg", b"\xff\xd8\xff\xe0", "c.image.media_type", "image/jpeg"),
            (Slot::Image, "image/png", b"\xff\xd8\xff\xe0", "c.image.data", "is image/jpeg"),
            (Slot::Image, "image/png", PDF_FILE, "c.image.data", "is application/pdf"),
            (Slot::Image, "image/webp", b"RIFF", "c.image.data", "image/webp"),
            (Slot::Document, "application/pdf", b"hello", "c.document.data", "application/pdf"),
            (Slot::Document, "text/plain", b"a\xff", "c.document.data", "UTF-8"),
            (Slot::Document, "text/plain", b" \n", "c.document.data", "blank"),
            (Slot::Document, "text/plain", b"a\0", "c.document.data", "NUL"),
        ] {
            let (fields, reason) = inlined(slot, media_type, data).expect_err(media_type);
            assert_eq!(fields, field, "{media_type}");
            assert!(reason.contains(told), "{media_type}: {reason}");
        }
    }

    #[test]
    fn e6_an_image_has_a_whole_header() {
        for (media_type, data) in [("image/png", PNG), ("image/gif", GIF), ("image/jpeg", JPEG)] {
            let cut = &data[..9];
            let (field, problem) = inlined(Slot::Image, media_type, cut).expect_err(media_type);
            assert_eq!(field, "c.image.data");
            assert!(problem.contains("before its width"), "{problem}");
        }
        let source = json!({"type": "base64", "media_type": "image/png", "data": STANDARD.encode(&PNG[..9])});
        let block = json!({"type": "image", "source": source});
        assert_eq!(refused_in_json(&block).as_deref(), Some("b.source.data"));
    }

    #[test]
    fn e6_plain_text_travels_as_a_text_source() {
        let block = inlined(Slot::Document, "text/plain", "naïve\n".as_bytes()).expect("taken");
        let InputBlock::PlainDocument(text) = block else { panic!("{block:?}") };
        assert_eq!(text, "naïve\n");
    }

    #[test]
    fn e6_media_within_json_are_held_to_the_same_rules() {
        let base64 = |media_type: &str, data: &[u8]| json!({"type": "base64", "media_type": media_type, "data": STANDARD.encode(data)});
        let image = |source| json!({"type": "image", "source": source});
        let document = |source| json!({"type": "document", "source": source});
        let text = |data: &str| json!({"type": "text", "media_type": "text/plain", "data": data});
        for taken in [
            image(base64("image/png", PNG)),
            image(json!({"type": "url", "url": "https://example.org/a.png"})),
            document(base64("application/pdf", PDF_FILE)),
            document(text("hello")),
            document(json!({"type": "content", "content": "hello"})),
            document(json!({"type": "content", "content": [image(base64("image/png", PNG))]})),
            json!({"type": "tool_result", "content": "hello"}),
            json!({"type": "novelty", "source": 5}),
        ] {
            assert_eq!(refused_in_json(&taken), None, "{taken}");
        }
        let inner = document(base64("text/plain", b"hello"));
        for (refused, field) in [
            (inner.clone(), "b.source.media_type"),
            (document(base64("application/msword", b"x")), "b.source.media_type"),
            (document(base64("application/pdf", b"x")), "b.source.data"),
            (document(text("")), "b.source.data"),
            (document(json!({"type": "blob"})), "b.source.type"),
            (image(text("hello")), "b.source.type"),
            (image(base64("image/png", b"x")), "b.source.data"),
            (
                image(json!({"type": "base64", "media_type": "image/png", "data": "data:x"})),
                "b.source.data",
            ),
            (json!({"type": "image"}), "b.source"),
            (json!({"type": "image", "source": ["base64"]}), "b.source"),
            (json!({"type": "tool_result", "content": [inner]}), "b.content[0].source.media_type"),
        ] {
            assert_eq!(refused_in_json(&refused).as_deref(), Some(field), "{refused}");
        }
        let nest = |inner| document(json!({"type": "content", "content": [inner]}));
        let deep = nest(nest(nest(nest(image(base64("image/png", PNG))))));
        let field = format!("b{}", ".source.content[0]".repeat(MAX_HELD + 1));
        assert_eq!(refused_in_json(&deep), Some(field));
        let twice = r#"{"type":"image","source":{"type":"url","type":"base64"}}"#;
        let mut check = Check::default();
        in_json(&mut check, "b", twice);
        assert_eq!(check.refused().map(|(fields, _)| fields).as_deref(), Some("b.source"));
    }
}
