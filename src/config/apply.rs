//! The typed step: puts settings into their places, or says why they do not fit.

use std::{
    collections::BTreeMap, fmt::Display, net::SocketAddr, ops::RangeInclusive, time::Duration,
};

use toml::Value;

use super::{
    CgroupMode, Config, FileMentions, LogFormat, SandboxMode, StoreKind, ValueOrigin, Violation,
    egress,
    fields::{ENV_TABLE, Slot, fields},
    gateway, rules,
    secrets::{HIDDEN, is_secret},
    source::{Setting, Settings},
    spares,
    spelling::nearest,
    units::{BYTE_SIZE, DURATION, parse_bytes, parse_duration, show_bytes, show_duration},
    variables::{keys, variable_of},
};
use crate::policy::{McpServers, variables::is_name};

/// Keys, and beginnings of keys, that belong to versions to come.
const LATER: [&str; 1] = ["policy.tenants"];

/// Keys that earlier versions had, and what they are called now.
const RENAMED: [(&str, &str); 1] = [("cli.visible_paths", "sandbox.readable")];

/// Sets every key that fits; tells of all that do not.
pub fn apply(config: &mut Config, settings: &Settings) -> Vec<Violation> {
    let mut places: BTreeMap<_, _> =
        fields(config).into_iter().map(|field| (field.key, field.slot)).collect();
    let mut violations = Vec::new();
    for (key, setting) in settings.iter() {
        let outcome = match (places.get_mut(key), key.strip_prefix(ENV_TABLE)) {
            (Some(slot), _) => set(slot, &setting.value),
            (None, Some(rest)) => match (places.get_mut(ENV_TABLE), rest.strip_prefix('.')) {
                (Some(slot), Some(name)) => set_variable(slot, name, &setting.value),
                _ => Err(unknown(key, &setting.origin)),
            },
            (None, None) => Err(unknown(key, &setting.origin)),
        };
        if let Err(problem) = outcome {
            violations.push(Violation {
                key: key.into(),
                value: shown(key, setting),
                problem,
                origin: setting.origin.clone(),
            });
        }
    }
    violations
}

fn unknown(key: &str, origin: &ValueOrigin) -> String {
    let later = LATER.iter().any(|name| {
        key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    if later {
        return "this version does not have it yet".into();
    }
    // As whoever set it has to write it.
    let shown = |key: &str| match origin {
        ValueOrigin::Environment(_) => variable_of(key),
        _ => key.to_owned(),
    };
    if let Some((_, now)) = RENAMED.iter().find(|(former, _)| *former == key) {
        return format!("is called {} now", shown(now));
    }
    match nearest(key, keys()) {
        Some(near) => format!("unknown key; did you mean {}?", shown(near.name)),
        None => "unknown key".into(),
    }
}

/// The value for a message. What may hold a secret is not shown: by its name, because it
/// stands where secrets stand and is not of the right form, or because nobody knows what it is,
/// such as the value of a misspelled `cli.env`.
fn shown(key: &str, setting: &Setting) -> Option<String> {
    let plain = matches!(setting.value, Value::Integer(_) | Value::Float(_) | Value::Boolean(_));
    let known = keys().any(|known| known == key);
    let delicate = [
        ENV_TABLE,
        "cli.env_files",
        "cli.extra_args",
        "spare",
        "store.url",
        "traces.otlp_endpoint",
        "gateway.upstream",
        "gateway.tenant",
    ]
    .contains(&key);
    if delicate || is_secret(key.trim_start_matches("auth.")) || (!plain && !known) {
        return Some(HIDDEN.into());
    }
    // Whatever is wrong with rules names its table, and there may be hundreds of them.
    (key != "policy.rule").then(|| setting.value.to_string())
}

fn set(slot: &mut Slot<'_>, value: &Value) -> Result<(), String> {
    match slot {
        Slot::Flag(place) => **place = value.as_bool().ok_or("must be true or false")?,
        Slot::Count(place, bound) => **place = count(value, bound)?,
        Slot::Amount(place, bound) => **place = amount(value, bound)?,
        Slot::Bytes(place, bound) => {
            **place = usize::try_from(bytes(value, bound)?)
                .map_err(|_| format!("must be at most {}", show_bytes(usize::MAX as u64)))?;
        }
        Slot::LargeBytes(place, bound) => **place = bytes(value, bound)?,
        Slot::Duration(place, bound) => **place = duration(value, bound)?,
        Slot::DurationOrOff(place, bound) => **place = duration_or_off(value, bound)?,
        Slot::Address(place) => **place = address(text(value)?)?,
        Slot::OptionalAddress(place) => {
            **place =
                Some(text(value)?).filter(|text| !text.is_empty()).map(address).transpose()?;
        }
        Slot::OptionalPath(place) => {
            let path = Some(text(value)?).filter(|text| !text.is_empty());
            **place = path.map(not_empty).transpose()?.map(Into::into);
        }
        Slot::Path(place) => **place = not_empty(text(value)?)?.into(),
        Slot::Text(place) | Slot::Url(place) => **place = text(value)?.into(),
        Slot::Texts(place, max) => **place = texts(value, *max)?,
        Slot::Format(place) => **place = named(text(value)?, LogFormat::ALL, LogFormat::as_str)?,
        Slot::Store(place) => **place = named(text(value)?, StoreKind::ALL, StoreKind::as_str)?,
        Slot::FileMentions(place) => {
            **place = named(text(value)?, FileMentions::ALL, FileMentions::as_str)?;
        }
        Slot::McpServers(place) => **place = mcp_servers_named(text(value)?)?,
        Slot::Sandbox(place) => {
            **place = named(text(value)?, SandboxMode::ALL, SandboxMode::as_str)?;
        }
        Slot::Cgroups(place) => {
            **place = named(text(value)?, CgroupMode::ALL, CgroupMode::as_str)?;
        }
        Slot::Spares(place) => **place = spares::read(value)?,
        Slot::Rules(place) => **place = rules::read(value)?,
        Slot::Egress(place) => **place = egress::read(value)?,
        Slot::TenantCredentials(place) => **place = gateway::read_tenants(value)?,
        Slot::Prices(place) => **place = gateway::read_prices(value)?,
        Slot::Variables(..) => {
            return Err("must be a table of strings like { NAME = \"value\" }".into());
        }
    }
    Ok(())
}

fn set_variable(slot: &mut Slot<'_>, name: &str, value: &Value) -> Result<(), String> {
    let Slot::Variables(place, max) = slot else {
        return Err("is not a table".into());
    };
    if !is_name(name) {
        return Err(
            "must be named like an environment variable: letters, digits and _, no digit first"
                .into(),
        );
    }
    let value = text(value)?;
    if value.contains('\0') {
        return Err("must not contain a NUL byte".into());
    }
    if place.len() >= *max {
        return Err(format!("must be one of at most {max}"));
    }
    place.insert(name.into(), value.into());
    Ok(())
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("must be a string, not {}", kind(value)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port like \"127.0.0.1:50051\"".into())
}

fn not_empty(text: &str) -> Result<&str, String> {
    match text {
        "" => Err("must not be empty".into()),
        text if text.contains('\0') => Err("must not contain a NUL byte".into()),
        text => Ok(text),
    }
}

fn texts(value: &Value, max: usize) -> Result<Vec<String>, String> {
    let form = || "must be a list of strings like [\"a\", \"b\"]".to_string();
    let items = value.as_array().ok_or_else(form)?;
    if items.len() > max {
        return Err(format!("must have at most {max} items, has {}", items.len()));
    }
    items.iter().map(|item| item.as_str().map(String::from).ok_or_else(form)).collect()
}

fn count(value: &Value, bound: &RangeInclusive<usize>) -> Result<usize, String> {
    let (min, max) = (bound.start(), bound.end());
    let number =
        value.as_integer().ok_or_else(|| format!("must be a whole number from {min} to {max}"))?;
    match usize::try_from(number) {
        Ok(number) if bound.contains(&number) => Ok(number),
        _ => Err(out_of(min, max)),
    }
}

fn amount(value: &Value, bound: &RangeInclusive<f64>) -> Result<f64, String> {
    let (min, max) = (bound.start(), bound.end());
    #[expect(clippy::cast_precision_loss, reason = "what is lost of a whole number is no matter")]
    let number = match value {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Err(format!("must be a number from {min} to {max}")),
    };
    // No comparison holds for what is not a number.
    if bound.contains(&number) { Ok(number) } else { Err(out_of(min, max)) }
}

fn bytes(value: &Value, bound: &RangeInclusive<u64>) -> Result<u64, String> {
    let (min, max) = (show_bytes(*bound.start()), show_bytes(*bound.end()));
    let bytes = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) => {
            Some(parse_bytes(text).map_err(|problem| format!("{problem} (from {min} to {max})"))?)
        }
        _ => return Err(format!("{BYTE_SIZE} (from {min} to {max})")),
    };
    bytes.filter(|bytes| bound.contains(bytes)).ok_or_else(|| out_of(min, max))
}

fn duration(value: &Value, bound: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let parsed = parsed_duration(value);
    within(parsed.map_err(|problem| format!("{problem} ({})", range(bound)))?, bound)
}

fn duration_or_off(value: &Value, bound: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let parsed = parsed_duration(value);
    let duration =
        parsed.map_err(|problem| format!("{problem} ({}, or 0 for off)", range(bound)))?;
    if duration.is_zero() {
        return Ok(duration);
    }
    within(duration, bound).map_err(|problem| format!("{problem}, or 0 for off"))
}

fn parsed_duration(value: &Value) -> Result<Duration, String> {
    match value {
        Value::Integer(number) => parse_duration(&number.to_string()),
        Value::String(text) => parse_duration(text),
        _ => Err(DURATION.into()),
    }
}

fn within(duration: Duration, bound: &RangeInclusive<Duration>) -> Result<Duration, String> {
    if bound.contains(&duration) { Ok(duration) } else { Err(format!("must be {}", range(bound))) }
}

fn range(bound: &RangeInclusive<Duration>) -> String {
    format!("over 0 and at most {}", show_duration(*bound.end()))
}

fn out_of(min: impl Display, max: impl Display) -> String {
    format!("must be from {min} to {max}")
}

fn named<T: Copy, const N: usize>(
    name: &str,
    all: [T; N],
    name_of: fn(T) -> &'static str,
) -> Result<T, String> {
    let found = all.into_iter().find(|value| name_of(*value) == name);
    found.ok_or_else(|| one_of(&all.map(name_of)))
}

fn mcp_servers_named(name: &str) -> Result<McpServers, String> {
    McpServers::ALL
        .into_iter()
        .find(|servers| servers.as_str() == name)
        .ok_or_else(|| one_of(&McpServers::ALL.map(McpServers::as_str)))
}

fn one_of(names: &[&str]) -> String {
    format!("must be one of {}", names.join(", "))
}
