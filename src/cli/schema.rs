//! Which JSON schemas the CLI takes for structured output, and whether an answer fits one.
//! The CLI drops a schema that it cannot use without a word and answers in prose, so what
//! is known to be dropped is refused before. Knows draft-07, the CLI's dialect, as far as
//! it takes to say "surely not": what is not surely wrong passes.
//!
//! Source: observed on 2.1.197 to 2.1.332 (`$schema` of another draft, a `$ref` that leads
//! nowhere, an unknown type, an array at the top).

use serde_json::{Map, Value};

/// The only dialect that the CLI knows, by its two names.
const DIALECTS: [&str; 2] =
    ["http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-07/schema"];
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];
/// Keywords whose value is a schema.
const ONE: [&str; 9] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords whose value names schemas.
const NAMED: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// What is wrong with a schema for structured output, and where in it.
pub fn problem(schema: &Map<String, Value>) -> Option<String> {
    if let Some(dialect) = schema.get("$schema")
        && !dialect.as_str().is_some_and(|dialect| DIALECTS.contains(&dialect))
    {
        return Some(format!("$schema must be {} or absent", DIALECTS[0]));
    }
    if schema.get("type") != Some(&Value::from("object")) {
        return Some("type must be \"object\" at the top".to_owned());
    }
    let whole = Value::Object(schema.clone());
    let mut ids = Vec::new();
    collect_ids(&whole, &mut ids);
    problem_of(&whole, "", &whole, &ids)
}

fn collect_ids(value: &Value, ids: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            ids.extend(members.get("$id").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| collect_ids(member, ids));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_ids(item, ids)),
        _ => {}
    }
}

fn problem_of(schema: &Value, at: &str, whole: &Value, ids: &[String]) -> Option<String> {
    let members = match schema {
        Value::Bool(_) => return None,
        Value::Object(members) => members,
        _ => return Some(format!("{} must be a schema: an object or a boolean", named(at))),
    };
    let below = |value: &Value, path: String| problem_of(value, &path, whole, ids);
    for (key, value) in members {
        let path = format!("{at}/{key}");
        let found = match (key.as_str(), value) {
            ("type", value) => (!is_type(value))
                .then(|| format!("{} must be of {}", named(&path), TYPES.join(", "))),
            ("$ref", value) => (!leads_somewhere(value, whole, ids))
                .then(|| format!("{} must lead to a schema in the same object", named(&path))),
            ("required", value) => {
                (!are_texts(value)).then(|| format!("{} must be a list of names", named(&path)))
            }
            ("enum", value) => {
                (!value.is_array()).then(|| format!("{} must be a list", named(&path)))
            }
            ("items", Value::Array(items)) => each(items, &path, below),
            (key, Value::Array(items)) if LISTS.contains(&key) => each(items, &path, below),
            (key, _) if LISTS.contains(&key) => {
                Some(format!("{} must be a list of schemas", named(&path)))
            }
            (key, Value::Object(inner)) if NAMED.contains(&key) => {
                inner.iter().find_map(|(name, value)| below(value, format!("{path}/{name}")))
            }
            (key, _) if NAMED.contains(&key) => {
                Some(format!("{} must be an object of schemas", named(&path)))
            }
            (key, value) if ONE.contains(&key) => below(value, path),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn each(
    items: &[Value],
    path: &str,
    below: impl Fn(&Value, String) -> Option<String>,
) -> Option<String> {
    items.iter().enumerate().find_map(|(index, item)| below(item, format!("{path}/{index}")))
}

/// A place for a message: its end, if it is long.
fn named(at: &str) -> String {
    let plain: String = at.chars().filter(|c| !c.is_control()).collect();
    let from = plain.char_indices().rev().nth(99).map_or(0, |(index, _)| index);
    if plain.is_empty() { "the top".to_owned() } else { plain[from..].to_owned() }
}

fn is_type(value: &Value) -> bool {
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    match value {
        Value::Array(names) => !names.is_empty() && names.iter().all(known),
        value => known(value),
    }
}

fn are_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_string))
}

fn leads_somewhere(target: &Value, whole: &Value, ids: &[String]) -> bool {
    let Some(target) = target.as_str() else { return false };
    let (document, fragment) = target.split_once('#').unwrap_or((target, ""));
    if !document.is_empty() {
        return ids.iter().any(|id| id.trim_end_matches('#').ends_with(document));
    }
    match fragment {
        "" => true,
        // Escaped, or the name of an anchor: not looked for.
        fragment if fragment.contains('%') => true,
        fragment if fragment.starts_with('/') => {
            whole.pointer(fragment).is_some_and(|found| found.is_object() || found.is_boolean())
        }
        fragment => ids.iter().any(|id| id.trim_start_matches('#') == fragment),
    }
}

/// Whether an answer may fit a schema: false if it surely does not. The CLI has checked it
/// with all of the schema if it took it.
pub fn fits(schema: &str, answer: &str) -> bool {
    match (serde_json::from_str(schema), serde_json::from_str::<Value>(answer)) {
        (Ok(schema), Ok(answer)) => answer.is_object() && may_fit(&schema, &answer),
        // Deeper than can be read here: no reason to doubt it.
        _ => answer.starts_with('{'),
    }
}

fn may_fit(schema: &Value, answer: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return *schema != Value::Bool(false) };
    // Beside a reference nothing else counts.
    if schema.contains_key("$ref") {
        return true;
    }
    let of_type = |wanted: &Value| wanted.as_str().is_none_or(|wanted| is_a(answer, wanted));
    let type_fits = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(of_type),
        Some(wanted) => of_type(wanted),
        None => true,
    };
    let listed = schema.get("enum").and_then(Value::as_array);
    type_fits
        && listed.is_none_or(|listed| listed.contains(answer))
        && schema.get("const").is_none_or(|only| only == answer)
        && members_may_fit(schema, answer)
        && match (schema.get("items"), answer) {
            (Some(items @ Value::Object(_)), Value::Array(answers)) => {
                answers.iter().all(|answer| may_fit(items, answer))
            }
            _ => true,
        }
}

fn members_may_fit(schema: &Map<String, Value>, answer: &Value) -> bool {
    let Some(answer) = answer.as_object() else { return true };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    required.filter_map(Value::as_str).all(|name| answer.contains_key(name))
        && properties
            .into_iter()
            .all(|(name, schema)| answer.get(name).is_none_or(|answer| may_fit(schema, answer)))
}

fn is_a(answer: &Value, wanted: &str) -> bool {
    match wanted {
        "array" => answer.is_array(),
        "boolean" => answer.is_boolean(),
        "integer" => answer.as_f64().is_some_and(|number| number.fract() == 0.0),
        "null" => answer.is_null(),
        "number" => answer.is_number(),
        "object" => answer.is_object(),
        "string" => answer.is_string(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem_in(schema: Value) -> Option<String> {
        let Value::Object(schema) = schema else { panic!("no object") };
        problem(&schema)
    }

    #[test]
    fn d6_a_schema_that_the_cli_would_drop_is_named() {
        for (schema, told) in [
            (json!({"type": "array", "items": {"type": "string"}}), "type"),
            (json!({"properties": {}}), "type"),
            (
                json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}),
                "$schema",
            ),
            (
                json!({"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"}),
                "$schema",
            ),
            (json!({"$schema": 7, "type": "object"}), "$schema"),
            (
                json!({"type": "object", "properties": {"a": {"$ref": "#/definitions/b"}}}),
                "/properties/a/$ref",
            ),
            (
                json!({"type": "object", "properties": {"a": {"$ref": "https://example.org/x"}}}),
                "/properties/a/$ref",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "text"}}}),
                "/properties/a/type",
            ),
            (json!({"type": "object", "properties": {"a": {"type": []}}}), "/properties/a/type"),
            (
                json!({"type": "object", "properties": {"a": "string"}}),
                "/properties/a must be a schema",
            ),
            (json!({"type": "object", "properties": []}), "/properties must be an object"),
            (json!({"type": "object", "required": "a"}), "/required"),
            (json!({"type": "object", "anyOf": [{"not": {"type": 5}}]}), "/anyOf/0/not/type"),
            (
                json!({"type": "object", "properties": {"a": {"items": [{"enum": 1}]}}}),
                "/items/0/enum",
            ),
        ] {
            let found = problem_in(schema.clone()).unwrap_or_default();
            assert!(found.contains(told), "{schema}: {found:?}");
        }
        for schema in [
            json!({"type": "object"}),
            json!({"$schema": DIALECTS[0], "type": "object", "additionalProperties": false}),
            json!({"type": "object", "properties": {"type": {"type": ["string", "null"]}, "$ref": true}}),
            json!({"type": "object", "properties": {"a": {"$ref": "#/definitions/b~1c"}}, "definitions": {"b/c": {}}}),
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "default": {"type": "nonsense"}}),
            json!({"type": "object", "definitions": {"b": {"$id": "#b"}}, "allOf": [{"$ref": "#b"}]}),
        ] {
            assert_eq!(problem_in(schema.clone()), None, "{schema}");
        }
    }

    #[test]
    fn d6_an_answer_that_surely_does_not_fit_is_none() {
        let schema = json!({"type": "object", "required": ["n"], "properties": {
            "n": {"type": "integer"}, "l": {"items": {"enum": ["a"]}}}})
        .to_string();
        for (answer, wanted) in [
            (r#"{"n":1}"#, true),
            (r#"{"n":1.0,"l":["a"],"x":5}"#, true),
            ("{}", false),
            (r#"{"n":"1"}"#, false),
            (r#"{"n":1,"l":["b"]}"#, false),
            ("[1]", false),
            ("null", false),
        ] {
            assert_eq!(fits(&schema, answer), wanted, "{answer}");
        }
    }
}
