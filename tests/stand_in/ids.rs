//! Ids in the API's form: a prefix and 24 letters and digits.
//!
//! Unlike a plain counter they stay unique over a restart of the stand-in: a conversation that is resumed
//! against a new one must not see a tool call id a second time.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The id of a message.
pub fn message() -> String {
    with_prefix("msg_01")
}

/// The id of a tool call.
pub fn tool_use() -> String {
    with_prefix("toolu_01")
}

/// The id of a request, as the `request-id` header has it.
pub fn request() -> String {
    with_prefix("req_01")
}

fn with_prefix(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut id = String::with_capacity(prefix.len() + 22);
    id.push_str(prefix);
    for half in 0..2_u8 {
        let mut hasher = SEED.build_hasher();
        hasher.write_u64(number);
        hasher.write_u8(half);
        let mut rest = hasher.finish();
        // 62^11 > 2^64: eleven digits hold a whole hash.
        for _ in 0..11 {
            let digit = usize::try_from(rest % 62).unwrap_or_default();
            id.push(char::from(ALPHABET[digit]));
            rest /= 62;
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_the_api_and_differ() {
        let (a, b) = (message(), message());
        assert_ne!(a, b);
        assert_eq!(a.len(), "msg_01XFDUDYJgAACzvnptvVoYEL".len());
    }
}
