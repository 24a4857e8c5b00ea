//! Images and documents: their type, their size and whether they are what they say.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imagesize::ImageType;
use serde_json::Value;

use super::{Message, blocks};

/// Bytes of an image, as they stand in the request.
pub const MAX_IMAGE: usize = 5 * 1024 * 1024;
/// Pixels of an image's longer side.
pub const MAX_PIXELS: usize = 8000;
/// The same where a request has more than [`MANY`] images.
pub const MAX_PIXELS_OF_MANY: usize = 2000;
/// Images from which on the smaller bound holds.
pub const MANY: usize = 20;
/// How far into a PDF its header may stand, and how far from its end its last words.
const MARGIN: usize = 1024;

/// Checks the source of an image.
pub fn image(at: &str, source: &Value) -> Result<(), String> {
    let at = format!("{at}.image.source");
    let Some(bytes) = bytes(&at, source)? else { return Ok(()) };
    let at = format!("{at}.base64");
    let named = source["media_type"].as_str().unwrap_or_default();
    if !["image/jpeg", "image/png", "image/gif", "image/webp"].contains(&named) {
        return Err(format!(
            "{at}.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
        ));
    }
    let length = source["data"].as_str().unwrap_or_default().len();
    if length > MAX_IMAGE {
        return Err(format!(
            "{at}: image exceeds 5 MB maximum: {length} bytes > {MAX_IMAGE} bytes"
        ));
    }
    let found = type_of(&bytes).ok_or_else(|| format!("{at}.data: Could not process image"))?;
    if found != named {
        return Err(format!(
            "{at}: The image was specified using the {named} media type, but the image appears to be a {found} image"
        ));
    }
    let side = longer_side(&bytes).ok_or_else(|| format!("{at}.data: Could not process image"))?;
    if side > MAX_PIXELS {
        return Err(format!(
            "{at}.data: At least one of the image dimensions exceed max allowed size: {MAX_PIXELS} pixels"
        ));
    }
    Ok(())
}

/// Checks the source of a document.
pub fn document(at: &str, source: &Value) -> Result<(), String> {
    let at = format!("{at}.document.source");
    if source["type"] == "text" {
        return blocks::text("messages", source["data"].as_str().unwrap_or_default());
    }
    let Some(bytes) = bytes(&at, source)? else { return Ok(()) };
    if source["media_type"] != "application/pdf" {
        return Err(format!("{at}.base64.media_type: Input should be 'application/pdf'"));
    }
    match pdf(&bytes) {
        Pdf::Whole => Ok(()),
        Pdf::Locked => Err(format!("{at}.base64.data: The PDF specified is password protected.")),
        Pdf::Broken => Err(format!("{at}.base64.data: The PDF specified was not valid.")),
    }
}

/// Checks what holds for all images of a request together.
pub fn check_together(messages: &[Message<'_>]) -> Result<(), String> {
    let mut sizes = Vec::new();
    for block in messages.iter().flat_map(|message| message.blocks) {
        collect(block, &mut sizes);
    }
    match sizes.len() > MANY && sizes.iter().any(|size| *size > MAX_PIXELS_OF_MANY) {
        true => Err(format!(
            "At least one of the image dimensions exceed max allowed size for many-image requests: \
             {MAX_PIXELS_OF_MANY} pixels"
        )),
        false => Ok(()),
    }
}

fn collect(block: &Value, sizes: &mut Vec<usize>) {
    if block["type"] == "image" {
        let data = block["source"]["data"].as_str().unwrap_or_default();
        sizes.extend(STANDARD.decode(data).ok().and_then(|bytes| longer_side(&bytes)));
    }
    for held in block["content"].as_array().into_iter().flatten() {
        collect(held, sizes);
    }
}

/// The bytes of a source; `None` if they are elsewhere.
fn bytes(at: &str, source: &Value) -> Result<Option<Vec<u8>>, String> {
    match source["type"].as_str() {
        Some("base64") => {}
        Some("url" | "file" | "content") => return Ok(None),
        _ => return Err(format!("{at}: Input tag does not match any of the expected tags")),
    }
    let data = source["data"].as_str().unwrap_or_default();
    if data.is_empty() {
        return Err(format!("{at}.base64.data: image cannot be empty"));
    }
    let bytes =
        STANDARD.decode(data).map_err(|_| format!("{at}.base64.data: Invalid base64 data"))?;
    Ok(Some(bytes))
}

fn type_of(bytes: &[u8]) -> Option<&'static str> {
    match imagesize::image_type(bytes).ok()? {
        ImageType::Jpeg => Some("image/jpeg"),
        ImageType::Png => Some("image/png"),
        ImageType::Gif => Some("image/gif"),
        ImageType::Webp => Some("image/webp"),
        _ => None,
    }
}

fn longer_side(bytes: &[u8]) -> Option<usize> {
    let size = imagesize::blob_size(bytes).ok()?;
    Some(size.width.max(size.height))
}

/// What became of a PDF.
enum Pdf {
    Whole,
    Locked,
    Broken,
}

/// Follows a PDF from its end to its table of objects, as a reader does.
fn pdf(bytes: &[u8]) -> Pdf {
    let head = &bytes[..bytes.len().min(MARGIN)];
    let tail = &bytes[bytes.len().saturating_sub(MARGIN)..];
    let Some(at) = last(tail, b"startxref") else { return Pdf::Broken };
    let rest = String::from_utf8_lossy(&tail[at..]);
    let mut words = rest.split_ascii_whitespace().skip(1);
    let table = words.next().and_then(|offset| offset.parse().ok());
    let ends = words.next().is_some_and(|word| word.starts_with("%%EOF"));
    let Some(table) = table.and_then(|offset: usize| bytes.get(offset..)) else {
        return Pdf::Broken;
    };
    let is_table = table.starts_with(b"xref") || table.first().is_some_and(u8::is_ascii_digit);
    if last(head, b"%PDF-").is_none() || !ends || !is_table {
        Pdf::Broken
    } else if last(table, b"/Encrypt").is_some() {
        Pdf::Locked
    } else {
        Pdf::Whole
    }
}

fn last(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).rposition(|window| window == word)
}
