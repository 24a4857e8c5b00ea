//! Names that are not known, and those that may have been meant.

/// Of these names the one that `name` is most likely a wrong spelling of. Separators and case
/// do not count, and a name may lack what stands before its last part.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<Nearest<'a>> {
    let wanted = letters(name);
    known
        .filter_map(|known| {
            let whole = letters(known);
            let distance = distance(&wanted, &whole);
            // A few letters in a long name, one in a short one.
            if distance <= (whole.len() / 6).max(1) {
                return Some((distance, Nearest { name: known, whole: true }));
            }
            let last = known.rsplit(['.', '-']).next().unwrap_or(known);
            let ends = last.contains('_') && wanted.ends_with(&letters(last));
            ends.then_some((usize::MAX, Nearest { name: known, whole: false }))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, nearest)| nearest)
}

/// What may have been meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nearest<'a> {
    /// The known name.
    pub name: &'a str,
    /// Whether the whole name is nearly that, and not only its last part.
    pub whole: bool,
}

fn letters(name: &str) -> Vec<char> {
    let letters = name.chars().filter(|c| !['.', '_', '-'].contains(c));
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

/// Letters to put in, to leave out or to replace, and neighbours to swap, to make one of the
/// other.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = row[j] + usize::from(a != b);
            let mut least = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            let swapped = i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b;
            if swapped {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_are_wrong_missing_or_swapped_count() {
        let distance = |one: &str, other: &str| distance(&letters(one), &letters(other));
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("max_sessions", "MAX.SESSIONS"), 0);
        assert_eq!(distance("max_sesions", "max_sessions"), 1);
        assert_eq!(distance("max_sessoins", "max_sessions"), 1);
        assert_eq!(distance("mix_sessionsx", "max_sessions"), 2);
    }

    #[test]
    fn the_nearest_is_found_by_the_whole_or_by_the_last_part() {
        let known = ["pool.max_sessions", "policy.tenant_max_sessions", "cli.path", "cli.env"];
        let found = |name: &str| nearest(name, known.into_iter()).map(|it| (it.name, it.whole));
        assert_eq!(found("POOL_MAX_SESSION"), Some(("pool.max_sessions", true)));
        assert_eq!(found("server.max_sessions"), Some(("pool.max_sessions", false)));
        assert_eq!(found("clipath"), Some(("cli.path", true)));
        for strange in ["path", "nonsense", "", "envy", "pool"] {
            assert_eq!(found(strange), None, "{strange}");
        }
    }
}
