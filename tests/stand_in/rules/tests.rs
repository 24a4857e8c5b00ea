//! Each rule refuses what it is there for, in the API's words, and takes what lies just inside of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Purpose, check, media, signature};

/// What the API says to these messages.
fn verdict(messages: &Value) -> Result<(), String> {
    check(&json!({ "model": "m", "max_tokens": 10, "messages": messages }), Purpose::Answer)
}

#[track_caller]
fn taken(messages: &Value) {
    assert_eq!(verdict(messages), Ok(()), "{messages}");
}

#[track_caller]
fn refused(messages: &Value, wanted: &str) {
    let said = verdict(messages).expect_err("refused");
    assert!(said.contains(wanted), "{said:?} does not say {wanted:?}");
}

fn user(content: Value) -> Value {
    json!({ "role": "user", "content": content })
}

fn assistant(content: Value) -> Value {
    json!({ "role": "assistant", "content": content })
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn call(id: &str) -> Value {
    json!({ "type": "tool_use", "id": id, "name": "Bash", "input": {} })
}

fn result(id: &str) -> Value {
    json!({ "type": "tool_result", "tool_use_id": id, "content": "done" })
}

/// A conversation in which calls were made and what came behind them.
fn tools(calls: Value, behind: Value) -> Value {
    json!([user(json!("go")), assistant(calls), user(behind)])
}

fn medium(kind: &str, media_type: &str, bytes: &[u8]) -> Value {
    let source =
        json!({ "type": "base64", "media_type": media_type, "data": STANDARD.encode(bytes) });
    json!({ "type": kind, "source": source })
}

/// The beginning of a PNG of this size.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 6, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn gif(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes =
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x11\x08".to_vec();
    bytes.extend(height.to_be_bytes());
    bytes.extend(width.to_be_bytes());
    bytes.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
    bytes
}

fn pdf(trailer: &str) -> Vec<u8> {
    let body = "%PDF-1.4\n1 0 obj\n<</Type/Catalog>>\nendobj\n";
    format!(
        "{body}xref\n0 1\n0000000000 65535 f \ntrailer\n<<{trailer}>>\nstartxref\n{}\n%%EOF\n",
        body.len()
    )
    .into_bytes()
}

#[test]
fn a_request_names_a_model_a_bound_and_messages() {
    let whole = json!({ "model": "m", "max_tokens": 10, "messages": [user(json!("hi"))] });
    assert_eq!(check(&whole, Purpose::Answer), Ok(()));
    for (key, value, wanted) in [
        ("model", Value::Null, "model: Field required"),
        ("max_tokens", Value::Null, "max_tokens: Field required"),
        ("max_tokens", json!(0), "max_tokens: Input should be greater than"),
        ("messages", Value::Null, "messages: Field required"),
        ("messages", json!([]), "messages: at least one message is required"),
        ("system", json!([text("")]), "system: text content blocks must be non-empty"),
        ("system", json!([call("a")]), "system.0.type: Input should be 'text'"),
    ] {
        let mut body = whole.clone();
        body[key] = value;
        let said = check(&body, Purpose::Answer).expect_err(wanted);
        assert!(said.contains(wanted), "{said}");
        let counts = key == "max_tokens";
        assert_eq!(check(&body, Purpose::Count).is_ok(), counts, "a bound is for answers");
    }
}

#[test]
fn a_conversation_begins_and_ends_with_the_user() {
    let (hi, hello) = (user(json!("hi")), assistant(json!("hello")));
    taken(&json!([hi, hello, hi]));
    taken(&json!([hi, hi]));
    taken(&json!([hi, { "role": "system", "content": "be brief" }]));
    refused(&json!([hello, hi]), "first message must use the \"user\" role");
    refused(&json!([{ "role": "system", "content": "x" }, hi]), "first message must use");
    refused(&json!([hi, hello]), "does not support assistant message prefill");
    refused(&json!([{ "role": "tool", "content": "x" }]), "messages.0.role: Input should be");
    refused(&json!([hi, { "content": "x" }]), "messages.1.role: Input should be");
}

#[test]
fn no_message_and_no_text_is_empty() {
    let content = "all messages must have non-empty content";
    refused(&json!([user(json!(""))]), content);
    refused(&json!([user(json!([]))]), content);
    let mut effort = json!({ "role": "system", "content": [] });
    refused(&json!([user(json!("hi")), effort]), content);
    effort["output_config"] = json!({ "effort": "low" });
    taken(&json!([user(json!("hi")), effort]));
    refused(&json!([user(json!(7))]), "messages.0.content: Input should be a valid list");
    refused(&json!([user(json!([text("")]))]), "text content blocks must be non-empty");
    let blank = "text content blocks must contain non-whitespace text";
    refused(&json!([user(json!([text(" \n")]))]), blank);
    refused(&json!([user(json!(" "))]), blank);
    let held = json!({ "type": "tool_result", "tool_use_id": "a", "content": [text("")] });
    refused(&tools(json!([call("a")]), json!([held])), "must be non-empty");
}

#[test]
fn every_tool_call_has_its_result_right_behind_it() {
    taken(&tools(json!([call("a"), call("b")]), json!([result("b"), result("a"), text("go on")])));
    // Messages of one side that follow each other are one.
    taken(&json!([
        user(json!("go")),
        assistant(json!([call("a")])),
        assistant(json!([call("b")])),
        user(json!([result("a")])),
        user(json!([result("b")])),
    ]));
    let open =
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: b.";
    refused(&tools(json!([call("a"), call("b")]), json!([result("a")])), open);
    refused(&tools(json!([call("b")]), json!("never mind")), open);
    refused(&tools(json!([call("b")]), json!([text("first"), result("b")])), open);
    let between = json!({ "role": "system", "content": "x" });
    let late = json!([
        user(json!("go")),
        assistant(json!([call("b")])),
        between,
        user(json!([result("b")]))
    ]);
    refused(&late, open);
}

#[test]
fn every_result_belongs_to_one_call_and_is_the_only_one() {
    let unknown =
        "messages.2.content.1: unexpected `tool_use_id` found in `tool_result` blocks: z.";
    refused(&tools(json!([call("a")]), json!([result("a"), result("z")])), unknown);
    refused(&json!([user(json!([result("z")]))]), "messages.0.content.0: unexpected `tool_use_id`");
    let twice = "messages.2.content.1: each tool_use must have a single result.";
    refused(&tools(json!([call("a")]), json!([result("a"), result("a")])), twice);
    let again = json!([
        user(json!("go")),
        assistant(json!([call("a")])),
        user(json!([result("a")])),
        assistant(json!([call("a")])),
        user(json!([result("a")])),
    ]);
    refused(&again, "`tool_use` ids must be unique");
    // A result of an earlier call is none of the last one.
    let stale = json!([
        user(json!("go")),
        assistant(json!([call("a")])),
        user(json!([result("a")])),
        assistant(json!([text("well")])),
        user(json!([result("a")])),
    ]);
    refused(&stale, "messages.4.content.0: unexpected `tool_use_id`");
}

#[test]
fn calls_and_blocks_have_their_form() {
    let mut odd = call("a b");
    refused(&tools(json!([odd]), json!([result("a b")])), "tool_use.id: String should match");
    odd = call("a");
    odd["input"] = json!("{}");
    refused(
        &tools(json!([odd]), json!([result("a")])),
        "input: Input should be a valid dictionary",
    );
    refused(&json!([user(json!([{ "type": "banana" }]))]), "Input tag 'banana' found using 'type'");
    refused(&json!([user(json!([call("a")]))]), "Input tag 'tool_use'");
    refused(&tools(json!([result("a")]), json!("x")), "Input tag 'tool_result'");
}

#[test]
fn thinking_comes_back_as_it_was_signed() {
    let thought = |thinking: &str, signature: Value| {
        let block = json!({ "type": "thinking", "thinking": thinking, "signature": signature });
        json!([user(json!("go")), assistant(json!([block, text("so")])), user(json!("on"))])
    };
    taken(&thought("hm", json!(signature("hm"))));
    let altered = "messages.1.content.0: Invalid `signature` in `thinking` block";
    refused(&thought("hm!", json!(signature("hm"))), altered);
    refused(&thought("hm", json!("c2lnbmVk")), altered);
    refused(&thought("hm", json!("")), altered);
    refused(&thought("hm", Value::Null), "signature: Field required");
}

#[test]
fn an_image_is_what_it_says_and_within_its_bounds() {
    let image =
        |media_type, bytes: &[u8]| json!([user(json!([medium("image", media_type, bytes)]))]);
    for (media_type, bytes) in
        [("image/png", png(8000, 1)), ("image/gif", gif(1, 8000)), ("image/jpeg", jpeg(8000, 8000))]
    {
        taken(&image(media_type, &bytes));
    }
    for (media_type, bytes) in
        [("image/png", png(8001, 1)), ("image/gif", gif(1, 8001)), ("image/jpeg", jpeg(1, 9000))]
    {
        refused(&image(media_type, &bytes), "exceed max allowed size: 8000 pixels");
    }
    refused(&image("image/tiff", b"II*\0"), "media_type: Input should be 'image/jpeg'");
    refused(&image("image/jpeg", &png(1, 1)), "the image appears to be a image/png image");
    refused(&image("image/png", b"not an image"), "Could not process image");
    refused(&image("image/png", &png(1, 1)[..12]), "Could not process image");
    refused(&image("image/png", b""), "image cannot be empty");
    // Base64 has four characters for three bytes.
    let mut large = png(1, 1);
    large.resize(media::MAX_IMAGE / 4 * 3, 0);
    taken(&image("image/png", &large));
    large.push(0);
    refused(&image("image/png", &large), "image exceeds 5 MB maximum: 5242884 bytes > 5242880");
    let mut broken = medium("image", "image/png", &png(1, 1));
    broken["source"]["data"] = json!("%%%");
    refused(&json!([user(json!([broken]))]), "Invalid base64 data");
}

#[test]
fn an_image_in_a_result_is_held_to_the_same_rules() {
    let held = |bytes: &[u8]| {
        let mut result = result("a");
        result["content"] = json!([medium("image", "image/png", bytes)]);
        tools(json!([call("a")]), json!([result]))
    };
    taken(&held(&png(1, 1)));
    refused(&held(&png(8001, 1)), "8000 pixels");
}

#[test]
fn many_images_have_a_bound_of_their_own() {
    let images = |count: usize, side| {
        let image = medium("image", "image/png", &png(side, 1));
        json!([user(json!(vec![image; count]))])
    };
    taken(&images(20, 8000));
    taken(&images(21, 2000));
    refused(&images(21, 2001), "many-image requests: 2000 pixels");
}

#[test]
fn a_pdf_can_be_read_to_its_end() {
    let document =
        |bytes: &[u8]| json!([user(json!([medium("document", "application/pdf", bytes)]))]);
    let whole = pdf("/Size 1");
    taken(&document(&whole));
    let invalid = "The PDF specified was not valid.";
    refused(&document(b"%PDF-1.4"), invalid);
    refused(&document(&whole[..whole.len() - 7]), invalid);
    refused(&document(&whole[9..]), invalid);
    let text = String::from_utf8(whole).expect("text");
    refused(&document(text.replace("startxref\n4", "startxref\n9").as_bytes()), invalid);
    refused(&document(&pdf("/Encrypt 2 0 R")), "password protected");
    let word = json!([user(json!([medium("document", "application/msword", b"x")]))]);
    refused(&word, "media_type: Input should be 'application/pdf'");
    let plain = |data: &str| {
        let source = json!({ "type": "text", "media_type": "text/plain", "data": data });
        json!([user(json!([{ "type": "document", "source": source }]))])
    };
    taken(&plain("notes"));
    refused(&plain(""), "must be non-empty");
}

#[test]
fn four_blocks_are_marked_for_the_cache_at_most() {
    let marked = |count: usize| {
        let mut block = text("x");
        block["cache_control"] = json!({ "type": "ephemeral" });
        json!([user(json!(vec![block; count]))])
    };
    taken(&marked(4));
    refused(&marked(5), "A maximum of 4 blocks with cache_control may be provided. Found 5.");
}
