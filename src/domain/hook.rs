//! Hooks of a session: points of the CLI's work at which it asks its callers, and what they can
//! answer there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a call of a hook waits for its answer, unless the hook says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A hook, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The event's name, see [`HookEvent::named`].
    pub event: String,
    /// For what of its kind it is called; empty is for all.
    pub matcher: String,
    /// How long a call waits for its answer.
    pub timeout: Duration,
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A point of the CLI's work. Those at which every version that the service supports
        /// calls back; a permission that is asked for is a prompt of its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum HookEvent {
            $($(#[$doc])* $name,)*
        }

        impl HookEvent {
            /// All, in the order of a turn.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// The CLI's name for it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

events! {
    /// A tool is about to run.
    PreToolUse,
    /// A tool has run.
    PostToolUse,
    /// A tool has failed.
    PostToolUseFailure,
    /// A prompt has come.
    UserPromptSubmit,
    /// The model is about to end its turn.
    Stop,
    /// A subagent begins.
    SubagentStart,
    /// A subagent is about to end.
    SubagentStop,
    /// The conversation is about to be compacted.
    PreCompact,
    /// The conversation has been compacted.
    PostCompact,
}

impl HookEvent {
    /// The event of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }

    /// Whether the CLI looks at a matcher; for the others it calls every hook.
    pub fn has_matcher(self) -> bool {
        match self {
            Self::UserPromptSubmit | Self::Stop => false,
            Self::PreToolUse
            | Self::PostToolUse
            | Self::PostToolUseFailure
            | Self::SubagentStart
            | Self::SubagentStop
            | Self::PreCompact
            | Self::PostCompact => true,
        }
    }

    /// Whether its hook decides on a tool.
    pub fn decides_tool(self) -> bool {
        self == Self::PreToolUse
    }

    /// Whether its hook may block.
    pub fn may_block(self) -> bool {
        match self {
            Self::PostToolUse
            | Self::PostToolUseFailure
            | Self::UserPromptSubmit
            | Self::Stop
            | Self::SubagentStop
            | Self::PreCompact => true,
            Self::PreToolUse | Self::SubagentStart | Self::PostCompact => false,
        }
    }

    /// Whether nothing comes of a block but that the model is told why.
    pub fn block_needs_reason(self) -> bool {
        self.may_block() && !matches!(self, Self::UserPromptSubmit | Self::PreCompact)
    }

    /// Whether its hook may tell the model something. With Stop 2.1.110 would drop it.
    pub fn takes_context(self) -> bool {
        match self {
            Self::PreToolUse
            | Self::PostToolUse
            | Self::PostToolUseFailure
            | Self::UserPromptSubmit
            | Self::SubagentStart => true,
            Self::Stop | Self::SubagentStop | Self::PreCompact | Self::PostCompact => false,
        }
    }

    /// Whether what it is about does not happen where nobody answers: whoever guards something by a
    /// hook has not consented by being away. 2.1.332 does the same where its own time for a hook
    /// passes, older versions differ.
    pub fn guards(self) -> bool {
        match self {
            Self::PreToolUse | Self::UserPromptSubmit => true,
            Self::PostToolUse
            | Self::PostToolUseFailure
            | Self::Stop
            | Self::SubagentStart
            | Self::SubagentStop
            | Self::PreCompact
            | Self::PostCompact => false,
        }
    }
}

/// What a hook says of a tool that is about to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolVerdict {
    /// It runs.
    Allow,
    /// It does not.
    Deny,
    /// It is asked about.
    Ask,
}

/// What a hook says. Texts are empty where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookDecision {
    /// Whether the tool may run.
    pub verdict: Option<ToolVerdict>,
    /// Why it is so, or why something is blocked.
    pub reason: String,
    /// The tool's input, as a JSON object.
    pub updated_input: String,
    /// What the model is told beside.
    pub context: String,
    /// Whether what the event is about is blocked.
    pub block: bool,
    /// What those who follow the turn are told.
    pub system_message: String,
}
