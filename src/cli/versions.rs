//! Which versions of the CLI the service works with. Owns the range and how a version is
//! read; knows nothing of how it is asked for.
//!
//! Source: 2.1.97 to 2.1.109 drop system prompts in silence, older ones do not know
//! `--session-mirror`; 2.1.110 is the oldest that was seen to do all that is relied on.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// A version of the CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

/// The oldest version that works.
pub const OLDEST: Version = Version(2, 1, 110);

/// The newest version that was tested.
pub const NEWEST_TESTED: Version = Version(2, 1, 332);

/// The oldest version that was seen to say what it has spent when it is asked
/// (`get_session_cost`). 2.1.150 was seen not to.
const TELLS_COST: Version = Version(2, 1, 197);

/// The oldest version that was seen to take managed settings from its command line
/// (`--managed-settings`). 2.1.110 does not start with it.
const TAKES_MANAGED_SETTINGS: Version = Version(2, 1, 197);

/// The version that the executable has told last. It is not known until the executable has
/// been asked, and all clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Installed(Arc<Mutex<Option<Version>>>);

impl Installed {
    /// The version, as far as it is known.
    pub fn version(&self) -> Option<Version> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The executable has told its version, or something that is none.
    pub fn found(&self, version: Option<Version>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Whether a process of this version says what it has spent when it is asked.
    pub fn tells_cost(self) -> bool {
        self >= TELLS_COST
    }

    /// Whether a process of this version can be given settings that no others undo.
    pub fn takes_managed_settings(self) -> bool {
        self >= TAKES_MANAGED_SETTINGS
    }

    /// The first version in a text: a wrapper may print its own words around it.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
            let mut numbers = word.split('.').map(|number| number.parse().ok());
            let version = Self(numbers.next()??, numbers.next()??, numbers.next()??);
            numbers.next().is_none().then_some(version)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d7_a_version_is_found_among_other_words() {
        for (text, wanted) in [
            ("2.1.330 (Claude Code)", Some(Version(2, 1, 330))),
            ("wrapper 1.4 starts\nv2.1.110\n", Some(OLDEST)),
            ("2.1.332-beta", Some(NEWEST_TESTED)),
            ("2.1", None),
            ("1.2.3.4", None),
            ("99999999999.1.1", None),
            ("", None),
        ] {
            assert_eq!(Version::find(text), wanted, "{text}");
        }
        assert!(Version(2, 1, 99) < OLDEST && Version(2, 2, 0) > NEWEST_TESTED);
        assert_eq!(OLDEST.to_string(), "2.1.110");
    }

    /// The end-to-end tests run on what the lock file pins.
    #[test]
    fn d7_both_ends_of_the_range_are_tested() {
        let lock = include_str!("../../.ci/claude-cli.lock");
        let pinned: Vec<_> = lock.lines().filter_map(Version::find).collect();
        assert_eq!(pinned.first(), Some(&OLDEST));
        assert_eq!(pinned.last(), Some(&NEWEST_TESTED));
    }

    /// The rows of the first table of a document whose first cells begin with a version.
    fn rows(document: &str) -> Vec<(Version, &str)> {
        let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
        cells.filter_map(|(first, rest)| Some((Version::find(first)?, rest))).collect()
    }

    #[test]
    fn d7_documents_name_the_versions_that_are_served_and_tested() {
        let lock = include_str!("../../.ci/claude-cli.lock");
        let pinned: Vec<_> = lock.lines().filter_map(Version::find).collect();
        let table = rows(include_str!("../../docs/compatibility.md"));
        let with = |words: &str| -> Vec<_> {
            let rows = table.iter().filter(|(_, rest)| rest.contains(words));
            rows.map(|(version, _)| *version).collect()
        };
        assert_eq!(with("the tests on a real CLI run on it"), pinned);
        // The bound itself is named in the row of what is below it.
        assert_eq!(with("refused: the service is not ready"), [OLDEST]);
        assert_eq!(with("the oldest that is served"), [OLDEST]);
        assert_eq!(with("the newest that is tested"), [NEWEST_TESTED]);
        assert!(table.is_sorted_by_key(|(version, _)| *version), "{table:?}");

        let readme = include_str!("../../README.md");
        let versions: Vec<_> = rows(readme).into_iter().map(|(version, _)| version).collect();
        assert_eq!(versions, pinned);
        let range = format!(
            "From {OLDEST} on; an older one is not served, a newer one than {NEWEST_TESTED} is"
        );
        assert!(readme.contains(&range), "{range}");
        let range = format!("is {OLDEST} or newer (tested up to {NEWEST_TESTED};");
        assert!(include_str!("../../docs/operations.md").contains(&range), "{range}");
    }
}
