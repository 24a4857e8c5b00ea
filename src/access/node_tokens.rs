//! The tokens by which nodes recognise each other.

use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// Characters of a token: nobody finds out one of these by trying.
const SHORTEST_TOKEN: usize = 32;
const LONGEST_TOKEN: usize = 512;
/// Tokens in a file: one in use, and those that come and go.
const MOST_TOKENS: usize = 8;

/// The tokens of a file.
#[derive(Debug)]
pub struct NodeTokens {
    /// The one that is sent.
    own: HeaderValue,
    /// Those that are accepted, hashed.
    accepted: Vec<[u8; 32]>,
}

impl NodeTokens {
    /// Reads the text of a file; the error says nothing of what is in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|it| !it.is_empty()).collect();
        let is_good = |line: &&str| {
            (SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&line.len())
                && line.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if let Some(number) = lines.iter().position(|line| !is_good(line)) {
            return Err(format!(
                "token {}: must have {SHORTEST_TOKEN} to {LONGEST_TOKEN} visible characters of ASCII",
                number + 1
            ));
        }
        let first = lines.first().ok_or("has no token")?;
        if lines.len() > MOST_TOKENS {
            return Err(format!("has {} tokens, at most {MOST_TOKENS}", lines.len()));
        }
        let mut own = HeaderValue::from_str(first).map_err(|_| "cannot be sent")?;
        own.set_sensitive(true);
        let accepted = lines.iter().map(|line| Sha256::digest(line.as_bytes()).into()).collect();
        Ok(Self { own, accepted })
    }

    /// The one that is sent.
    pub fn own(&self) -> HeaderValue {
        self.own.clone()
    }

    /// Whether a token is one of them. Takes as long for every token.
    pub fn accept(&self, token: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.accepted.iter().map(|accepted| accepted.ct_eq(&hash));
        known.fold(Choice::from(0), |found, is_this| found | is_this).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_told_to_nobody() {
        let secret = "short-secret";
        let long = "x".repeat(SHORTEST_TOKEN);
        for (text, told) in [
            (String::new(), "has no token"),
            (secret.to_owned(), "token 1: must have 32 to 512"),
            (format!("{long}\n{secret}"), "token 2: must have"),
            (format!("{secret} {secret} {secret}"), "token 1: must have"),
            (format!("{long}\n").repeat(MOST_TOKENS + 1), "has 9 tokens"),
        ] {
            let problem = NodeTokens::parse(&text).expect_err("refused");
            assert!(problem.contains(told) && !problem.contains(secret), "{problem}");
        }
        let tokens = NodeTokens::parse(&format!("\n {long} \n")).expect("accepted");
        assert!(tokens.accept(long.as_bytes()) && !tokens.accept(b"") && !tokens.accept(b"x"));
        assert!(!format!("{tokens:?}").contains(&long));
    }
}
