//! What a conversation can be asked to be, in the words of the official Agent SDKs,
//! and when the CLI can take each option on. Knows nothing of who may ask for what.

mod list;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::{hook::Hook, redacted::Redacted};
pub(crate) use list::each_option;
use table::TABLE;

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $when:ident $(($change:ident))?;)*) => {
        /// Options of a conversation. `None` and an empty list mean "not said".
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Options {
            $($(#[$doc])* pub $name: $type,)*
            /// Names of options that go back to their default. Only ever wanted: what a
            /// session has resets nothing. Of a process it is wanted that it takes nothing of
            /// the kind over from its conversation.
            #[serde(skip)]
            pub reset: BTreeSet<&'static str>,
        }

        impl LiveChange {
            /// Options that say this and nothing else.
            pub fn as_options(&self) -> Options {
                match self.clone() {
                    $($(Self::$change(value) => {
                        Options { $name: Some(value), ..Options::default() }
                    })?)*
                }
            }

            /// The option's name in the contract.
            pub fn option(&self) -> &'static str {
                match self {
                    $($(Self::$change(_) => stringify!($name),)?)*
                }
            }
        }
    };
}

each_option!(options);

/// An option's name in the contract.
pub const MODEL: &str = "model";
/// An option's name in the contract.
pub const EFFORT: &str = "effort";
/// An option's name in the contract.
pub const PERMISSION_MODE: &str = "permission_mode";

/// An option that a running process can take on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveChange {
    /// `set_model`.
    Model(String),
    /// `set_permission_mode`.
    PermissionMode(String),
    /// `set_max_thinking_tokens`.
    MaxThinkingTokens(u32),
    /// `apply_flag_settings` with an effort level.
    Effort(String),
}

/// How wanted options differ from those in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a running process can take on.
    pub live: Vec<LiveChange>,
    /// Names of the options that only another process can have.
    pub fixed: Vec<&'static str>,
}

impl Options {
    /// The names of the MCP servers.
    pub fn mcp_server_names(&self) -> Vec<String> {
        let servers = self.mcp_servers.as_ref().map(|servers| servers.0.as_str());
        let servers: serde_json::Value =
            servers.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let named = servers["mcpServers"].as_object().into_iter().flatten();
        named.map(|(name, _)| name.clone()).collect()
    }

    /// Whether this is to go back to its default.
    pub fn resets(&self, name: &str) -> bool {
        self.reset.contains(name)
    }

    /// What has to change for `wanted` to hold; what it does not say stays.
    pub fn difference(&self, wanted: &Self) -> Difference {
        let mut difference = Difference::default();
        for option in TABLE.iter().filter(|option| option.differs(self, wanted)) {
            match option.live(wanted) {
                Some(change) => difference.live.push(change),
                None => difference.fixed.push(option.name()),
            }
        }
        difference
    }

    /// The part of them that only the start of a process can give it.
    pub fn at_start(&self) -> Self {
        let mut at_start = Self::default();
        for option in TABLE.iter().filter(|option| option.is_for_start()) {
            option.take(&mut at_start, self);
        }
        // The one mode that a process can only be born in.
        let bypass = |mode: &String| mode == "bypassPermissions";
        at_start.permission_mode = self.permission_mode.clone().filter(bypass);
        at_start
    }

    /// These options, with what `wanted` says in place of what was said before, and without
    /// what it resets.
    pub fn updated(&self, wanted: &Self) -> Self {
        let mut updated = self.clone();
        for option in TABLE {
            option.update(&mut updated, wanted);
        }
        updated.reset.clear();
        updated
    }

    /// The name that an option goes by in the contract, if there is one.
    pub fn named(name: &str) -> Option<&'static str> {
        Self::names().find(|known| *known == name)
    }

    /// The names of all options that a session keeps.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(table::Row::name)
    }

    /// Whether the option of this name is one that only the start of a process can give it.
    pub fn is_for_start(name: &str) -> bool {
        TABLE.iter().any(|option| option.name() == name && option.is_for_start())
    }

    /// Whether something is said of the option of this name, other than its reset.
    pub fn says(&self, name: &str) -> bool {
        TABLE.iter().any(|option| option.name() == name && option.is_said(self))
    }
}
