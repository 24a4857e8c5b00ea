//! The processes of a measurement: the service, and what the CLIs take for the API.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{Outcome, SERVICE};

const STAND_IN: &str = env!("CARGO_BIN_EXE_messages-stand-in");

/// What the CLIs are given to find the API.
pub fn environment(api: &str) -> [(String, String); 3] {
    [
        ("ANTHROPIC_BASE_URL", api),
        ("ANTHROPIC_API_KEY", "sk-ant-dummy"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// What the CLIs take for the API.
pub struct StandIn {
    child: Child,
    /// Where it listens.
    pub url: String,
}

impl StandIn {
    /// Starts it, and waits until it listens.
    pub fn start() -> Outcome<Self> {
        let mut child = Command::new(STAND_IN).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("piped")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening ").ok_or("it does not listen")?.to_owned();
        Ok(Self { child, url })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A service with a process of its own.
pub struct Service {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Service {
    /// Starts it, and waits until it listens.
    pub fn start(state: &Path, cli: Option<(&Path, &str)>) -> Outcome<Self> {
        let mut command = Command::new(SERVICE);
        command
            .arg("serve")
            .env("SESSION_POOL__SERVER__LISTEN", "127.0.0.1:0")
            .env("SESSION_POOL__STATE_DIR", state)
            .env("SESSION_POOL__LOG__FORMAT", "json")
            .env("SESSION_POOL__CLI__SANDBOX", "process-tree")
            .env("SESSION_POOL__POOL__MAX_SESSIONS", "20000")
            .env("SESSION_POOL__POOL__MAX_PROCESSES", "8")
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        if let Some((program, api)) = cli {
            command
                .env("SESSION_POOL__CLI__PATH", program)
                .env("SESSION_POOL__POOL__SPARES", "1")
                .env("SESSION_POOL__POOL__HIBERNATE_AFTER", "500ms");
            for (name, value) in environment(api) {
                command.env(format!("SESSION_POOL__CLI__ENV__{name}"), value);
            }
        }
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("piped")?).lines();
        let address = loop {
            let line = lines.next().ok_or("the service ended")??;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["message"] == "listening" {
                break format!("http://{}", event["address"].as_str().ok_or("no address")?);
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    /// What it holds in memory.
    pub fn resident_kb(&self) -> f64 {
        // The supervisor's only child is the service.
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let pid = children.unwrap_or_default().split_whitespace().next().map(str::to_owned);
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.unwrap_or_default()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}
