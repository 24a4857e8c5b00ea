//! All options by name: what can be done with any of them is done here, one row at a time,
//! so that an option that can be set can also be compared and taken away again.

use std::collections::BTreeMap;

use super::{Hidden, Options};

/// An option, and what can be done with it whatever its type is.
pub(super) struct Row {
    name: &'static str,
    is_said: fn(&Options) -> bool,
    is_same: fn(&Options, &Options) -> bool,
    /// Takes the value of the second into the first.
    take: fn(&mut Options, &Options),
}

impl Row {
    /// Its name in the contract.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn is_said(&self, options: &Options) -> bool {
        (self.is_said)(options)
    }

    /// Whether it has to change for `wanted` to hold. There is nothing to reset where
    /// nothing is said.
    pub(super) fn differs(&self, current: &Options, wanted: &Options) -> bool {
        if wanted.resets(self.name) {
            return self.is_said(current);
        }
        self.is_said(wanted) && !(self.is_same)(current, wanted)
    }

    /// Makes it what is wanted, if anything is.
    pub(super) fn update(&self, options: &mut Options, wanted: &Options) {
        if wanted.resets(self.name) {
            (self.take)(options, &Options::default());
        } else if self.is_said(wanted) {
            (self.take)(options, wanted);
        }
    }
}

/// A value that can be left out.
trait Sayable {
    fn is_said(&self) -> bool;
}

impl<T> Sayable for Option<T> {
    fn is_said(&self) -> bool {
        self.is_some()
    }
}

impl<T> Sayable for Vec<T> {
    fn is_said(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> Sayable for Hidden<BTreeMap<K, V>> {
    fn is_said(&self) -> bool {
        !self.0.is_empty()
    }
}

macro_rules! table {
    ($($field:ident),* $(,)?) => {
        /// A row for each option, in the contract's order.
        pub(super) static TABLE: &[Row] = &[$(Row {
            name: stringify!($field),
            is_said: |options| options.$field.is_said(),
            is_same: |one, other| one.$field == other.$field,
            take: |to, from| to.$field.clone_from(&from.$field),
        }),*];

        // An option without a row does not compile.
        const _: fn(&Options) = |Options { $($field: _,)* reset: _ }| ();
    };
}

table!(
    model,
    fallback_model,
    system_prompt,
    append_system_prompt,
    permission_mode,
    allowed_tools,
    disallowed_tools,
    tools,
    max_turns,
    max_budget_usd,
    max_thinking_tokens,
    effort,
    cwd,
    add_dirs,
    mcp_servers,
    agents,
    json_schema,
    settings,
    setting_sources,
    env,
    betas,
);
