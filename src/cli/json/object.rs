//! Objects that are declared by their keys, read from JSON text. Owns what becomes of keys
//! that come twice, of keys without a field and of values that cannot be read.

use serde::de::{IgnoredAny, MapAccess};
use serde_json::value::RawValue;

use super::{Lenient, Read, is_null};

/// Bytes that are reserved with the first key that has no field: an object that has one usually has
/// several.
const FIRST_ROOM: usize = 128;

/// The keys of an object that have no field, on the way to one JSON object.
#[derive(Debug, Default)]
pub struct Extra(String);

/// Where values go that no field says.
pub trait Rest {
    /// Takes a key, given as its JSON text.
    fn push(&mut self, name: &str, value: &RawValue);

    /// Takes a key without escapes, whose value comes next.
    fn take<'a, M: MapAccess<'a>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error>;
}

/// Nobody asks for them.
impl Rest for () {
    fn push(&mut self, _: &str, _: &RawValue) {}

    fn take<'a, M: MapAccess<'a>>(&mut self, _: &str, map: &mut M) -> Result<(), M::Error> {
        map.next_value::<IgnoredAny>().map(drop)
    }
}

impl Rest for Extra {
    fn push(&mut self, name: &str, value: &RawValue) {
        self.begin();
        self.0.push_str(name);
        self.0.push(':');
        self.0.push_str(value.get());
    }

    fn take<'a, M: MapAccess<'a>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        let value = map.next_value::<&'a RawValue>()?;
        self.begin();
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
        self.0.push_str(value.get());
        Ok(())
    }
}

impl Extra {
    /// Begins a member.
    fn begin(&mut self) {
        if self.0.is_empty() {
            self.0.reserve(FIRST_ROOM);
            self.0.push('{');
        } else {
            self.0.push(',');
        }
    }

    /// The object; empty text without keys.
    pub fn finish(mut self) -> String {
        if !self.0.is_empty() {
            self.0.push('}');
        }
        self.0
    }
}

/// A field on its way: the last value that can be read, and what it says.
#[derive(Debug)]
pub struct Field<'a, T> {
    raw: Option<&'a RawValue>,
    read: Read<T>,
}

impl<T> Default for Field<'_, T> {
    fn default() -> Self {
        Self { raw: None, read: Read::Nothing }
    }
}

impl<'a, T: Lenient<'a> + Default> Field<'a, T> {
    /// Takes a value. The one that does not count is not lost.
    pub fn put(&mut self, name: &str, value: &'a RawValue, extra: &mut impl Rest) {
        let read = T::read(value);
        let Some(before) = self.raw else {
            *self = Self { raw: Some(value), read };
            return;
        };
        let says_more = !matches!(read, Read::Nothing) && !is_null(value);
        if says_more || matches!(self.read, Read::Nothing) {
            *self = Self { raw: Some(value), read };
            extra.push(name, before);
        } else {
            extra.push(name, value);
        }
    }

    /// What it says; what that loses stays with the keys that have no field.
    pub fn take(self, name: &str, extra: &mut impl Rest) -> T {
        if let (Some(raw), Read::Part(_) | Read::Nothing) = (self.raw, &self.read) {
            extra.push(name, raw);
        }
        self.read.value().unwrap_or_default()
    }
}

/// Declares an object by its keys; `null` and what cannot be read are the field's default.
/// What no field says is kept as `extra`.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $key:literal => $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $type,)*
            /// The other keys, and what of these cannot be read, as one JSON object; empty
            /// without any.
            pub extra: String,
            /// Some objects hold nothing that borrows; all have the same form.
            line: std::marker::PhantomData<&'a ()>,
        }

        $crate::cli::json::reader! {
            $name { $($key => $field: $type,)* }
            rest = $crate::cli::json::Extra::default(),
            |rest| { extra: rest.finish() }
        }
    };
}

/// As `object`, of which only the fields are wanted.
macro_rules! view {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $key:literal => $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Some objects hold nothing that borrows; all have the same form.
            line: std::marker::PhantomData<&'a ()>,
        }

        $crate::cli::json::reader! {
            $name { $($key => $field: $type,)* }
            rest = (),
            |rest| {}
        }
    };
}

/// How both are read.
macro_rules! reader {
    (
        $name:ident { $($key:literal => $field:ident: $type:ty,)* }
        rest = $rest:expr,
        |$left:ident| { $($kept:ident: $finished:expr)? }
    ) => {
        impl<'a> $name<'a> {
            /// Reads an object from its JSON text; `None` if it is none.
            pub fn parse(json: &'a str) -> Option<Self> {
                $crate::cli::json::whole(json).or_else(|| Self::by_key(json))
            }

            fn by_key(json: &'a str) -> Option<Self> {
                let mut $left = $rest;
                $(let mut $field = $crate::cli::json::Field::<'a, $type>::default();)*
                let is_object = $crate::cli::json::members(json, |key, name, value| match key {
                    $($key => $field.put(name.get(), value, &mut $left),)*
                    _ => $crate::cli::json::Rest::push(&mut $left, name.get(), value),
                });
                is_object.then(|| Self {
                    $($field: $field.take(concat!("\"", $key, "\""), &mut $left),)*
                    $($kept: $finished,)?
                    line: std::marker::PhantomData,
                })
            }
        }

        impl<'a> $crate::cli::json::Lenient<'a> for $name<'a> {
            fn read(raw: &'a serde_json::value::RawValue) -> $crate::cli::json::Read<Self> {
                if $crate::cli::json::is_null(raw) {
                    return $crate::cli::json::Read::Whole(Self::default());
                }
                match Self::parse(raw.get()) {
                    // What it cannot say it has in its own extra.
                    Some(object) => $crate::cli::json::Read::Whole(object),
                    None => $crate::cli::json::Read::Nothing,
                }
            }

            fn read_whole<D: serde::Deserializer<'a>>(value: D) -> Result<Self, D::Error> {
                struct ObjectVisitor;

                impl<'a> serde::de::Visitor<'a> for ObjectVisitor {
                    type Value = $name<'a>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_unit<E: serde::de::Error>(self) -> Result<$name<'a>, E> {
                        Ok($name::default())
                    }

                    fn visit_map<M>(self, mut map: M) -> Result<$name<'a>, M::Error>
                    where
                        M: serde::de::MapAccess<'a>,
                    {
                        let mut $left = $rest;
                        $(let mut $field: Option<$type> = None;)*
                        while let Some(key) = map.next_key::<&'a str>()? {
                            match key {
                                $($key => {
                                    let seed = $crate::cli::json::Whole::<$type>::default();
                                    let value = map.next_value_seed(seed)?;
                                    $crate::cli::json::once(&mut $field, value)?;
                                })*
                                _ => $crate::cli::json::Rest::take(&mut $left, key, &mut map)?,
                            }
                        }
                        Ok($name {
                            $($field: $field.unwrap_or_default(),)*
                            $($kept: $finished,)?
                            line: std::marker::PhantomData,
                        })
                    }
                }

                value.deserialize_any(ObjectVisitor)
            }
        }
    };
}

pub(in crate::cli) use {object, reader, view};

#[cfg(test)]
mod tests {
    use super::super::Text;

    object! {
        /// For these tests.
        Sample {
            /// A count.
            "n" => n: u64,
            /// A text.
            "t" => t: Text<'a>,
        }
    }

    #[test]
    fn d1_of_a_key_that_comes_twice_the_last_that_can_be_read_counts_and_none_is_lost() {
        let sample = Sample::parse(r#"{"n":1,"x":{},"n":2,"n":null,"t":7,"t":"a","t":[]}"#);
        let sample = sample.expect("an object");
        assert_eq!((sample.n, &*sample.t.0), (2, "a"));
        assert_eq!(sample.extra, r#"{"x":{},"n":1,"n":null,"t":7,"t":[]}"#);
    }

    #[test]
    fn d1_depth_and_odd_keys_do_not_matter() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let json = format!(r#"{{"\ud800":{deep},"n":1e400,"t":"a"}}"#);
        let sample = Sample::parse(&json).expect("an object");
        assert_eq!(&*sample.t.0, "a");
        assert_eq!(sample.extra, format!(r#"{{"\ud800":{deep},"n":1e400}}"#));
        assert!(Sample::parse("[1]").is_none());
        assert!(Sample::parse(r#"{"n":1"#).is_none());
    }
}
