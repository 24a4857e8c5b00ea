//! Where settings come from, and how the sources become one flat list of keys.

use std::{
    collections::BTreeMap,
    env, fmt,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{
    ConfigError, ValueOrigin, Violation,
    fields::{ENV_TABLE, Reading, reading_of},
    names::{PREFIX, key_of_variable},
    variables::{self, UnknownVariable},
};
use crate::os::regular;

/// Everything that a configuration is made from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment. Only `SESSION_POOL__…` are settings; `XDG_STATE_HOME` and
    /// `HOME` say where the state folder is by default.
    pub env: Vec<(String, String)>,
    /// Keys with dots and their values, from the command line. The last of a key
    /// counts.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The environment of this process, with a file and flags.
    pub fn from_process(
        file: Option<PathBuf>,
        flags: Vec<(String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut sources = Self { file, env: Vec::new(), flags };
        let mut violations = Vec::new();
        for (name, value) in env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => sources.env.push((name, value)),
                Err(_) if name.starts_with(PREFIX) => violations.push(Violation {
                    key: key_of_variable(&name).unwrap_or_default(),
                    value: None,
                    problem: "is not UTF-8".into(),
                    origin: ValueOrigin::Environment(name),
                }),
                Err(_) => {}
            }
        }
        if violations.is_empty() { Ok(sources) } else { Err(ConfigError::Refused(violations)) }
    }

    /// Variables of the environment that begin like those of the program, and that nothing
    /// reads.
    pub fn unknown_variables(&self) -> Vec<UnknownVariable> {
        variables::unknown(self.names())
    }

    /// Wrong spellings of settings in the environment.
    pub(super) fn misspelt_variables(&self) -> Vec<Violation> {
        variables::misspelt(self.names())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.env.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// All settings by key, each from the source that wins.
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        if let Some(path) = &self.file {
            let origin = ValueOrigin::File(path.clone());
            settings.add("", Value::Table(read_file(path)?), &origin);
        }
        for (name, text) in &self.env {
            if let Some(key) = key_of_variable(name) {
                settings.add_text(&key, text, &ValueOrigin::Environment(name.clone()));
            }
        }
        for (key, text) in &self.flags {
            settings.add_text(key, text, &ValueOrigin::CommandLine);
        }
        Ok(settings)
    }
}

impl fmt::Debug for Sources {
    /// Values may be secrets of any name: only names are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, env, flags } = self;
        let names = |pairs: &[(String, String)]| -> Vec<_> {
            pairs.iter().map(|(name, _)| name.clone()).collect()
        };
        f.debug_struct("Sources")
            .field("file", file)
            .field("env", &names(env))
            .field("flags", &names(flags))
            .finish()
    }
}

/// One value, before its key has been asked what it takes.
pub(super) struct Setting {
    pub value: Value,
    pub origin: ValueOrigin,
}

/// The merged settings by key. Tables are taken apart, so that sources add up
/// within them, too.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<String, Setting>);

impl Settings {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// Where the value of this key came from.
    pub fn origin(&self, key: &str) -> ValueOrigin {
        self.0.get(key).map_or(ValueOrigin::Default, |setting| setting.origin.clone())
    }

    /// Takes a text by what its key expects: text as it is, anything else as TOML.
    fn add_text(&mut self, key: &str, text: &str, origin: &ValueOrigin) {
        let parsed = text.parse::<Value>().ok();
        let value = match (reading_of(key), parsed) {
            (Reading::Text, Some(quoted @ Value::String(_))) | (Reading::Toml, Some(quoted)) => {
                quoted
            }
            _ => Value::String(text.into()),
        };
        self.add(key, value, origin);
    }

    fn add(&mut self, key: &str, value: Value, origin: &ValueOrigin) {
        match value {
            // An empty table at a key that is one says nothing.
            Value::Table(table) if table.is_empty() && is_table(key) => {}
            Value::Table(table) if !table.is_empty() => {
                for (name, value) in table {
                    let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                    self.add(&key, value, origin);
                }
            }
            value => {
                self.0.insert(key.into(), Setting { value, origin: origin.clone() });
            }
        }
    }
}

fn is_table(key: &str) -> bool {
    ["", ENV_TABLE, "server", "server.limits", "pool", "cli", "policy", "auth", "log"]
        .contains(&key)
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = regular::read_text(path)
        .map_err(|cause| ConfigError::Unreadable { path: path.into(), cause })?;
    text.parse::<Table>().map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::NotToml { path: path.into(), line, problem: error.message().into() }
    })
}
