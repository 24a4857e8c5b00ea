//! Why a session has not done what it was about to do.

use crate::domain::failure::Cause;

/// Why something was not done.
#[derive(Debug, PartialEq)]
pub enum Undone {
    /// Nobody wants it any more.
    Unwanted,
    /// It cannot be.
    Failed(Cause),
}

impl From<Cause> for Undone {
    fn from(cause: Cause) -> Self {
        Self::Failed(cause)
    }
}
