//! What a caller can do about options that a session cannot take on as it is.

use crate::domain::failure::Cause;

/// What makes options hold that the session cannot take on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The Query lets the process be replaced.
    Restart,
    /// A Query that lets the process be replaced, in the place of the update.
    Query,
    /// The session leaves its conversation.
    NewConversation,
    /// A value that the CLI accepts.
    OtherValue,
    /// The same again: the process that did not answer is gone.
    Retry,
}

impl Remedy {
    /// The value of the metadata key `remedy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart | Self::Query => "RESTART",
            Self::NewConversation => "NEW_CONVERSATION",
            Self::OtherValue => "OTHER_VALUE",
            Self::Retry => "RETRY",
        }
    }

    /// What is wrong, in front of the names of the options.
    pub(super) fn problem(self) -> &'static str {
        match self {
            Self::Restart | Self::Query => "these options need another process of the session",
            Self::NewConversation => "these options need another conversation of the session",
            Self::OtherValue => "the CLI refused these options",
            Self::Retry => "the CLI took too long to change these options",
        }
    }

    /// What the caller can do.
    pub(super) fn way_out(self) -> &'static str {
        match self {
            Self::Restart => {
                "send them with on_options_mismatch = RESTART, which starts one and continues the \
                 conversation, or leave them out"
            }
            Self::Query => {
                "UpdateSession changes them only while the session has no process; a Query with \
                 on_options_mismatch = RESTART starts another and continues the conversation"
            }
            Self::NewConversation => {
                "set new_conversation to leave the one that the session has, or use another \
                 session_id"
            }
            Self::OtherValue => "send values that it accepts",
            Self::Retry => "its process was ended: send them again, which starts another",
        }
    }
}

impl Cause {
    /// Options of these names need more than a change.
    pub fn mismatch(options: &[&'static str], remedy: Remedy) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        Self::OptionsMismatch { options, remedy, detail: None }
    }
}
