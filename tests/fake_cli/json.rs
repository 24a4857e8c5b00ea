//! Writing JSON objects whose keys keep the order they are written in.
//!
//! The real CLI's key order matters to whoever reads its frames (`type` is not always the first key), and a map type
//! would sort it away. Knows nothing of the protocol.

use serde_json::Value;

/// A piece of finished JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json(pub String);

/// Something that can be written as one JSON value.
pub trait ToJson {
    fn write(&self, out: &mut String);
}

impl ToJson for Json {
    fn write(&self, out: &mut String) {
        out.push_str(&self.0);
    }
}

impl ToJson for str {
    fn write(&self, out: &mut String) {
        out.push('"');
        let mut plain = 0;
        for (at, byte) in self.bytes().enumerate() {
            let escape: &str = match byte {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                0..0x20 => "",
                _ => continue,
            };
            out.push_str(&self[plain..at]);
            plain = at + 1;
            if escape.is_empty() {
                out.push_str(&format!("\\u{byte:04x}"));
            } else {
                out.push_str(escape);
            }
        }
        out.push_str(&self[plain..]);
        out.push('"');
    }
}

impl ToJson for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl ToJson for Value {
    fn write(&self, out: &mut String) {
        out.push_str(&self.to_string());
    }
}

impl ToJson for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

impl ToJson for u64 {
    fn write(&self, out: &mut String) {
        out.push_str(&self.to_string());
    }
}

impl ToJson for f64 {
    fn write(&self, out: &mut String) {
        out.push_str(&self.to_string());
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => value.write(out),
            None => out.push_str("null"),
        }
    }
}

impl<T: ToJson> ToJson for [T] {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (at, item) in self.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            item.write(out);
        }
        out.push(']');
    }
}

impl<T: ToJson, const N: usize> ToJson for [T; N] {
    fn write(&self, out: &mut String) {
        self.as_slice().write(out);
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn write(&self, out: &mut String) {
        self.as_slice().write(out);
    }
}

impl<T: ToJson + ?Sized> ToJson for &T {
    fn write(&self, out: &mut String) {
        (**self).write(out);
    }
}

/// An object that is being written; `object!` is the short way to one.
#[derive(Clone, Debug)]
pub struct Object(String);

impl Object {
    pub fn new() -> Self {
        Self(String::from("{"))
    }

    pub fn put(&mut self, key: &str, value: &(impl ToJson + ?Sized)) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        key.write(&mut self.0);
        self.0.push(':');
        value.write(&mut self.0);
        self
    }

    /// Puts the key only when there is a value for it.
    pub fn put_some(&mut self, key: &str, value: Option<&(impl ToJson + ?Sized)>) -> &mut Self {
        if let Some(value) = value {
            self.put(key, value);
        }
        self
    }

    pub fn finish(&self) -> Json {
        Json(format!("{}}}", self.0))
    }
}

/// `object! { "key": value, … }`: a finished object, keys in this order.
macro_rules! object {
    ($($key:literal : $value:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut object = $crate::json::Object::new();
        $(object.put($key, &$value);)*
        object.finish()
    }};
}
pub(crate) use object;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_survive_a_round_trip_through_a_parser() {
        let awkward = "a\"b\\c\nd\te\u{1}f é 🦀\r";
        let line = object! { "text": awkward, "none": None::<bool>, "list": vec![1u64, 2] };
        let value: Value = serde_json::from_str(&line.0).expect("the writer made valid JSON");
        assert_eq!(value["text"], awkward);
        assert!(value["none"].is_null());
        assert_eq!(value["list"][1], 2);
    }

    #[test]
    fn keys_keep_their_order() {
        assert_eq!(object! { "z": true, "a": 0.5 }.0, r#"{"z":true,"a":0.5}"#);
    }
}
