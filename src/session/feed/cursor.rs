//! Where one who follows a session stands, as a text that callers keep and send back. It is
//! theirs by then: what is read from it is never trusted beyond its form.
//!
//! ```text
//! version  flags  feed (8)  position (8)  seen (8)  check (4)      30 bytes, base64url
//! ```
//!
//! The check is over all that is before it and over the session's id, so that a cursor of
//! another session, or one that was cut, is refused and not taken for an old one. It keeps out
//! mistakes, and nobody who means harm: there is nothing to be had by a forged cursor.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::{domain::ids::SessionId, turn::event::Partials};

const VERSION: u8 = 1;
/// The flag of who counts partial messages.
const PARTIALS: u8 = 1;
const CHECK: usize = 4;
const BODY: usize = 2 + 3 * size_of::<u64>();
const BYTES: usize = BODY + CHECK;
/// Characters of a cursor.
const CHARACTERS: usize = BYTES / 3 * 4;

/// What of a feed has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// An entry's position: 1 for the first that the feed had, 0 for none yet.
    pub position: u64,
    /// How many events of that entry, by the count of whoever sees them.
    pub seen: u64,
}

impl Place {
    /// An entry has been seen to its end, however long it was.
    pub const ALL: u64 = u64::MAX;

    /// All of an entry has been seen, and of those before it.
    pub fn behind(position: u64) -> Self {
        Self { position, seen: Self::ALL }
    }
}

/// A place in the feed of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The feed, by a number that no other has.
    pub feed: u64,
    /// Whether partial messages are counted.
    pub partials: Partials,
    /// The place.
    pub place: Place,
}

/// A text is no cursor of a session: what is wrong with it, fit to follow the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a cursor that WatchSession has given for this session, is {0:?}")]
pub struct NoCursor(String);

impl Cursor {
    /// As a text, for followers of that session.
    pub fn text(&self, session: &SessionId) -> String {
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1] = if self.partials == Partials::Shown { PARTIALS } else { 0 };
        let numbers = [self.feed, self.place.position, self.place.seen];
        for (to, number) in bytes[2..BODY].chunks_exact_mut(size_of::<u64>()).zip(numbers) {
            to.copy_from_slice(&number.to_be_bytes());
        }
        let check = check(&bytes[..BODY], session);
        bytes[BODY..].copy_from_slice(&check);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads such a text.
    pub fn parse(text: &str, session: &SessionId) -> Result<Self, NoCursor> {
        Self::read(text, session).ok_or_else(|| {
            // What is no cursor may be anything.
            NoCursor(text.chars().take(2 * CHARACTERS).collect())
        })
    }

    fn read(text: &str, session: &SessionId) -> Option<Self> {
        // Before anything of that length is decoded.
        let text = Some(text).filter(|text| text.len() == CHARACTERS)?;
        let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        if bytes[BODY..] != check(&bytes[..BODY], session) {
            return None;
        }
        let partials = match bytes[..2] {
            [VERSION, 0] => Partials::Hidden,
            [VERSION, PARTIALS] => Partials::Shown,
            _ => return None,
        };
        let (numbers, _) = bytes[2..BODY].as_chunks();
        let [feed, position, seen] = numbers else { return None };
        let [feed, position, seen] = [feed, position, seen].map(|it| u64::from_be_bytes(*it));
        Some(Self { feed, partials, place: Place { position, seen } })
    }
}

fn check(body: &[u8], session: &SessionId) -> [u8; CHECK] {
    let mut digest = Sha256::new_with_prefix(body);
    digest.update(session.as_str());
    let digest = digest.finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(name: &str) -> SessionId {
        SessionId::parse(name).expect("a name")
    }

    prop_compose! {
        fn cursors()(feed: u64, position: u64, seen: u64, shown: bool) -> Cursor {
            let partials = if shown { Partials::Shown } else { Partials::Hidden };
            Cursor { feed, partials, place: Place { position, seen } }
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(cursor in cursors()) {
            let text = cursor.text(&session("s"));
            prop_assert_eq!(text.len(), CHARACTERS);
            prop_assert_eq!(Cursor::parse(&text, &session("s")), Ok(cursor));
        }

        #[test]
        fn a_cursor_of_another_session_is_none(cursor in cursors(), other in "[a-z]{2,8}") {
            prop_assert!(Cursor::parse(&cursor.text(&session("s")), &session(&other)).is_err());
        }

        #[test]
        fn a_cursor_with_another_byte_is_none(cursor in cursors(), at in 0..BYTES, flip in 1_u8..) {
            let mut bytes = URL_SAFE_NO_PAD.decode(cursor.text(&session("s"))).expect("base64");
            bytes[at] ^= flip;
            prop_assert!(Cursor::parse(&URL_SAFE_NO_PAD.encode(bytes), &session("s")).is_err());
        }

        #[test]
        fn no_other_text_is_a_cursor(text in "\\PC{0,80}") {
            let error = Cursor::parse(&text, &session("s")).expect_err("no cursor").to_string();
            prop_assert!(error.starts_with("must be a cursor"), "{}", error);
        }

        #[test]
        fn what_is_cut_or_longer_is_no_cursor(cursor in cursors(), cut in 0..CHARACTERS) {
            let text = cursor.text(&session("s"));
            prop_assert!(Cursor::parse(&text[..cut], &session("s")).is_err());
            let longer = text + "AA";
            prop_assert!(Cursor::parse(&longer, &session("s")).is_err());
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_whatever_its_check_says() {
        let of_version = |version: u8, flags: u8| {
            let mut bytes = [0; BYTES];
            (bytes[0], bytes[1]) = (version, flags);
            let check = check(&bytes[..BODY], &session("s"));
            bytes[BODY..].copy_from_slice(&check);
            Cursor::parse(&URL_SAFE_NO_PAD.encode(bytes), &session("s"))
        };
        assert!(of_version(1, 0).is_ok() && of_version(1, 1).is_ok());
        assert!(of_version(0, 0).is_err() && of_version(2, 0).is_err());
        assert!(of_version(1, 2).is_err());
    }

    #[test]
    fn what_is_no_cursor_is_told_in_part_however_long_it_is() {
        let error = Cursor::parse(&"x".repeat(1 << 20), &session("s")).expect_err("no cursor");
        assert!(error.to_string().len() < 200, "{error}");
    }
}
