//! The configuration in force, as TOML that loads to the same configuration.

use toml::{Table, Value};

use super::{
    Config, egress,
    fields::{Slot, fields},
    secrets::{shown_argument, shown_url, shown_value},
    spares, tables,
    units::{show_bytes, show_duration},
};

/// The whole configuration as TOML, with `<hidden>` in the place of secrets.
pub fn print(config: &Config) -> String {
    let mut config = config.clone();
    let mut text = String::new();
    let mut section = "";
    for field in fields(&mut config) {
        let (its_section, name) = field.key.rsplit_once('.').unwrap_or(("", field.key));
        if its_section != section {
            text += &format!("\n[{its_section}]\n");
            section = its_section;
        }
        text += &format!("{name} = {}\n", value(field.slot));
    }
    text
}

fn value(slot: Slot<'_>) -> Value {
    match slot {
        Slot::Flag(place) => Value::Boolean(*place),
        Slot::Count(place, _) => {
            i64::try_from(*place).map_or_else(|_| Value::String(place.to_string()), Value::Integer)
        }
        Slot::Amount(place, _) => Value::Float(*place),
        Slot::Bytes(place, _) => Value::String(show_bytes(*place as u64)),
        Slot::LargeBytes(place, _) => Value::String(show_bytes(*place)),
        Slot::Duration(place, _) | Slot::DurationOrOff(place, _) => {
            Value::String(show_duration(*place))
        }
        Slot::Address(place) => Value::String(place.to_string()),
        Slot::OptionalAddress(place) => {
            Value::String(place.map(|address| address.to_string()).unwrap_or_default())
        }
        Slot::OptionalPath(place) => Value::String(
            place.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        ),
        Slot::Path(place) => Value::String(place.to_string_lossy().into_owned()),
        Slot::Text(place) => Value::String(place.clone()),
        Slot::Url(place) => Value::String(shown_url(place)),
        Slot::Texts(place, _) => {
            let items = place.iter().map(|item| Value::String(shown_argument(item).into_owned()));
            items.collect::<Vec<_>>().into()
        }
        Slot::Store(place) => Value::String(place.as_str().into()),
        Slot::Format(place) => Value::String(place.as_str().into()),
        Slot::FileMentions(place) => Value::String(place.as_str().into()),
        Slot::McpServers(place) => Value::String(place.as_str().into()),
        Slot::Sandbox(place) => Value::String(place.as_str().into()),
        Slot::Cgroups(place) => Value::String(place.as_str().into()),
        Slot::Spares(place) => spares::show(place),
        Slot::Rules(place) => tables::show(place),
        Slot::Egress(place) => egress::show(place),
        Slot::TenantCredentials(place) => tables::show(place),
        Slot::Prices(place) => tables::show(place),
        Slot::Variables(place, _) => {
            let variables: Table = place
                .iter()
                .map(|(name, value)| {
                    let shown = shown_value(name, value);
                    (name.clone(), Value::String(shown.into()))
                })
                .collect();
            Value::Table(variables)
        }
    }
}
