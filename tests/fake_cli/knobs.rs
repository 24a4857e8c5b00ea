//! Faults that a process has from its start, chosen per session by the model name (`--model=fake:boot=1000,deaf`)
//! or for all sessions by the environment (`FAKE_CLAUDE=boot=500,ignore-eof`).
//!
//! | knob | what it does |
//! |---|---|
//! | `boot=MS` | answers nothing for MS milliseconds after the start (signals still work) |
//! | `no-init` | never answers `initialize` |
//! | `exit=CODE` | prints `fake-claude: told to exit at start` on stderr and exits with CODE |
//! | `exit-at-prompt=CODE` | exits when it reads a prompt, without a word |
//! | `exit-at-first-prompt=CODE` | the same, but only the first process with this knob in a working folder, where it leaves a file |
//! | `ignore-term` | SIGTERM has no effect |
//! | `ignore-eof` | does not exit when stdin closes |
//! | `deaf` | never answers nor obeys an interrupt |
//! | `counts-from-zero` | counts its cost from 0 after a resume too and saves none of it, as 2.1.197 does |
//! | `names-no-prompts` | says neither when it takes up a prompt nor which prompts a result answers, as 2.1.197 does |
//! | `garbage-first` | prints a line that is not JSON before anything else |
//!
//! A knob that is not in the table stops the start with exit code 2, so that a misspelt test cannot pass.

use std::time::Duration;

/// The file that the first process leaves.
const FIRST: &str = ".exit-at-first-prompt";

/// What [`super::knobs`]' table says, parsed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Knobs {
    pub boot: Duration,
    pub no_init: bool,
    pub exit: Option<i32>,
    pub exit_at_prompt: Option<i32>,
    pub ignore_term: bool,
    pub ignore_eof: bool,
    pub deaf: bool,
    pub counts_from_zero: bool,
    pub names_no_prompts: bool,
    pub garbage_first: bool,
}

impl Knobs {
    /// Reads the knobs out of the environment's list and the model's name; both count.
    pub fn parse(environment: Option<&str>, model: Option<&str>) -> Result<Self, String> {
        let by_model = model.and_then(|model| model.strip_prefix("fake:"));
        let mut knobs = Self::default();
        for list in [environment, by_model].into_iter().flatten() {
            for knob in list.split(',').filter(|knob| !knob.is_empty()) {
                knobs.turn(knob)?;
            }
        }
        Ok(knobs)
    }

    fn turn(&mut self, knob: &str) -> Result<(), String> {
        let (name, value) = knob.split_once('=').unwrap_or((knob, ""));
        let number = |value: &str| {
            value.parse::<u32>().map_err(|_| format!("fake-claude: knob '{knob}' needs a number"))
        };
        match name {
            "boot" => self.boot = Duration::from_millis(number(value)?.into()),
            "exit" => self.exit = Some(number(value)?.cast_signed()),
            "exit-at-prompt" => self.exit_at_prompt = Some(number(value)?.cast_signed()),
            "exit-at-first-prompt" => {
                if std::fs::File::create_new(FIRST).is_ok() {
                    self.exit_at_prompt = Some(number(value)?.cast_signed());
                }
            }
            "no-init" => self.no_init = true,
            "ignore-term" => self.ignore_term = true,
            "ignore-eof" => self.ignore_eof = true,
            "deaf" => self.deaf = true,
            "counts-from-zero" => self.counts_from_zero = true,
            "names-no-prompts" => self.names_no_prompts = true,
            "garbage-first" => self.garbage_first = true,
            _ => return Err(format!("fake-claude: no such knob: '{knob}'")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_and_model_both_count() {
        let knobs = Knobs::parse(Some("boot=500,ignore-eof"), Some("fake:deaf,exit=3")).unwrap();
        let expected = Knobs {
            boot: Duration::from_millis(500),
            exit: Some(3),
            ignore_eof: true,
            deaf: true,
            ..Knobs::default()
        };
        assert_eq!(knobs, expected);
    }

    #[test]
    fn ordinary_models_have_none_and_misspelt_knobs_are_refused() {
        assert_eq!(Knobs::parse(None, Some("claude-opus-5-5")).unwrap(), Knobs::default());
        assert_eq!(Knobs::parse(None, Some("fake")).unwrap(), Knobs::default());
        assert!(Knobs::parse(None, Some("fake:deff")).is_err());
        assert!(Knobs::parse(Some("boot=soon"), None).is_err());
    }
}
