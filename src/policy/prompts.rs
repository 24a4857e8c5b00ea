//! Which commands and files a prompt may name. The CLI takes a command from a text wherever
//! it stands, and names of files too.

use super::{Denial, Policy};
use crate::domain::input::may_be_command;

impl Policy {
    /// What is not allowed of a text of a prompt.
    pub fn judge_text(&self, text: &str) -> Vec<Denial> {
        let mut denials = Vec::new();
        if !self.slash_commands && may_be_command(text) {
            let allowed = "slash commands are off (policy.slash_commands = false)";
            denials.push(Denial::new("", allowed));
        }
        if let Some(allowed) = self.file_mentions.denial(text) {
            denials.push(Denial::new("", format!("{allowed} (policy.file_mentions)")));
        }
        denials
    }
}

/// Which files a prompt may name with `@PATH`, which the CLI reads into it without asking for
/// a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mentions {
    /// None.
    #[default]
    None,
    /// Those below the session's working folder, as far as their names tell: a link in there
    /// may lead elsewhere, where the session's tools can go as well.
    Below,
    /// Whatever the sandbox shows.
    Any,
}

impl Mentions {
    /// What is allowed, where a text mentions something else.
    pub fn denial(self, text: &str) -> Option<&'static str> {
        let mut mentioned = mentions(text);
        match self {
            Self::None => mentioned.next().map(|_| "no words that begin with @"),
            Self::Below => mentioned
                .find(|path| !is_below(path))
                .map(|_| "@PATH with a relative path that does not go up"),
            Self::Any => None,
        }
    }
}

/// What follows an `@` that begins a word, up to the end of the word: the CLI takes it for a
/// path, in quotation marks if it has spaces. An address such as `a@b.org` is none.
fn mentions(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('@').filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let path = &text[at + 1..];
        let begins = !before.is_some_and(char::is_alphanumeric)
            && path.chars().next().is_some_and(|c| !c.is_whitespace());
        let end = match path.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map_or(path.len(), |end| end + 2),
            None => path.find(char::is_whitespace).unwrap_or(path.len()),
        };
        begins.then_some(&path[..end])
    })
}

/// Whether a path stays below the folder that it begins in. Marks around it do not count, and
/// what the CLI may take for one of several paths is judged as the one that goes furthest.
fn is_below(path: &str) -> bool {
    let path = path.trim_start_matches(|c: char| !c.is_alphanumeric() && !"/~.\\".contains(c));
    !path.starts_with(['/', '~', '\\']) && !path.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_mentioned_files_lie_below_the_working_folder() {
        for (text, below) in [
            ("mail a@b.org at 5 @ noon", true),
            ("see @src/main.rs, and @\"a b/c.txt\"!", true),
            ("(@notes.md#L3-9)", true),
            ("@alice and @agent-x: look", true),
            ("@/etc/passwd", false),
            ("first\n@\"/etc/a b\"", false),
            ("(@~/.ssh/id)", false),
            ("@../other/x", false),
            ("@src/../../x", false),
            ("@./../x", false),
            ("@'/etc/passwd'", false),
            ("@\\/etc/passwd", false),
            ("@\u{feff}/etc/passwd", false),
            ("@x @y @/z", false),
        ] {
            assert_eq!(Mentions::Below.denial(text).is_none(), below, "{text}");
            assert_eq!(Mentions::Any.denial(text), None);
        }
        assert_eq!(Mentions::None.denial("mail a@b.org at 5 @ noon"), None);
        assert!(Mentions::None.denial("see @src/main.rs").is_some());
    }
}
