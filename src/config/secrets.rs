//! What is not shown to anybody: values that look like credentials by their name.

use std::borrow::Cow;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "<hidden>";

/// Whether what goes by this name should not be shown.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "AUTH", "CREDENTIAL"]
        .iter()
        .any(|word| name.contains(word))
}

/// A value as it may be shown: hidden by its name, or because it is an address with a
/// password in it.
pub fn shown_value<'a>(name: &str, value: &'a str) -> &'a str {
    let password = value
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next())
        .is_some_and(|authority| authority.contains('@'));
    if password || is_secret(name) { HIDDEN } else { value }
}

/// A connection string as it may be shown: without its passwords. What is not of the right form
/// is taken for one rather than not.
pub fn shown_url(url: &str) -> String {
    let (before, query) = match url.split_once('?') {
        // A password that was not encoded may have any character in it.
        Some((before, query)) if !query.contains('@') => (before, Some(query)),
        _ => (url, None),
    };
    let mut shown = match (before.split_once("://"), before.rsplit_once('@')) {
        (Some((scheme, rest)), Some((_, place))) => {
            let user = rest.split([':', '@']).next().unwrap_or_default();
            format!("{scheme}://{user}:{HIDDEN}@{place}")
        }
        (None, Some(_)) => HIDDEN.to_owned(),
        (_, None) => before.to_owned(),
    };
    for (number, parameter) in query.iter().flat_map(|query| query.split('&')).enumerate() {
        let name = parameter.split('=').next().unwrap_or_default();
        shown.push(if number == 0 { '?' } else { '&' });
        match is_secret(name) {
            true => shown.push_str(&format!("{name}={HIDDEN}")),
            false => shown.push_str(parameter),
        }
    }
    shown
}

/// An address that must have no credentials in it, as it may be shown: nothing of one that has.
pub fn shown_address(url: &str) -> &str {
    if url.contains('@') { HIDDEN } else { url }
}

/// An argument as it may be shown. Settings and MCP servers hold credentials.
pub fn shown_argument(argument: &str) -> Cow<'_, str> {
    match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => {
            let delicate = ["--settings", "--mcp-config", "--agents"].contains(&flag);
            let shown = if delicate { HIDDEN } else { shown_value(flag, value) };
            if shown == value { argument.into() } else { format!("{flag}={shown}").into() }
        }
        _ => argument.into(),
    }
}
