//! The tokens file: which token stands for which tenant, with which roles, until when.
//! It holds hashes only; a token itself is shown once, when it is made.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{AuthError, Identity};
use crate::{domain::ids::TenantId, os::regular};

/// Tokens at most: each is compared with every credential that comes.
const MAX_TOKENS: usize = 10_000;

/// Characters of a token's name.
const LONGEST_NAME: usize = 128;

/// The keys of the file.
const KEYS: [&str; 6] = ["token", "sha256", "tenant", "roles", "expires", "name"];

/// What every token begins with, so that one that leaked can be found.
const PREFIX: &str = "sp_";

/// Why a tokens file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] std::io::Error),
    /// It is not TOML of the right form; the message says where.
    #[error("{0}")]
    Form(String),
    /// An entry is wrong.
    #[error("token {number}: {field}: {problem}")]
    Entry {
        /// Which, counted from 1.
        number: usize,
        /// Its field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The tokens that are let in.
#[derive(Debug, Default)]
pub struct Tokens {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    hash: [u8; 32],
    identity: Identity,
    expires: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    sha256: String,
    tenant: String,
    #[serde(default)]
    roles: Option<Vec<String>>,
    #[serde(default)]
    expires: Option<toml::value::Datetime>,
    /// What it is called in logs.
    #[serde(default)]
    name: Option<String>,
}

impl Tokens {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, TokensError> {
        Self::parse(&regular::read_text(file)?)
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let file: File = toml::from_str(text).map_err(|error| form(text, &error))?;
        if file.token.len() > MAX_TOKENS {
            let count = file.token.len();
            return Err(TokensError::Form(format!("has {count} tokens, at most {MAX_TOKENS}")));
        }
        let entries = (1..).zip(file.token).map(|(number, entry)| {
            Entry::read(entry).map_err(|(field, problem)| TokensError::Entry {
                number,
                field,
                problem,
            })
        });
        let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
        let mut seen = HashSet::with_capacity(entries.len());
        for (number, entry) in (1..).zip(&entries) {
            if !seen.insert(entry.hash) {
                let problem = "stands in the file twice".to_owned();
                return Err(TokensError::Entry { number, field: "sha256", problem });
            }
        }
        Ok(Self { entries })
    }

    /// Those whose hash still stands in a text that is no tokens file for a mistake
    /// elsewhere in it: what was taken out is out. Comments do not count.
    pub fn still_in(&self, text: &str) -> Self {
        let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(code, _)| code));
        let digits = |c: char| !c.is_ascii_hexdigit();
        let hashes: HashSet<[u8; 32]> =
            lines.flat_map(|line| line.split(digits)).filter_map(hash).collect();
        let entries = self.entries.iter().filter(|entry| hashes.contains(&entry.hash));
        Self { entries: entries.cloned().collect() }
    }

    /// Whether they belong to more than one tenant.
    pub fn are_of_several_tenants(&self) -> bool {
        self.entries.windows(2).any(|pair| pair[0].identity.tenant != pair[1].identity.tenant)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whose a token is. Takes as long for every token, known or not.
    pub fn find(&self, token: &str, now: SystemTime) -> Result<Identity, AuthError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(AuthError::Unknown)?;
        match entry.expires {
            Some(expires) if now >= expires => Err(AuthError::Expired),
            _ => Ok(entry.identity.clone()),
        }
    }
}

impl Entry {
    fn read(entry: FileEntry) -> Result<Self, (&'static str, String)> {
        let FileEntry { sha256, tenant, roles, expires, name } = entry;
        let tenant = TenantId::parse(&tenant).map_err(|error| ("tenant", error.to_string()))?;
        Ok(Self {
            hash: hash(&sha256)
                .ok_or_else(|| ("sha256", "must have 64 hexadecimal digits".into()))?,
            identity: Identity { tenant, admin: is_admin(roles)?, name: named(name)? },
            expires: expires.map(moment).transpose()?,
        })
    }
}

/// The error's line by its number, its key if it is one of the file's, and what should
/// stand there. Not what does: it may be a token that was put there by mistake.
fn form(text: &str, error: &toml::de::Error) -> TokensError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default();
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| KEYS.contains(key));
    let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
    // Serde repeats values and unknown keys before these words.
    let problem = match error.message().rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None => error.message().to_owned(),
    };
    TokensError::Form(format!("line {}: {key}{problem}", number + 1))
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(hash)
}

fn is_admin(roles: Option<Vec<String>>) -> Result<bool, (&'static str, String)> {
    let roles = roles.unwrap_or_else(|| vec!["user".into()]);
    if let Some(other) = roles.iter().find(|role| !["user", "admin"].contains(&role.as_str())) {
        return Err(("roles", format!("must be user or admin, not {other:?}")));
    }
    if !roles.iter().any(|role| role == "user") {
        return Err(("roles", "must have user among them".into()));
    }
    Ok(roles.iter().any(|role| role == "admin"))
}

/// A name that a line of a log can hold.
fn named(name: Option<String>) -> Result<Option<Arc<str>>, (&'static str, String)> {
    let Some(name) = name else { return Ok(None) };
    let length = name.chars().count();
    if !(1..=LONGEST_NAME).contains(&length) || name.chars().any(char::is_control) {
        let problem = format!("must have 1 to {LONGEST_NAME} characters, none of them for control");
        return Err(("name", problem));
    }
    Ok(Some(name.into()))
}

/// A time in UTC; a day without a time ends the token when it begins.
fn moment(time: toml::value::Datetime) -> Result<SystemTime, (&'static str, String)> {
    let text = match (time.date, time.time, time.offset) {
        (Some(date), None, None) => format!("{date}T00:00:00Z"),
        (Some(_), Some(_), Some(toml::value::Offset::Z)) => time.to_string(),
        _ => String::new(),
    };
    humantime::parse_rfc3339(&text).map_err(|_| {
        let problem = "must be a day like 2027-01-31 or a time in UTC like 2027-01-31T12:00:00Z";
        ("expires", problem.to_owned())
    })
}

/// A token that nobody has yet, and its entry for the file.
pub fn fresh(tenant: &TenantId, admin: bool, lifetime: Option<Duration>) -> (String, String) {
    // Two random UUIDs: 244 random bits.
    let random = || uuid::Uuid::new_v4().simple().to_string();
    let token = format!("{PREFIX}{}{}", random(), random());
    let hash: String =
        Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let roles = if admin { r#"["user", "admin"]"# } else { r#"["user"]"# };
    let mut entry =
        format!("[[token]]\nsha256 = \"{hash}\"\ntenant = \"{tenant}\"\nroles = {roles}\n");
    if let Some(end) = lifetime.and_then(|lifetime| SystemTime::now().checked_add(lifetime)) {
        entry += &format!("expires = {}\n", humantime::format_rfc3339_seconds(end));
    }
    (token, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a name")
    }

    #[test]
    fn a_fresh_token_is_known_by_its_entry_and_no_other() {
        let (user, user_entry) = fresh(&tenant("a"), false, None);
        let (admin, admin_entry) = fresh(&tenant("b"), true, Some(Duration::from_secs(60)));
        let tokens = Tokens::parse(&format!("{user_entry}\n{admin_entry}")).expect("accepted");
        assert_eq!((tokens.len(), tokens.is_empty()), (2, false));
        let now = SystemTime::now();
        let found = tokens.find(&user, now).expect("known");
        assert_eq!(found, Identity { tenant: tenant("a"), admin: false, name: None });
        assert!(tokens.find(&admin, now).expect("known").admin);
        let later = now + Duration::from_secs(61);
        assert_eq!(tokens.find(&admin, later), Err(AuthError::Expired));
        assert!(tokens.find(&user, later).is_ok());
        for wrong in ["", "sp_", &user[..user.len() - 1], &format!("{user} ")] {
            assert_eq!(tokens.find(wrong, now), Err(AuthError::Unknown));
        }
        assert!(!user_entry.contains(&user), "the file holds the hash only");
    }

    #[test]
    fn what_was_taken_out_of_a_file_is_out_whatever_else_is_wrong_with_it() {
        let [a, b, c] = ["a", "b", "c"].map(|name| fresh(&tenant(name), false, None));
        let all = [&a.1, &b.1, &c.1].map(String::as_str).join("\n");
        let tokens = Tokens::parse(&all).expect("accepted");
        let commented = b.1.replace("sha256", "# sha256");
        let text = format!("{}{commented}[[token]]\nsha256 = \"short\"\n", a.1);
        assert!(Tokens::parse(&text).is_err());
        let left = tokens.still_in(&text);
        let now = SystemTime::now();
        assert_eq!(left.find(&a.0, now), tokens.find(&a.0, now));
        for revoked in [&b.0, &c.0] {
            assert_eq!(left.find(revoked, now), Err(AuthError::Unknown));
        }
        assert_eq!(tokens.still_in(&all).len(), 3);
        assert!(tokens.still_in("rubbish").is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let hash = "0".repeat(64);
        let entry = |rest: &str| format!("[[token]]\nsha256 = \"{hash}\"\ntenant = \"a\"\n{rest}");
        for (text, told) in [
            ("x".to_owned(), "line 1"),
            ("[[token]]\ntenant = \"a\"\n".into(), "sha256"),
            (
                "[[token]]\nsha256 = \"ab\"\ntenant = \"a\"\n".into(),
                "token 1: sha256: must have 64",
            ),
            (
                format!("[[token]]\nsha256 = \"{hash}\"\ntenant = \"a b\"\n"),
                "token 1: tenant: must",
            ),
            (entry("roles = [\"root\"]"), "token 1: roles: must be user or admin, not \"root\""),
            (entry("roles = [\"admin\"]"), "must have user"),
            (entry("role = [\"user\"]"), "role"),
            (entry("expires = 2027-01-31T12:00:00+01:00"), "token 1: expires: must be"),
            (entry("expires = 12:00:00"), "token 1: expires"),
            (entry("name = \"\""), "token 1: name: must have 1 to 128 characters"),
            (entry("name = \"a\\nb\""), "none of them for control"),
            (format!("{}{}", entry(""), entry("")), "token 2: sha256: stands in the file twice"),
        ] {
            let error = Tokens::parse(&text).expect_err("refused").to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
        assert!(Tokens::parse("").expect("nobody").is_empty());
        assert!(Tokens::parse(&entry("expires = 2027-01-31\nname = \"x\"")).is_ok());
    }

    #[test]
    fn a_token_that_was_put_there_by_mistake_is_not_repeated() {
        let token = "sp_0123456789, expected `x`";
        let entry = |rest: &str| format!("[[token]]\n{rest}\n");
        for (text, told) in [
            (format!("token = \"{token}\"\n"), "line 1: token: expected"),
            (format!("\"{token}\" = \"a\"\n"), "line 1: expected `token`"),
            (entry(&format!("\"{token}\" = 1")), "line 2: expected one of `sha256`"),
            (entry(&format!("roles = \"{token}\"")), "line 2: roles: expected"),
            (entry(&format!("name = \"x\"\nexpires = \"{token}\"")), "line 3: expires: expected"),
            (entry(&format!("tenant = {token}")), "line 2"),
            (entry(token), "line 2"),
            (entry(&format!("sha256 = \"{token}")), "line 2"),
            (entry(&format!("sha256 = \"{token}\"\ntenant = \"a\"")), "token 1: sha256"),
        ] {
            let error = Tokens::parse(&text).expect_err("refused");
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("sp_012"), "{shown}");
            }
            assert!(error.to_string().contains(told), "{told}: {error}");
        }
    }
}
