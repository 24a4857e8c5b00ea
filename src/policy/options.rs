//! What a session's options may say: when they are asked for, and again before a process is
//! started with them.

use serde_json::{Map, Value};

use super::{Denial, Policy, listed, variables};
use crate::domain::{options::Options, redacted::Redacted};

impl Policy {
    /// The options as they are used from here on, or everything about them that is not
    /// allowed. What comes out is what was judged: a folder is its real path, and JSON is
    /// written anew. May look at the file system.
    pub fn admit(&self, mut options: Options) -> Result<Options, Vec<Denial>> {
        let mut denials = Vec::new();
        // An option that is added and not judged does not compile.
        let Options {
            permission_mode,
            cwd,
            add_dirs,
            mcp_servers,
            agents,
            settings,
            env: Redacted(env),
            setting_sources,
            tool_servers,
            // Words for the model, limits, and the tools of the session's own agent: they
            // reach nothing that the session cannot reach without them.
            model: _,
            fallback_model: _,
            system_prompt: _,
            append_system_prompt: _,
            allowed_tools: _,
            disallowed_tools: _,
            tools: _,
            max_turns: _,
            max_budget_usd: _,
            max_thinking_tokens: _,
            effort: _,
            json_schema: _,
            betas: _,
            // What they ask callers can answer as they answer prompts, and rules that refuse a tool
            // hold whatever a hook says.
            hooks: _,
            reset: _,
        } = &mut options;
        if permission_mode.as_ref().is_some_and(|mode| !self.permission_modes.contains(mode)) {
            denials.push(Denial::new(".permission_mode", self.allowed_modes()));
        }
        if let Some(path) = cwd {
            denials.extend(self.admit_folder(".cwd".to_owned(), path));
        }
        for (index, path) in add_dirs.iter_mut().enumerate() {
            denials.extend(self.admit_folder(format!(".add_dirs[{index}]"), path));
        }
        if let Some(Redacted(text)) = mcp_servers {
            let judged = rewritten(text, |config| self.judge_mcp_config(config));
            denials.extend(below(".mcp_servers", judged));
        }
        if let Some(text) = agents {
            let judged = rewritten(text, |agents| self.judge_agents(agents));
            denials.extend(below(".agents", judged));
        }
        if let Some(Redacted(text)) = settings {
            let judged = rewritten(text, |_| self.judge_settings());
            denials.extend(below(".settings", judged));
        }
        denials.extend(self.judge_variables(env.keys()));
        denials.extend(self.judge_sources(setting_sources));
        if !tool_servers.is_empty() {
            denials.extend(
                self.judge_tool_servers().map(|allowed| Denial::new(".tool_servers", allowed)),
            );
        }
        if denials.is_empty() { Ok(options) } else { Err(denials) }
    }

    /// What is not allowed any more of options that were admitted before. The policy may be
    /// another one since a restart, and a folder may have become a link: to go where that
    /// leads was never asked for, even below a root. May look at the file system.
    pub fn judge_again(&self, options: &Options) -> Vec<Denial> {
        let admitted = match self.admit(options.clone()) {
            Ok(admitted) => admitted,
            Err(denials) => return denials,
        };
        let has_moved = [
            (".cwd", admitted.cwd != options.cwd),
            (".add_dirs", admitted.add_dirs != options.add_dirs),
        ];
        let moved = has_moved.into_iter().find(|(_, has_moved)| *has_moved);
        let allowed = "a folder that is still what it was when it was asked for";
        moved.map(|(at, _)| Denial::new(at, allowed)).into_iter().collect()
    }

    /// Puts the real path in the place of a folder's path.
    fn admit_folder(&self, at: String, path: &mut String) -> Option<Denial> {
        match self.cwd_roots.resolve(path) {
            Some(real) => {
                *path = real;
                None
            }
            None => Some(Denial::new(at, self.cwd_roots.allowed())),
        }
    }

    /// Why nobody may offer tools, or use them.
    pub fn judge_tool_servers(&self) -> Option<&'static str> {
        (!self.tool_servers).then_some("none (policy.tool_servers = false)")
    }

    fn judge_settings(&self) -> Vec<Denial> {
        match self.settings {
            true => Vec::new(),
            false => vec![Denial::new("", "none (policy.settings = false)")],
        }
    }

    fn judge_variables<'a>(&self, names: impl Iterator<Item = &'a String>) -> Vec<Denial> {
        let refused = names.filter(|name| !variables::may_set(&self.env, name));
        let denial = |name: &String| {
            let allowed = listed(&self.env);
            let allowed = format!("{allowed}, and none that are reserved (policy.env)");
            Denial::new(format!(".env.{name}"), allowed)
        };
        refused.map(denial).collect()
    }

    fn judge_sources(&self, sources: &[String]) -> Vec<Denial> {
        let sources = sources.iter().enumerate();
        let refused = sources.filter(|(_, source)| !self.setting_sources.contains(source));
        let denial = |(index, _)| {
            let allowed = format!("{} (policy.setting_sources)", listed(&self.setting_sources));
            Denial::new(format!(".setting_sources[{index}]"), allowed)
        };
        refused.map(denial).collect()
    }
}

/// Judges a JSON object, and writes down what was judged.
fn rewritten(
    text: &mut String,
    judge: impl FnOnce(&Map<String, Value>) -> Vec<Denial>,
) -> Vec<Denial> {
    match serde_json::from_str(text) {
        Ok(object) => {
            let denials = judge(&object);
            *text = Value::Object(object).to_string();
            denials
        }
        // Not from a caller: this is checked where requests come in.
        Err(_) => vec![Denial::new("", "a JSON object")],
    }
}

/// Denials of an option's value as denials of the options.
fn below(option: &str, denials: Vec<Denial>) -> impl Iterator<Item = Denial> {
    denials
        .into_iter()
        .map(move |Denial { at, allowed }| Denial::new(format!("{option}{at}"), allowed))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::policy::{McpServers, Roots};

    fn places(denials: &[Denial]) -> Vec<&str> {
        denials.iter().map(|denial| denial.at.as_str()).collect()
    }

    fn hidden(text: &str) -> Option<Redacted<String>> {
        Some(Redacted(text.to_owned()))
    }

    /// One of each option that a policy can refuse.
    fn far_reaching() -> Options {
        Options {
            permission_mode: Some("plan".into()),
            cwd: Some("/".into()),
            add_dirs: vec!["/".into()],
            mcp_servers: hidden(r#"{"mcpServers": {"x": {"command": "secret"}}}"#),
            agents: Some(r#"{"a": {"prompt": "secret"}}"#.into()),
            settings: hidden(r#"{"secret": 1}"#),
            env: Redacted([("TZ".to_owned(), "secret".to_owned())].into()),
            setting_sources: vec!["user".into()],
            tool_servers: vec!["shop".into()],
            ..Options::default()
        }
    }

    #[test]
    fn a_closed_policy_names_all_that_it_refuses_and_no_value() {
        let denials = Policy::default().admit(far_reaching()).expect_err("closed");
        let wanted = [
            ".permission_mode",
            ".cwd",
            ".add_dirs[0]",
            ".mcp_servers",
            ".agents",
            ".settings",
            ".env.TZ",
            ".setting_sources[0]",
            ".tool_servers",
        ];
        assert_eq!(places(&denials), wanted);
        assert!(!format!("{denials:?}").contains("secret"), "{denials:?}");
        assert_eq!(Policy::default().judge_again(&far_reaching()), denials);
        let nothing = Options::default();
        assert_eq!(Policy::default().admit(nothing.clone()), Ok(nothing));
    }

    #[test]
    fn what_is_admitted_is_what_was_judged() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().canonicalize().expect("a real path");
        let path = |name: &str| root.join(name).display().to_string();
        fs::create_dir(path("real")).expect("made");
        symlink(path("real"), path("link")).expect("linked");
        let policy = Policy {
            permission_modes: vec!["plan".into()],
            cwd_roots: Roots::open(&[path("")]).expect("opened"),
            mcp_servers: McpServers::Any,
            settings: true,
            agents: true,
            env: vec!["TZ".into()],
            setting_sources: vec!["user".into()],
            tool_servers: true,
            ..Policy::default()
        };
        let asked = Options {
            cwd: Some(path("link")),
            add_dirs: vec![path("link"), path("real")],
            settings: hidden(r#"{"a": 1, "a": 2}"#),
            ..far_reaching()
        };
        let admitted = policy.admit(asked.clone()).expect("open");
        let wanted = Options {
            cwd: Some(path("real")),
            add_dirs: vec![path("real"), path("real")],
            mcp_servers: hidden(r#"{"mcpServers":{"x":{"command":"secret"}}}"#),
            agents: Some(r#"{"a":{"prompt":"secret"}}"#.into()),
            settings: hidden(r#"{"a":2}"#),
            ..far_reaching()
        };
        assert_eq!(admitted, wanted);
        assert_eq!(policy.admit(admitted.clone()), Ok(admitted.clone()));
        assert_eq!(policy.judge_again(&admitted), []);
        assert_eq!(places(&policy.judge_again(&asked)), [".cwd"]);
        let linked = Options { cwd: None, ..asked };
        assert_eq!(places(&policy.judge_again(&linked)), [".add_dirs"]);
        for text in ["", "[]", "{", "{}{}"] {
            let broken = Options {
                mcp_servers: hidden(text),
                agents: Some(text.to_owned()),
                settings: hidden(text),
                ..Options::default()
            };
            let denials = policy.admit(broken).expect_err("nobody can judge it");
            assert_eq!(places(&denials), [".mcp_servers", ".agents", ".settings"], "{text}");
        }
    }
}
