//! The value of `policy.egress`: one of two words, or a list of hosts.

use toml::Value;

use crate::policy::egress::{MOST_PATTERNS, Pattern};

/// Where sessions may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EgressConfig {
    /// To wherever the machine can.
    #[default]
    Open,
    /// To the API gateway and nothing else.
    Gateway,
    /// To these hosts, beside the API gateway if there is one.
    Hosts(Vec<String>),
}

const OPEN: &str = "open";
const GATEWAY: &str = "gateway";

pub(super) fn read(value: &Value) -> Result<EgressConfig, String> {
    match value {
        Value::String(text) if text == OPEN => Ok(EgressConfig::Open),
        Value::String(text) if text == GATEWAY => Ok(EgressConfig::Gateway),
        Value::Array(items) if items.len() <= MOST_PATTERNS => {
            let host = |item: &Value| {
                let text = item.as_str().ok_or("each item must be a string")?;
                let parsed = text.parse::<Pattern>();
                parsed.map_err(|problem| format!("{text:?} {problem}"))?;
                Ok(text.to_owned())
            };
            items.iter().map(host).collect::<Result<_, String>>().map(EgressConfig::Hosts)
        }
        Value::Array(items) => {
            Err(format!("must have at most {MOST_PATTERNS} items, has {}", items.len()))
        }
        _ => Err(format!("must be {OPEN}, {GATEWAY}, or a list of hosts")),
    }
}

pub(super) fn show(egress: &EgressConfig) -> Value {
    match egress {
        EgressConfig::Open => OPEN.into(),
        EgressConfig::Gateway => GATEWAY.into(),
        EgressConfig::Hosts(hosts) => hosts.clone().into(),
    }
}
