//! The last of what a process wrote to stderr, for errors: without the values of its
//! environment that are somebody's secrets. Knows nothing of who reads it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    task::JoinHandle,
};

use crate::tasks::spawn_owned;

/// How much is told, in bytes.
const TAIL: usize = 4096;

/// Shorter values, such as `1`, are no secrets and occur in every text.
const SHORTEST_SECRET: usize = 8;

/// What stands in the place of a secret.
const HIDDEN: &str = "<hidden>";

/// Reads a process's stderr to its end.
#[derive(Debug)]
pub struct StderrTail {
    kept: Arc<Mutex<VecDeque<u8>>>,
    secrets: Vec<String>,
    /// Ends when nobody can write any more.
    pub reader: JoinHandle<()>,
}

impl StderrTail {
    /// Reads from now on. Values among `secrets` are not told.
    pub fn read(stderr: impl AsyncRead + Unpin + Send + 'static, secrets: &[String]) -> Self {
        let long = |secret: &&String| secret.len() >= SHORTEST_SECRET;
        let mut secrets: Vec<String> = secrets.iter().filter(long).cloned().collect();
        // One may be the beginning of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        // A secret that is cut would not be known any more.
        let bound = TAIL + secrets.first().map_or(0, String::len);
        let kept = Arc::default();
        let reader = spawn_owned(keep(stderr, Arc::clone(&kept), bound));
        Self { kept, secrets, reader }
    }

    /// The last of what was written so far.
    pub fn text(&self) -> String {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        for secret in &self.secrets {
            text = text.replace(secret, HIDDEN);
        }
        let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL));
        text[start..].trim().to_owned()
    }
}

async fn keep(mut stderr: impl AsyncRead + Unpin, kept: Arc<Mutex<VecDeque<u8>>>, bound: usize) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&buffer[..count]);
        let excess = kept.len().saturating_sub(bound);
        kept.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tail(written: &str, secrets: &[&str]) -> String {
        let secrets: Vec<String> = secrets.iter().map(|&secret| secret.to_owned()).collect();
        let written = std::io::Cursor::new(written.as_bytes().to_vec());
        let mut tail = StderrTail::read(written, &secrets);
        (&mut tail.reader).await.expect("read to the end");
        tail.text()
    }

    #[tokio::test]
    async fn the_last_of_it_is_told() {
        assert_eq!(tail(" what went wrong\n", &[]).await, "what went wrong");
        let long = format!("{}é{}", "a".repeat(5000), "b".repeat(TAIL - 1));
        assert_eq!(tail(&long, &[]).await, "b".repeat(TAIL - 1));
    }

    #[tokio::test]
    async fn secrets_are_not_told_whole_or_cut() {
        let secrets = ["sk-secret-key", "sk-secret-key-2", "1"];
        let said = tail("bad key sk-secret-key-2, or sk-secret-key: 1", &secrets).await;
        assert_eq!(said, "bad key <hidden>, or <hidden>: 1");
        let at_the_cut = format!("sk-secret-key{}", ".".repeat(TAIL - 4));
        let said = tail(&at_the_cut, &secrets).await;
        assert!(!said.contains("key") && said.ends_with('.'), "{said}");
    }
}
