//! JSON as the CLI prints it, read without ever giving up: by key, each value on its own.
//! Owns what counts as readable; knows nothing of frames.
//!
//! A value that is not as it should be is read as far as it can be, and otherwise left out;
//! it never spoils its neighbours. Of a key that comes twice the last value that can be
//! read counts. Surrogates without their other half, which JavaScript prints as escapes,
//! become U+FFFD in texts; the JSON text itself stays as it is. Depth does not matter:
//! values are skipped without recursion.
//!
//! Nearly every value is as it should be, and is read in one pass ([`mod@whole`]). Only where that
//! comes upon something odd is an object read by key, each value on its own.

mod object;
mod whole;

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;

pub use object::{Extra, Field, Rest};
pub(super) use object::{object, reader, view};
pub use whole::{Odd, Whole, once, whole};

/// Numbers above this are no longer exact in the CLI's own language: no count is so large.
const LARGEST_COUNT: f64 = 9_007_199_254_740_992.0;

/// A value kept as its JSON text.
pub type Json<'a> = Option<&'a RawValue>;

/// What became of reading a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Read<T> {
    /// It says no more than this.
    Whole(T),
    /// It says this, and something that is lost by reading it so.
    Part(T),
    /// It says nothing of the kind.
    Nothing,
}

impl<T> Read<T> {
    /// What it says, if anything.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Whole(value) | Self::Part(value) => Some(value),
            Self::Nothing => None,
        }
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Read<U> {
        match self {
            Self::Whole(value) => Read::Whole(change(value)),
            Self::Part(value) => Read::Part(change(value)),
            Self::Nothing => Read::Nothing,
        }
    }
}

/// What can be read from a JSON value.
pub trait Lenient<'a>: Sized {
    /// Reads a value.
    fn read(raw: &'a RawValue) -> Read<Self>;

    /// Reads a value as it comes. The same as [`Self::read`] where that is [`Read::Whole`];
    /// everything else is an error, and some of that may be, too.
    fn read_whole<D: Deserializer<'a>>(value: D) -> Result<Self, D::Error> {
        match Self::read(<&'a RawValue>::deserialize(value)?) {
            Read::Whole(value) => Ok(value),
            Read::Part(_) | Read::Nothing => Err(de::Error::custom(Odd)),
        }
    }
}

/// Reads a value, or takes the default for it.
pub fn read_or_default<'a, T: Lenient<'a> + Default>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| T::read(raw).value()).unwrap_or_default()
}

/// Whether a value is `null`.
pub fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// Text that is borrowed where its JSON has no escapes. `null` reads as empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    /// The text, as a string of its own.
    pub fn into_string(self) -> String {
        self.0.into_owned()
    }
}

impl<'a> Lenient<'a> for Text<'a> {
    fn read(raw: &'a RawValue) -> Read<Self> {
        let json = raw.get();
        if is_null(raw) {
            return Read::Whole(Self::default());
        }
        let Some(inner) = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Read::Nothing;
        };
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Read::Whole(Self(Cow::Borrowed(inner)));
        }
        match serde_json::from_str::<Unescaped>(json) {
            Ok(Unescaped(text)) => Read::Whole(Self(Cow::Owned(text))),
            Err(_) => Read::Nothing,
        }
    }

    fn read_whole<D: Deserializer<'a>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(whole::TextVisitor)
    }
}

/// A string with its escapes resolved. As bytes, serde_json keeps a surrogate without its
/// other half, in three bytes that are no UTF-8.
struct Unescaped(String);

impl<'de> Deserialize<'de> for Unescaped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Unescaped;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Unescaped, E> {
                Ok(Unescaped(without_surrogates(bytes)))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

/// One replacement character for each surrogate, as JavaScript does it.
fn without_surrogates(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        // The first byte of each: the two behind it are no beginning of anything.
        if chunk.invalid().first().is_some_and(|first| *first >= 0xC0) {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

impl<'a> Lenient<'a> for bool {
    fn read(raw: &'a RawValue) -> Read<Self> {
        match raw.get() {
            "true" => Read::Whole(true),
            "false" | "null" => Read::Whole(false),
            r#""true""# | "1" => Read::Part(true),
            r#""false""# | "0" => Read::Part(false),
            _ => Read::Nothing,
        }
    }
}

impl<'a> Lenient<'a> for f64 {
    fn read(raw: &'a RawValue) -> Read<Self> {
        if is_null(raw) {
            return Read::Whole(0.0);
        }
        let json = raw.get();
        let digits = json.trim_matches('"');
        match digits.parse::<Self>() {
            Ok(value) if !value.is_finite() => Read::Nothing,
            Ok(value) if digits.len() == json.len() => Read::Whole(value),
            Ok(value) => Read::Part(value),
            Err(_) => Read::Nothing,
        }
    }
}

/// What is counted: not below zero, without fractions.
impl<'a> Lenient<'a> for u64 {
    fn read(raw: &'a RawValue) -> Read<Self> {
        if let Ok(value) = raw.get().parse::<Self>() {
            return Read::Whole(value);
        }
        match f64::read(raw) {
            Read::Nothing => Read::Nothing,
            Read::Whole(value) | Read::Part(value) if !(0.0..=LARGEST_COUNT).contains(&value) => {
                Read::Nothing
            }
            Read::Whole(value) if value.fract() == 0.0 => Read::Whole(value as Self),
            Read::Whole(value) | Read::Part(value) => Read::Part(value as Self),
        }
    }
}

impl<'a> Lenient<'a> for u32 {
    fn read(raw: &'a RawValue) -> Read<Self> {
        let small = |value: u64| Self::try_from(value).ok();
        match u64::read(raw) {
            Read::Whole(value) => small(value).map_or(Read::Nothing, Read::Whole),
            Read::Part(value) => small(value).map_or(Read::Nothing, Read::Part),
            Read::Nothing => Read::Nothing,
        }
    }
}

impl<'a> Lenient<'a> for &'a RawValue {
    fn read(raw: &'a RawValue) -> Read<Self> {
        Read::Whole(raw)
    }
}

impl<'a, T: Lenient<'a>> Lenient<'a> for Option<T> {
    fn read(raw: &'a RawValue) -> Read<Self> {
        if is_null(raw) { Read::Whole(None) } else { T::read(raw).map(Some) }
    }

    fn read_whole<D: Deserializer<'a>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_option(whole::OptionVisitor(Whole::default()))
    }
}

/// Items that say nothing of the kind are left out. One that stands alone is a list of it.
impl<'a, T: Lenient<'a>> Lenient<'a> for Vec<T> {
    fn read(raw: &'a RawValue) -> Read<Self> {
        if is_null(raw) {
            return Read::Whole(Self::new());
        }
        if !raw.get().starts_with('[') {
            return match T::read(raw).value() {
                Some(value) => Read::Part(vec![value]),
                None => Read::Nothing,
            };
        }
        let Ok(items) = serde_json::from_str::<Vec<&'a RawValue>>(raw.get()) else {
            return Read::Nothing;
        };
        let mut whole = true;
        let mut values = Self::with_capacity(items.len());
        for item in items {
            let read = T::read(item);
            whole &= matches!(read, Read::Whole(_)) && !is_null(item);
            values.extend(read.value());
        }
        if whole { Read::Whole(values) } else { Read::Part(values) }
    }
}

/// Calls `each` with every key of an object, its JSON text and its value, in their order.
/// Returns false if the text is no JSON object; what came before may have been told.
pub fn members<'a>(json: &'a str, each: impl FnMut(&str, &'a RawValue, &'a RawValue)) -> bool {
    struct MembersVisitor<F>(F);
    impl<'de, F: FnMut(&str, &'de RawValue, &'de RawValue)> Visitor<'de> for MembersVisitor<F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
            while let Some(name) = map.next_key::<&'de RawValue>()? {
                let value = map.next_value::<&'de RawValue>()?;
                let key = Text::read(name).value().unwrap_or_default();
                (self.0)(&key.0, name, value);
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.deserialize_map(MembersVisitor(each)).and_then(|()| reader.end()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a, T: Lenient<'a>>(json: &'a str) -> Read<T> {
        T::read(serde_json::from_str(json).expect("JSON"))
    }

    fn text(json: &str) -> Option<String> {
        read::<Text<'_>>(json).value().map(Text::into_string)
    }

    #[test]
    fn d2_a_surrogate_alone_is_one_replacement_character() {
        for (json, wanted) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""a\ud83db""#, "a\u{fffd}b"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\uD83D\uDE00é""#, "\u{1f600}é"),
        ] {
            assert_eq!(text(json).as_deref(), Some(wanted), "{json}");
        }
    }

    #[test]
    fn d1_figures_are_read_as_far_as_they_can_be() {
        for (json, wanted) in [
            ("7", Read::Whole(7)),
            ("null", Read::Whole(0)),
            ("7.0", Read::Whole(7)),
            ("1.5", Read::Part(1)),
            ("\"12\"", Read::Part(12)),
            ("-1", Read::Nothing),
            ("1e400", Read::Nothing),
            ("1e30", Read::Nothing),
            ("{}", Read::Nothing),
            ("\"NaN\"", Read::Nothing),
        ] {
            assert_eq!(read::<u64>(json), wanted, "{json}");
        }
        assert_eq!(read::<u32>("4294967296"), Read::Nothing);
        assert_eq!(read::<f64>("\"0.5\""), Read::Part(0.5));
        assert_eq!(read::<bool>("\"true\""), Read::Part(true));
        let list = read::<Vec<Text<'_>>>(r#"["a",5,"b"]"#);
        assert_eq!(list, Read::Part(vec![Text("a".into()), Text("b".into())]));
        assert_eq!(read::<Vec<Text<'_>>>("null"), Read::Whole(vec![]));
    }
}
