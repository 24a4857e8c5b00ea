//! What callers may ask for: the one place that says no. Closed by default. Knows names,
//! paths and JSON; nothing of requests, sessions or the configuration's form.
//!
//! Whoever sets a working folder, an environment variable, an MCP server, settings or a
//! permission mode can run commands as the service's user, or comes near it. So each of
//! these is refused until the operator has opened it.
//!
//! - [`folders`]: which folders of the machine a session may work in.
//! - [`variables`]: which environment variables a caller may set.
//! - [`json`]: what MCP servers, subagents and permission updates may say.

pub mod folders;
pub mod json;
pub mod variables;

pub use folders::Roots;

/// What the server's policy allows. The default allows nothing beyond a prompt.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Permission modes that callers may choose.
    pub permission_modes: Vec<String>,
    /// Folders below which a session may work, and reach further folders.
    pub cwd_roots: Roots,
    /// MCP servers that callers may name.
    pub mcp_servers: McpServers,
    /// Whether callers may give settings of the CLI, hooks among them.
    pub settings: bool,
    /// Whether callers may define subagents.
    pub agents: bool,
    /// Names of environment variables that callers may set; a trailing `*` stands for
    /// any ending.
    pub env: Vec<String>,
    /// Kinds of settings files that callers may have loaded.
    pub setting_sources: Vec<String>,
    /// Bytes of a prompt.
    pub max_prompt_bytes: usize,
    /// Whether a prompt may be a slash command of the CLI.
    pub slash_commands: bool,
    /// Which files a prompt may name with `@PATH`.
    pub file_mentions: Mentions,
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

/// Kinds of settings files that the CLI can load.
pub const SETTING_SOURCES: [&str; 3] = ["user", "project", "local"];

/// Which MCP servers callers may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum McpServers {
    /// None.
    #[default]
    None,
    /// Those reached over HTTP, which start no process here.
    Remote,
    /// Any, also those that the CLI starts: a command of the caller's choice.
    Any,
}

impl McpServers {
    /// All of them, in order of what they allow.
    pub const ALL: [Self; 3] = [Self::None, Self::Remote, Self::Any];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Remote => "remote",
            Self::Any => "any",
        }
    }
}

/// Something that was asked for and is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Where in the value, as a continuation of the field's name: empty or `.a.b`. Never
    /// holds a value.
    pub at: String,
    /// What is allowed, in words. Never holds a value that may be secret.
    pub allowed: String,
}

impl Denial {
    fn new(at: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { at: at.into(), allowed: allowed.into() }
    }
}

/// Bytes of a list in a message; an operator's list may be long.
const LONGEST_LIST: usize = 512;

/// Allowed names for a message; `none` without any.
pub fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { joined(names, ", ") }
}

/// As many names as a message has room for, and how many more there are.
pub fn joined(names: &[String], separator: &str) -> String {
    let mut text = String::new();
    for (told, name) in names.iter().enumerate() {
        if told > 0 && text.len() + separator.len() + name.len() > LONGEST_LIST {
            return format!("{text}{separator}and {} more", names.len() - told);
        }
        if told > 0 {
            text.push_str(separator);
        }
        text.push_str(name);
    }
    text
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
