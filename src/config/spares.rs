//! The `[[spare]]` tables: processes kept ready for sessions with options that only the
//! start of a process can give.

use serde::{Deserialize, Serialize};
use toml::Value;

use super::{secrets::HIDDEN, tables};
use crate::policy::SETTING_SOURCES;

/// Tables at most.
const MOST_CLASSES: usize = 32;

/// Spares of one class at most.
pub const MOST_SPARES: usize = 1000;

/// Texts of a list at most.
const MOST_TEXTS: usize = 256;

/// Spares with the same options from their start, which have the names that callers give
/// them; each may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpareConfig {
    /// How many are kept ready. 1 to 1000.
    pub count: usize,
    /// Whose they are; empty is of the tenants whose sessions began lately.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// As in `SessionOptions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_model: Option<String>,
    /// As in `SessionOptions`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_tools: Vec<String>,
    /// As in `SessionOptions`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disallowed_tools: Vec<String>,
    /// As in `SessionOptions`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// As in `SessionOptions`; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// As in `SessionOptions`; over 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget_usd: Option<f64>,
    /// As in `SessionOptions`; real paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_dirs: Vec<String>,
    /// As in `SessionOptions`: a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    /// As in `SessionOptions`: `user`, `project`, `local`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setting_sources: Vec<String>,
    /// As in `SessionOptions`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub betas: Vec<String>,
}

/// Reads all tables; the error names every table that is wrong, and the option.
pub fn read(value: &Value) -> Result<Vec<SpareConfig>, String> {
    tables::read(value, ("spare", MOST_CLASSES), check)
}

fn check(class: &SpareConfig) -> Result<(), String> {
    if !(1..=MOST_SPARES).contains(&class.count) {
        return Err(format!("count must be from 1 to {MOST_SPARES}, is {}", class.count));
    }
    if class.max_turns == Some(0) {
        return Err("max_turns must be at least 1, is 0".to_owned());
    }
    if class.max_budget_usd.is_some_and(|budget| !(budget > 0.0 && budget.is_finite())) {
        return Err("max_budget_usd must be over 0".to_owned());
    }
    if let Some(text) = &class.settings
        && !matches!(serde_json::from_str(text), Ok(serde_json::Value::Object(_)))
    {
        return Err("settings must be a JSON object".to_owned());
    }
    for (name, texts) in class.lists() {
        if texts.len() > MOST_TEXTS {
            return Err(format!("{name} must have at most {MOST_TEXTS} items"));
        }
        if texts.iter().any(|text| text.contains(['\0', '\n', '\r'])) {
            return Err(format!("{name} must not contain NUL bytes or line ends"));
        }
    }
    match class.setting_sources.iter().find(|it| !SETTING_SOURCES.contains(&it.as_str())) {
        Some(other) => {
            let known = SETTING_SOURCES.join(", ");
            Err(format!("setting_sources must only have {known} in it, not {other:?}"))
        }
        None => Ok(()),
    }
}

impl SpareConfig {
    fn lists(&self) -> [(&'static str, &Vec<String>); 6] {
        [
            ("allowed_tools", &self.allowed_tools),
            ("disallowed_tools", &self.disallowed_tools),
            ("tools", &self.tools),
            ("add_dirs", &self.add_dirs),
            ("setting_sources", &self.setting_sources),
            ("betas", &self.betas),
        ]
    }
}

/// All tables for a reader: settings may hold credentials.
pub fn show(classes: &[SpareConfig]) -> Value {
    let shown = |class: &SpareConfig| {
        let mut class = class.clone();
        if let Some(settings) = &mut class.settings {
            HIDDEN.clone_into(settings);
        }
        // Everything in it has a form in TOML.
        Value::try_from(class).unwrap_or_else(|_| Value::String(HIDDEN.into()))
    };
    Value::Array(classes.iter().map(shown).collect())
}
