//! Single values as people read them.

use std::time::Duration;

/// A duration of the contract; what cannot be one counts as zero.
pub fn duration(value: Option<prost_types::Duration>) -> Duration {
    value.and_then(|value| value.try_into().ok()).unwrap_or_default()
}

/// `250ms`, `1.5s`, `12s`, `2m 5s`, `3h 20m`, `4d 1h`.
pub fn show_duration(duration: Duration) -> String {
    let whole = duration.as_secs();
    match whole {
        0 => format!("{}ms", duration.as_millis()),
        1..10 => format!("{:.1}s", duration.as_millis() as f64 / 1000.0),
        10..60 => format!("{whole}s"),
        60..3600 => two_units(whole, 60, ["m", "s"], 1),
        3600..86_400 => two_units(whole, 3600, ["h", "m"], 60),
        _ => two_units(whole, 86_400, ["d", "h"], 3600),
    }
}

fn two_units(whole: u64, large: u64, names: [&str; 2], small: u64) -> String {
    let rest = whole % large / small;
    let more = if rest == 0 { String::new() } else { format!(" {rest}{}", names[1]) };
    format!("{}{}{more}", whole / large, names[0])
}

/// `$0.0123`, with as many digits as small sums need.
pub fn show_cost(dollars: f64) -> String {
    if dollars >= 10.0 { format!("${dollars:.2}") } else { format!("${dollars:.4}") }
}

/// `512 B`, `1.5 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// An enum's value without the prefix that the contract's style wants: `ACTIVE`.
pub fn enum_name<'a>(full: &'a str, prefix: &str) -> &'a str {
    full.strip_prefix(prefix).unwrap_or(full)
}

/// Text on one line and without control characters, which could lead a terminal to
/// do other things than show it.
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// One line, cut to so many columns.
pub fn cut(text: &str, width: usize) -> String {
    // What is cut away need not be cleaned: a tool's result may have megabytes.
    let start = text.char_indices().nth(width.saturating_mul(4)).map_or(text.len(), |(at, _)| at);
    let line = one_line(&text[..start]);
    if line.chars().count() <= width && start == text.len() {
        return line;
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_digits_that_matter() {
        for (millis, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (1500, "1.5s"),
            (12_345, "12s"),
            (60_000, "1m"),
            (125_000, "2m 5s"),
            (12_000_000, "3h 20m"),
            (349_200_000, "4d 1h"),
        ] {
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn bytes_and_costs_are_short() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(1536 << 20), "1.5 GiB");
        assert_eq!(show_cost(0.01234), "$0.0123");
        assert_eq!(show_cost(12.345), "$12.35");
    }

    #[test]
    fn a_cut_line_is_clean_and_fits() {
        assert_eq!(cut("a\n\u{1b}[31mb", 10), "a [31mb");
        assert_eq!(cut("exactly ten", 11), "exactly ten");
        assert_eq!(cut("éééééé", 4), "ééé…");
        assert_eq!(cut(&"x\n".repeat(1000), 5), "x x …");
    }
}
