//! All options by name: what can be done with any of them is done here, one row at a time,
//! so that an option that can be set can also be compared and taken away again.

use std::collections::BTreeMap;

use crate::domain::{
    options::{LiveChange, Options, list::each_option},
    redacted::Redacted,
};

/// When a process can be given an option.
enum When {
    /// At any time: the change for what is wanted, if anything is.
    Live(fn(&Options) -> Option<LiveChange>),
    /// Before its first prompt.
    Told,
    /// When it is started.
    Start,
}

/// An option, and what can be done with it whatever its type is.
pub(super) struct Row {
    name: &'static str,
    when: When,
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

    /// How a running process takes on what is wanted. Most options it cannot, and none can it
    /// lose: `set_model` without a model brings one that neither the settings nor
    /// `ANTHROPIC_MODEL` have a say in, and for the others there is no such request.
    pub(super) fn live(&self, wanted: &Options) -> Option<LiveChange> {
        match self.when {
            When::Live(change) => change(wanted),
            When::Told | When::Start => None,
        }
    }

    /// Whether only the start of a process can give it.
    pub(super) fn is_for_start(&self) -> bool {
        matches!(self.when, When::Start)
    }

    /// Makes it what it is in `from`.
    pub(super) fn take(&self, options: &mut Options, from: &Options) {
        (self.take)(options, from);
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

impl<K, V> Sayable for Redacted<BTreeMap<K, V>> {
    fn is_said(&self) -> bool {
        !self.0.is_empty()
    }
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $when:ident $(($change:ident))?;)*) => {
        /// A row for each option, in the contract's order.
        pub(super) static TABLE: &[Row] = &[$(Row {
            name: stringify!($name),
            when: When::$when $((|options| options.$name.clone().map(LiveChange::$change)))?,
            is_said: |options| options.$name.is_said(),
            is_same: |one, other| one.$name == other.$name,
            take: |to, from| to.$name.clone_from(&from.$name),
        }),*];
    };
}

each_option!(table);
