//! The floor: the same CLI, read over a pipe by a program that only counts lines.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use super::{script, service::FAKE};

/// The fake CLI over a pipe, its lines counted and nothing else.
pub struct Floor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Floor {
    /// Starts it.
    pub fn start() -> Self {
        let mut child = Command::new(FAKE)
            .args(["--input-format=stream-json", "--output-format=stream-json", "--verbose"])
            .arg("--include-partial-messages")
            .env("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1")
            .env("CLAUDE_CONFIG_DIR", std::env::temp_dir().join("session-pool-bench"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the fake CLI starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::with_capacity(65_536, child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Runs a turn and reads up to its idle event; with `initialize` first.
    pub fn turn(&mut self, prompt: &str, initialize: bool) -> Duration {
        let began = Instant::now();
        if initialize {
            let request =
                r#"{"type":"control_request","request_id":"i","request":{"subtype":"initialize"}}"#;
            writeln!(self.input, "{request}").expect("written");
        }
        let uuid = uuid::Uuid::new_v4();
        let message = serde_json::json!({"type": "user", "uuid": uuid.to_string(),
            "message": {"role": "user", "content": prompt}});
        writeln!(self.input, "{message}").expect("written");
        let mut line = Vec::new();
        let idle = memchr::memmem::Finder::new(br#""state":"idle""#);
        loop {
            line.clear();
            assert!(self.output.read_until(b'\n', &mut line).expect("read") > 0, "it ended");
            if line.len() < 300 && idle.find(&line).is_some() {
                return began.elapsed();
            }
        }
    }

    /// How long it takes to print what the lines say.
    pub fn frames(mut self, lines: &str) -> Duration {
        self.turn("hi", true);
        self.turn(&script(lines), false)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
