//! The service as a process of its own, so that its CPU time and its memory are its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// The scripted CLI.
pub const FAKE: &str = env!("CARGO_BIN_EXE_fake-claude");
const SERVICE: &str = env!("CARGO_BIN_EXE_session-pool");

/// The service, as a process of its own.
pub struct Running {
    child: Child,
    /// Where it listens.
    pub address: String,
    _state: tempfile::TempDir,
}

impl Running {
    /// Starts it with further settings, and waits until it listens.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self, Box<dyn std::error::Error>> {
        let state = tempfile::tempdir()?;
        let mut child = Command::new(SERVICE)
            .arg("serve")
            .env("SESSION_POOL__SERVER__LISTEN", "127.0.0.1:0")
            .env("SESSION_POOL__STATE_DIR", state.path())
            .env("SESSION_POOL__CLI__PATH", FAKE)
            .env("SESSION_POOL__POOL__MAX_PROCESSES", "400")
            .env("SESSION_POOL__POOL__START_CONCURRENCY", "32")
            .env("SESSION_POOL__LOG__FORMAT", "json")
            .envs(settings.iter().map(|(key, value)| (format!("SESSION_POOL__{key}"), value)))
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        let mut lines = log.lines();
        let address = loop {
            let line = lines.next().ok_or("the service ended")??;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["message"] == "listening" {
                break event["address"].as_str().ok_or("no address")?.to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address: format!("http://{address}"), _state: state })
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
    }

    /// User and system time so far.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub fn cpu_seconds(&self) -> f64 {
        let stat = self.proc_file("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks =
            |index: usize| fields.get(index).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        // Linux counts these in hundredths of a second.
        (ticks(11) + ticks(12)) / 100.0
    }

    fn status(&self, key: &str) -> f64 {
        self.proc_file("status")
            .lines()
            .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
            .unwrap_or(0.0)
    }

    /// What it holds in memory.
    pub fn resident_kb(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// Ends it as a crash of its machine would.
    #[allow(dead_code, reason = "not every benchmark does")]
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// How many threads it has.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub fn threads(&self) -> f64 {
        self.status("Threads:")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}
