//! The caller's own deadline, as the metadata key `grpc-timeout` says it. It is read once,
//! when the headers of a call have arrived, and travels with the request.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// The key.
pub const TIMEOUT_KEY: &str = "grpc-timeout";

/// A value that the gRPC specification does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}; it must have one to eight digits and one of the units H, M, S, m, u and n")]
pub struct Malformed(String);

/// When the caller stops waiting; `None` if it does not say, or in more years than there
/// will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(pub Option<Instant>);

impl Deadline {
    /// That of a call whose headers have just arrived.
    pub fn of(headers: &HeaderMap) -> Result<Self, Malformed> {
        let timeout = headers.get(TIMEOUT_KEY).map(timeout).transpose()?;
        Ok(Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout))))
    }
}

fn timeout(value: &HeaderValue) -> Result<Duration, Malformed> {
    let malformed = || Malformed(String::from_utf8_lossy(value.as_bytes()).into());
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).unwrap_or_default();
    // A number's own parser would take a sign as well.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let amount: u64 = digits.parse().map_err(|_| malformed())?;
    match unit {
        "H" => Ok(Duration::from_secs(amount * 3600)),
        "M" => Ok(Duration::from_secs(amount * 60)),
        "S" => Ok(Duration::from_secs(amount)),
        "m" => Ok(Duration::from_millis(amount)),
        "u" => Ok(Duration::from_micros(amount)),
        "n" => Ok(Duration::from_nanos(amount)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        let read = |text: &str| timeout(&text.parse().expect("a header's value"));
        assert_eq!(read("2S"), Ok(Duration::from_secs(2)));
        assert_eq!(read("3000m"), Ok(Duration::from_secs(3)));
        assert_eq!(read("7u"), Ok(Duration::from_micros(7)));
        assert_eq!(read("0n"), Ok(Duration::ZERO));
        assert_eq!(read("99999999H"), Ok(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "12", "123456789S", "1x", "-1S", "+1S", "1 S", "1.5S", "1SS"] {
            let error = read(bad).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        assert!(timeout(&HeaderValue::from_bytes(b"1\xE9").expect("opaque")).is_err());
    }
}
