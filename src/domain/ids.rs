//! Identifiers, as types of their own so that one cannot be taken for another.
//! Knows nothing of the rest of the crate.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// The longest name that a caller may choose, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text is not a name: what is wrong with it, fit to follow "must".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than [`MAX_NAME_BYTES`].
    #[error("must have at most {MAX_NAME_BYTES} characters, has {0}")]
    TooLong(usize),
    /// The text has a character outside the alphabet.
    #[error("must consist of A-Z a-z 0-9 . _ : -, has {0:?}")]
    Character(char),
}

fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(bad) =
        text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-')))
    {
        return Err(NameError::Character(bad));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a caller's text, which has 1 to 128 characters of
            /// `A-Za-z0-9._:-`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// A caller's name for a conversation.
    SessionId
}
name_type! {
    /// One turn of a session, named by the caller or by the service.
    TurnId
}
name_type! {
    /// Whose sessions they are: nobody else's look-ups find them.
    TenantId
}

impl Default for TenantId {
    /// The tenant of a service that asks nobody who they are.
    fn default() -> Self {
        Self("default".into())
    }
}

/// What tells a session from every other: two tenants may use the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name there.
    pub session: SessionId,
}

impl SessionKey {
    /// The session of this name that belongs to this tenant.
    pub fn new(tenant: TenantId, session: SessionId) -> Self {
        Self { tenant, session }
    }
}

/// What names of sessions begin with that their callers did not name.
const ANONYMOUS: &str = "anonymous-";

impl SessionId {
    /// Less than every name, and no name itself.
    pub fn before_all() -> Self {
        Self("".into())
    }

    /// A name for a session that its caller did not name.
    pub fn anonymous() -> Self {
        Self(format!("{ANONYMOUS}{}", Uuid::now_v7()).into())
    }

    /// Whether this could be such a name. A caller may have taken it over.
    pub fn looks_anonymous(&self) -> bool {
        self.0.strip_prefix(ANONYMOUS).is_some_and(|rest| Uuid::try_parse(rest).is_ok())
    }
}

impl TurnId {
    /// A fresh name.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }
}

/// One life of a CLI process that serves a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(Uuid);

impl ClientId {
    /// A fresh id.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads what was written of one.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Its random digits, for names that have to be short: still unlike every other
    /// process's that lives.
    pub fn short(&self) -> String {
        format!("{:015x}", self.0.as_u128() & 0xfff_ffff_ffff_ffff)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The UUID that the CLI knows a conversation by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CliSessionId(Uuid);

impl CliSessionId {
    /// An id for a conversation that begins.
    pub fn fresh() -> Self {
        Self(Uuid::new_v4())
    }

    /// Takes a UUID in its usual hyphenated form, and nothing else: the CLI's
    /// `--resume` would also take a title or the path of a file.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for CliSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CliSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::ids::*;

    #[test]
    fn names_have_one_to_128_characters_of_the_alphabet() {
        assert!(SessionId::parse("a.B_9:-").is_ok());
        assert!(SessionId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(SessionId::parse(""), Err(NameError::Empty));
        assert_eq!(SessionId::parse(&"x".repeat(129)), Err(NameError::TooLong(129)));
        assert_eq!(SessionId::parse("a/b"), Err(NameError::Character('/')));
        assert_eq!(SessionId::parse("é"), Err(NameError::Character('é')));
    }

    #[test]
    fn only_a_hyphenated_uuid_is_a_cli_session_id() {
        assert!(CliSessionId::parse("1b4e28ba-2fa1-11d2-883f-0016d3cca427").is_some());
        for bad in
            ["", "--help", "/etc/passwd.jsonl", "1b4e28ba2fa111d2883f0016d3cca427", "a title"]
        {
            assert_eq!(CliSessionId::parse(bad), None, "{bad}");
        }
    }
}
