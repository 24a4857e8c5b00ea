//! What works behind the turns of the CLI, and the turns that it begins by itself.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;
use tokio::time::sleep;

use super::{MemoryCli, Output, print};

impl MemoryCli {
    /// Waits for the end of a task.
    pub(super) async fn task_over(&self) -> String {
        let next = self.tasks.lock().expect("no panic").iter().min().cloned();
        let Some((at, id)) = next else { return std::future::pending().await };
        tokio::time::sleep_until(at).await;
        id
    }

    pub(super) async fn end_task(&self, id: &str, status: &str, output: &mut Output) {
        let ended = {
            let mut tasks = self.tasks.lock().expect("no panic");
            let before = tasks.len();
            tasks.retain(|(_, task)| task != id);
            tasks.len() < before
        };
        if ended {
            print(
                output,
                &json!({"type": "system", "subtype": "task_updated", "task_id": id,
                "patch": {"status": status}}),
            )
            .await;
            self.echoes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A turn that nobody asked for.
    pub(super) async fn unasked(&self, output: &mut Output) {
        sleep(Duration::from_millis(5)).await;
        self.state("running", output).await;
        let init = json!({"type": "system", "subtype": "init", "session_id": self.id.to_string()});
        print(output, &init).await;
        let text = json!({"type": "assistant", "message":
            {"content": [{"type": "text", "text": "unasked"}]}});
        print(output, &text).await;
        let result = json!({"type": "result", "is_error": false, "result": "unasked",
            "origin": {"kind": "task-notification"}});
        print(output, &result).await;
        self.state("idle", output).await;
    }
}
