//! One pass over the JSON text of an object, for what the CLI prints as it should. Whatever is
//! odd is an error, upon which the object is read by key: a key that comes twice or has escapes,
//! a value that loses something by being read. Owns nothing of what odd values mean.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, Visitor},
};

use super::{Lenient, Text};

/// A value is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value that has to be read by itself")]
pub struct Odd;

/// Reads an object from its JSON text; `None` if anything about it is odd.
pub fn whole<'a, T: Lenient<'a>>(json: &'a str) -> Option<T> {
    // `null` reads as an object without keys where it is a value, and not where it is all there is.
    if json.as_bytes().first() != Some(&b'{') {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let object = T::read_whole(&mut reader).ok()?;
    reader.end().ok()?;
    Some(object)
}

/// Sets a field that no key has set before.
pub fn once<T, E: de::Error>(field: &mut Option<T>, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(Odd)),
    }
}

/// Reads a value as it comes.
#[derive(Debug)]
pub struct Whole<T>(PhantomData<T>);

impl<T> Default for Whole<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<'a, T: Lenient<'a>> DeserializeSeed<'a> for Whole<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'a>>(self, value: D) -> Result<T, D::Error> {
        T::read_whole(value)
    }
}

/// A text, or `null`.
pub(super) struct TextVisitor;

impl<'a> Visitor<'a> for TextVisitor {
    type Value = Text<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'a str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Text<'a>, E> {
        Ok(Text::default())
    }
}

/// A value, or `null`.
pub(super) struct OptionVisitor<T>(pub Whole<T>);

impl<'a, T: Lenient<'a>> Visitor<'a> for OptionVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'a>>(self, value: D) -> Result<Option<T>, D::Error> {
        self.0.deserialize(value).map(Some)
    }
}
