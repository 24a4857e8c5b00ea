//! Durations and byte sizes as people write them.

use std::time::Duration;

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// What is said of a value that is no duration.
pub const DURATION: &str = "must be a duration like \"1500ms\", \"60s\" or \"1h 30m\"";

/// What is said of a value that is no byte size.
pub const BYTE_SIZE: &str = "must be a byte size like \"16 MiB\" or 1048576";

/// Reads `1500ms`, `60s`, `1h 30m`, and `0` for zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.parse::<u64>().is_ok() {
        return Err(format!("needs a unit, like \"{text}s\""));
    }
    humantime::parse_duration(text).map_err(|_| DURATION.into())
}

/// Writes a duration so that [`parse_duration`] reads the same.
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads `16 MiB`, `4MiB`, `512 kB`, and a bare number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let factor = UNITS
        .iter()
        .find(|(name, _)| unit.eq_ignore_ascii_case(name))
        .map(|(_, factor)| *factor)
        .or(unit.is_empty().then_some(1));
    let (Some(factor), false) = (factor, number.is_empty()) else {
        return Err(BYTE_SIZE.into());
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "must be less than 16777216 TiB".into())
}

/// Writes a byte size exactly, with the largest unit that divides it.
pub fn show_bytes(bytes: u64) -> String {
    let binary = &UNITS[..5];
    match binary.iter().rev().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{} {name}", bytes / factor),
        None => "0 B".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration(" 1h 30m "), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("60"), Err("needs a unit, like \"60s\"".into()));
        for bad in ["", "s", "-1s", "1 parsec", "99999999999999999999s", "1s;"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn byte_sizes_take_binary_and_decimal_units() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("16 MiB", 16 << 20),
            ("4MiB", 4 << 20),
            ("4mib", 4 << 20),
            ("512 kB", 512_000),
            ("0", 0),
            ("7 B", 7),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5 MiB", "-1", "1 M", "1 MiB x", "٣", "16777216 TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_byte_size_reads_the_same(bytes: u64) {
            prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn a_shown_duration_reads_the_same(millis in 0..u64::from(u32::MAX)) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            drop(parse_duration(&text));
            drop(parse_bytes(&text));
        }
    }
}
