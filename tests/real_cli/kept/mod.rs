//! What a caller was told is in the next turn's conversation, whatever happens to the CLI,
//! to its files or to the service in between.

mod files;
mod kills;
mod mid_tool;
mod turns;

use crate::stand_in::RecordedRequest;

/// What the stand-in answers when it is shown these prompts and then another one.
fn answer(prompt: &str, before: &[String]) -> String {
    let said: Vec<String> = before.iter().map(|prompt| format!("\"{prompt}\"")).collect();
    match said.join("; ").as_str() {
        "" => format!("You said: \"{prompt}\"."),
        said => {
            format!("You said: \"{prompt}\". Earlier in this conversation you said: {said}.")
        }
    }
}

/// Checks that a request shows the conversation before its own turn: what was asked and
/// what was answered, in order.
#[track_caller]
fn shows(request: &RecordedRequest, before: &[String]) {
    let messages = request.body["messages"].as_array().expect("messages");
    let mut rest = messages.iter();
    let mut next = |role: &str, text: &str| {
        let found = rest.any(|it| it["role"] == role && it["content"].to_string().contains(text));
        assert!(found, "no {role} with {text} where it should be: {messages:#?}");
    };
    for prompt in before {
        next("user", prompt);
        next("assistant", &format!("You said: \\\"{prompt}\\\"."));
    }
}
