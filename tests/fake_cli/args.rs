//! The command line: the flags that the real CLI is started with, checked as the real CLI checks them.
//!
//! Only a few of them change what the fake does; the rest are accepted, since a test that starts it with
//! a misspelt flag has to fail as it would with the real one.

use crate::ids;

/// Flags with a value. `--flag=value` and `--flag value` both count.
const WITH_VALUE: &[&str] = &[
    "--output-format",
    "--input-format",
    "--model",
    "--session-id",
    "--permission-mode",
    "--permission-prompt-tool",
    "--allowedTools",
    "--disallowedTools",
    "--tools",
    "--max-turns",
    "--system-prompt",
    "--append-system-prompt",
    "--setting-sources",
    "--mcp-config",
    "--add-dir",
    "--settings",
    "--managed-settings",
    "--fallback-model",
    "--max-thinking-tokens",
    "--effort",
    "--max-budget-usd",
    "--betas",
];

/// Flags without a value.
const BARE: &[&str] = &[
    "-p",
    "--print",
    // Of a folder without a conversation, which is what it is given: a new one.
    "--continue",
    "--verbose",
    "--fork-session",
    "--include-partial-messages",
    "--session-mirror",
    "--strict-mcp-config",
    "--replay-user-messages",
    "--no-session-persistence",
    "--dangerously-skip-permissions",
];

pub const PERMISSION_MODES: &[&str] =
    &["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"];

/// What the flags say.
#[derive(Debug, Default, PartialEq)]
pub struct Args {
    pub model: Option<String>,
    pub session_id: Option<String>,
    pub resume: Option<String>,
    pub fork_session: bool,
    pub permission_mode: Option<String>,
    /// Permission prompts go over stdio (`--permission-prompt-tool=stdio`).
    pub asks_over_stdio: bool,
    pub partial_messages: bool,
    pub session_mirror: bool,
    pub replay_user_messages: bool,
    /// US dollars that this process may spend, whatever others have.
    pub max_budget_usd: Option<f64>,
    /// Keep no transcript file.
    pub no_persistence: bool,
    pub may_bypass_permissions: bool,
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Parsed {
    Run(Box<Args>),
    Version,
}

impl Args {
    /// Parses the command line; the error is the text for stderr, to exit 1 with.
    pub fn parse(argv: &[String]) -> Result<Parsed, String> {
        let mut args = Self::default();
        let mut streams = (false, false);
        let mut tokens = argv.iter().map(String::as_str).peekable();
        while let Some(token) = tokens.next() {
            let (flag, inline) = match token.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
                _ => (token, None),
            };
            if matches!(flag, "--version" | "-v") {
                return Ok(Parsed::Version);
            } else if BARE.contains(&flag) {
                args.switch(flag, &mut streams);
            } else if WITH_VALUE.contains(&flag) {
                // A required value is the next token whatever it looks like, a flag's name included.
                let value = inline.or_else(|| tokens.next());
                let value = value
                    .ok_or_else(|| format!("error: option '{flag} <value>' argument missing"))?;
                args.set(flag, value, &mut streams)?;
            } else if matches!(flag, "--resume" | "-r") {
                // Its value is optional, so a dash behind it starts the next flag.
                let next = inline.or_else(|| tokens.next_if(|next| !next.starts_with('-')));
                args.resume = Some(next.unwrap_or_default().to_owned());
            } else if flag.starts_with('-') {
                return Err(format!("error: unknown option '{flag}'"));
            }
        }
        args.check(streams)?;
        Ok(Parsed::Run(Box::new(args)))
    }

    fn switch(&mut self, flag: &str, (_, verbose): &mut (bool, bool)) {
        match flag {
            "--verbose" => *verbose = true,
            "--fork-session" => self.fork_session = true,
            "--include-partial-messages" => self.partial_messages = true,
            "--session-mirror" => self.session_mirror = true,
            "--replay-user-messages" => self.replay_user_messages = true,
            "--no-session-persistence" => self.no_persistence = true,
            "--dangerously-skip-permissions" => self.may_bypass_permissions = true,
            _ => {}
        }
    }

    fn set(&mut self, flag: &str, value: &str, streams: &mut (bool, bool)) -> Result<(), String> {
        match flag {
            "--model" => self.model = Some(value.to_owned()),
            "--session-id" => self.session_id = Some(value.to_owned()),
            "--permission-prompt-tool" => self.asks_over_stdio = value == "stdio",
            "--output-format" if value == "stream-json" => streams.0 = true,
            "--output-format" if !matches!(value, "text" | "json") => {
                return Err(format!(
                    "error: option '--output-format <format>' argument '{value}' is invalid. Allowed choices are text, json, stream-json."
                ));
            }
            "--max-turns" if value.parse::<u64>().is_err() => {
                return Err(format!(
                    "error: option '--max-turns <turns>' argument '{value}' is invalid. must be a number"
                ));
            }
            "--max-budget-usd" => {
                let budget = value.parse().ok().filter(|budget| *budget > 0.0);
                self.max_budget_usd = Some(budget.ok_or_else(|| format!(
                    "error: option '--max-budget-usd <amount>' argument '{value}' is invalid. --max-budget-usd must be a positive number greater than 0"
                ))?);
            }
            "--permission-mode" if !PERMISSION_MODES.contains(&value) => {
                return Err(format!(
                    "error: option '--permission-mode <mode>' argument '{value}' is invalid. Allowed choices are {}.",
                    PERMISSION_MODES.join(", ")
                ));
            }
            "--permission-mode" => {
                self.may_bypass_permissions |= value == "bypassPermissions";
                self.permission_mode = Some(value.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self, (stream_json, verbose): (bool, bool)) -> Result<(), String> {
        let texts = [
            (
                stream_json && !verbose,
                "Error: When using --print, --output-format=stream-json requires --verbose",
            ),
            (
                self.session_id.as_deref().is_some_and(|id| !ids::is_uuid(id)),
                "Error: Invalid session ID. Must be a valid UUID.",
            ),
            (
                self.session_id.is_some() && self.resume.is_some() && !self.fork_session,
                "Error: --session-id with --continue or --resume also needs --fork-session.",
            ),
        ];
        match texts.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(text.to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tokens: &[&str]) -> Result<Parsed, String> {
        let argv: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        Args::parse(&argv)
    }

    #[test]
    fn both_forms_of_a_value_count() {
        let expected =
            Args { model: Some("--version".to_owned()), session_mirror: true, ..Args::default() };
        for tokens in [
            &["--model", "--version", "--session-mirror"][..],
            &["--model=--version", "--session-mirror"][..],
        ] {
            let Ok(Parsed::Run(args)) = parse(tokens) else {
                panic!("{tokens:?} was refused");
            };
            assert_eq!(*args, expected);
        }
    }

    #[test]
    fn the_value_of_resume_is_optional() {
        let Ok(Parsed::Run(args)) = parse(&["--resume", "--fork-session"]) else {
            panic!("refused");
        };
        assert_eq!(args.resume.as_deref(), Some(""));
        assert!(args.fork_session);
    }

    #[test]
    fn errors_are_the_real_ones() {
        assert_eq!(parse(&["--x=1"]).unwrap_err(), "error: unknown option '--x'");
        assert_eq!(
            parse(&["--session-id=abc"]).unwrap_err(),
            "Error: Invalid session ID. Must be a valid UUID."
        );
        assert!(parse(&["--output-format=stream-json"]).is_err());
        assert!(parse(&["--permission-mode=xx"]).is_err());
    }
}
