//! The service as a process of its own, so that its time and its memory are its own. Its settings are those of the
//! environment, and those that a benchmark adds.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::Outcome;

const SERVICE: &str = env!("CARGO_BIN_EXE_session-pool");

/// The service.
pub struct Running {
    child: Child,
    /// The process that serves: a child of the one that was started, where that supervises it.
    pub pid: u32,
    /// Where it listens.
    pub address: String,
}

impl Running {
    /// Starts it with further settings, and waits until it is ready.
    pub fn start(state: &Path, settings: &[(&str, &str)]) -> Outcome<Self> {
        let mut child = Command::new(SERVICE)
            .arg("serve")
            .env("SESSION_POOL__STATE_DIR", state)
            .env("SESSION_POOL__LOG__FORMAT", "json")
            .envs(settings.iter().map(|(key, value)| (format!("SESSION_POOL__{key}"), value)))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        let mut lines = log.lines();
        let (mut address, mut ready) = (String::new(), false);
        while address.is_empty() || !ready {
            let line = lines.next().ok_or("the service ended")??;
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let field = |name: &str| event.get(name).or_else(|| event.get("fields")?.get(name));
            match field("message").and_then(serde_json::Value::as_str) {
                Some("listening") => {
                    let told = field("address").and_then(serde_json::Value::as_str);
                    address = format!("http://{}", told.ok_or("no address")?);
                }
                Some("ready") => ready = true,
                _ => {}
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        let pid = serving(child.id());
        Ok(Self { child, pid, address })
    }
}

/// The service among a process and its children.
fn serving(pid: u32) -> u32 {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let children = read(format!("/proc/{pid}/task/{pid}/children"));
    let serves = |pid: &u32| {
        let arguments = read(format!("/proc/{pid}/cmdline"));
        arguments.split('\0').nth(1) == Some("serve")
    };
    let found = children.split_whitespace().filter_map(|child| child.parse().ok()).find(serves);
    found.unwrap_or(pid)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}
