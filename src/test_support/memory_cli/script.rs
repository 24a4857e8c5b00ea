//! What a prompt makes the CLI print: its first word is the prompt's name, the second the
//! behaviour, the third a number.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};

use super::{MemoryCli, TurnEnd, asks};
use crate::domain::ids::CliSessionId;

/// Bytes of a large entry: a little less than a frame may have.
const LARGE: usize = 900_000;

impl MemoryCli {
    /// The frames of a turn, each with its prompt in it.
    pub(super) async fn script(&self, prompt: &str, frames: mpsc::Sender<Value>) -> TurnEnd {
        let words: Vec<&str> = prompt.split_whitespace().collect();
        let behaviour = words.get(1).copied().unwrap_or("ok");
        let pause = words.get(2).and_then(|text| text.parse().ok()).unwrap_or(0);
        let pause = Duration::from_millis(pause);
        let say = |frame: Value| {
            let frames = frames.clone();
            async move { frames.send(frame).await.ok() }
        };
        let message = |n: usize| {
            json!({"type": "assistant", "message":
                {"content": [{"type": "text", "text": format!("{prompt} #{n} {}", self.system_prompt)}]}})
        };
        match behaviour {
            "silent" => std::future::pending().await,
            "late" => sleep(pause).await,
            _ => {}
        }
        say(json!({"type": "system", "subtype": "session_state_changed", "state": "running"}))
            .await;
        say(json!({"type": "system", "subtype": "init", "session_id": self.id.to_string()})).await;
        match behaviour {
            "die" => return TurnEnd::Dead,
            "mute-end" => return TurnEnd::Mute,
            "shut" => {
                say(asks("p", "can_use_tool")).await;
                say(message(1)).await;
                return TurnEnd::Shut(pause);
            }
            "rubbish" => {
                say(json!("not an object")).await;
            }
            "hang" | "deaf" | "lose" | "stop-late" => {
                say(message(1)).await;
                std::future::pending().await
            }
            "late" if prompt.contains("lose ") => std::future::pending().await,
            "much" => {
                for n in 0..pause.as_millis() {
                    let entry = json!({"uuid": format!("{prompt} {n}"), "text": "x".repeat(LARGE)});
                    let path = format!("/p/{}.jsonl", self.id);
                    say(json!({"type": "transcript_mirror", "filePath": path, "entries": [entry]}))
                        .await;
                }
            }
            "move" => {
                let moved = CliSessionId::fresh().to_string();
                say(json!({"type": "conversation_reset", "new_conversation_id": moved})).await;
            }
            "ask" | "hook" => {
                let subtype = if behaviour == "ask" { "can_use_tool" } else { "hook_callback" };
                say(asks("p", subtype)).await;
                say(asks("q", "news")).await;
            }
            "task" => {
                let task = words[0].trim_matches(&['<', '>'][..]);
                let started = json!({"type": "system", "subtype": "task_started", "task_id": task,
                    "task_type": "local_bash", "description": "work",
                    "lasts": u64::try_from(pause.as_millis()).unwrap_or(0)});
                say(started).await;
                say(json!({"type": "system", "subtype": "task_progress", "task_id": task})).await;
                // So that it is known before the turn ends.
                sleep(Duration::from_millis(1)).await;
            }
            "retry" => loop {
                say(json!({"type": "system", "subtype": "api_retry", "attempt": 1})).await;
                sleep(pause).await;
            },
            "tool" => {
                say(json!({"type": "assistant", "message": {"content":
                    [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]}}))
                .await;
                sleep(pause).await;
                say(json!({"type": "user", "message": {"content":
                    [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]}}))
                .await;
            }
            _ => {}
        }
        for n in 1..=2 {
            if behaviour == "slow" || prompt.ends_with("behind-own") {
                sleep(pause).await;
            }
            say(message(n)).await;
        }
        TurnEnd::Result
    }
}
