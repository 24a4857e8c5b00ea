//! The rules that a process was given, and whether it has taken them.

use tokio::sync::oneshot::error::TryRecvError;

use crate::{cli::connection::ControlAnswer, domain::grants::Grants};

/// The rules that the running process was given, beside those that it was told in answers
/// of its own life.
#[derive(Debug)]
pub struct Given {
    /// The rules.
    pub rules: Grants,
    /// What it says to the last change of them.
    answer: Option<ControlAnswer>,
}

impl Given {
    /// Those that it was given while it runs. They hold when it has answered.
    pub fn anew(rules: &Grants, answer: ControlAnswer) -> Self {
        Self { rules: rules.clone(), answer: Some(answer) }
    }

    /// Those that it was started with.
    pub fn at_start(rules: &Grants) -> Self {
        Self { rules: rules.clone(), answer: None }
    }

    /// Whether the process has taken them.
    pub fn hold(&mut self) -> bool {
        let answered = self.answer.as_mut().map(ControlAnswer::try_recv);
        match answered {
            None => true,
            Some(Ok(Ok(_))) => {
                self.answer = None;
                true
            }
            Some(Ok(Err(_)) | Err(TryRecvError::Empty | TryRecvError::Closed)) => false,
        }
    }
}
