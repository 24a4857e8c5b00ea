//! The person at the terminal: asked what the CLI asks, answers with a line. The answers
//! are read from the terminal itself, so that a prompt can come from stdin.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, IsTerminal as _},
};

use tokio::sync::mpsc;

use super::args::Answer;

/// Lines that may wait to be looked at.
const LINES: usize = 16;

/// A terminal with somebody at it.
#[derive(Debug)]
pub struct Terminal {
    lines: mpsc::Receiver<String>,
}

impl Terminal {
    /// The terminal of this program, if it has one and questions are seen there.
    pub fn open() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let terminal = File::open("/dev/tty").ok()?;
        let (sender, lines) = mpsc::channel(LINES);
        // A read of a terminal cannot be given up: the thread ends with the program, or
        // with the first line that nobody waits for.
        std::thread::spawn(move || {
            for line in BufReader::new(terminal).lines() {
                let Ok(line) = line else { break };
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        Some(Self { lines })
    }

    /// The next line; `None` once the terminal is closed (Ctrl-D).
    pub async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Forgets what was typed before a question was asked.
    pub fn forget(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }
}

/// What a line says, if it says an answer.
pub fn answer_of(line: &str) -> Option<Answer> {
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Some(Answer::Yes),
        "n" | "no" => Some(Answer::No),
        "a" | "always" => Some(Answer::Always),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_only_clear_answers_count() {
        assert_eq!(answer_of(" Y "), Some(Answer::Yes));
        assert_eq!(answer_of("no"), Some(Answer::No));
        assert_eq!(answer_of("Always"), Some(Answer::Always));
        for unclear in ["", "yo", "yes please", "1"] {
            assert_eq!(answer_of(unclear), None, "{unclear:?}");
        }
    }
}
