//! What a session has come to beyond the options that it was asked to have: the permission
//! mode and the model that its CLI reports, the effort that a prompt chose, and what callers
//! granted in their answers. It outlives the process; another one is started with what is in
//! force.

use serde::{Deserialize, Serialize};

use crate::domain::{
    grants::{Grants, MOST_FOLDERS},
    options::{Difference, EFFORT, MODEL, Options, PERMISSION_MODE},
};

/// What a session has come to beyond its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acquired {
    /// The permission mode in force, where it is another than was asked for: a plan was
    /// approved, or the model began to make one.
    pub mode: Option<String>,
    /// The model in force, where it is another than was asked for, or none was.
    pub model: Option<String>,
    /// The effort in force, where a prompt chose another than was asked for.
    pub effort: Option<String>,
    /// The mode that the CLI begins with where none was asked for.
    pub default_mode: Option<String>,
    /// The model that the CLI begins with where none was asked for.
    pub default_model: Option<String>,
    /// The next mode that the CLI reports is the one that it begins with: nobody asked for
    /// one in this conversation, or it was reset.
    pub own_mode: bool,
    /// The same of the model.
    pub own_model: bool,
    /// Rules and folders.
    pub grants: Grants,
    /// What the running process calls the model that was asked for.
    #[serde(skip)]
    pub model_called: Option<String>,
}

impl Acquired {
    /// The options in force.
    pub fn in_force(&self, asked: &Options) -> Options {
        Options {
            permission_mode: self.mode.clone().or_else(|| asked.permission_mode.clone()),
            model: self.model.clone().or_else(|| asked.model.clone()),
            effort: self.effort.clone().or_else(|| asked.effort.clone()),
            ..asked.clone()
        }
    }

    /// What has to change for `wanted` to hold.
    pub fn difference(&self, asked: &Options, wanted: &Options) -> Difference {
        let mut current = self.in_force(asked);
        // There is nothing to take back of what the CLI chose by itself.
        if wanted.resets(PERMISSION_MODE) && self.is_in_default_mode(asked) {
            current.permission_mode = None;
        }
        if wanted.resets(MODEL) && self.has_default_model(asked) {
            current.model = None;
        }
        current.difference(wanted)
    }

    /// Whether the mode is the CLI's own choice.
    fn is_in_default_mode(&self, asked: &Options) -> bool {
        asked.permission_mode.is_none() && self.mode == self.default_mode
    }

    /// Whether the model is the CLI's own choice.
    fn has_default_model(&self, asked: &Options) -> bool {
        asked.model.is_none() && self.model == self.default_model
    }

    /// The options that a process is started with: those in force, and the granted folders.
    pub fn to_start(&self, asked: &Options) -> Options {
        let mut options = self.in_force(asked);
        // The CLI does not start with a model that is its own fallback.
        if self.model.is_some() && self.model == asked.fallback_model {
            options.model.clone_from(&asked.model);
        }
        // The CLI would take over what the conversation had.
        let own = [(PERMISSION_MODE, self.own_mode), (MODEL, self.own_model)];
        options.reset.extend(own.into_iter().filter(|(_, own)| *own).map(|(name, _)| name));
        for folder in &self.grants.folders {
            let room = options.add_dirs.len() < MOST_FOLDERS;
            if room && !options.add_dirs.contains(folder) {
                options.add_dirs.push(folder.clone());
            }
        }
        options
    }

    /// A conversation begins: what nobody asks for is the CLI's own choice, which one that is
    /// taken up need not be.
    pub fn begin_conversation(&mut self, asked: &Options) {
        self.own_mode = self.mode.is_none() && asked.permission_mode.is_none();
        self.own_model = self.model.is_none() && asked.model.is_none();
    }

    /// Another process serves the session: it may call a model by another name.
    pub fn begin_process(&mut self) {
        self.model_called = None;
    }

    /// The CLI says in which permission mode it is. Returns whether that is news.
    pub fn hear_mode(&mut self, mode: &str, asked: &Options) -> bool {
        if !is_a_name(mode) {
            return false;
        }
        if std::mem::take(&mut self.own_mode) {
            self.default_mode = Some(mode.to_owned());
        }
        let other = (asked.permission_mode.as_deref() != Some(mode)).then(|| mode.to_owned());
        let news = self.mode != other;
        self.mode = other;
        news
    }

    /// The CLI says which model it uses. The first name that it has for the model that was
    /// asked for is taken for that one (an alias, or a name that is no more); a later
    /// change is none that an option asked for. Returns whether there is news.
    pub fn hear_model(&mut self, model: &str, asked: &Options) -> bool {
        if !is_a_name(model) {
            return false;
        }
        if std::mem::take(&mut self.own_model) {
            self.default_model = Some(model.to_owned());
        }
        if asked.model.is_some() && self.model.is_none() {
            let called = self.model_called.get_or_insert_with(|| model.to_owned());
            if called == model {
                return false;
            }
        }
        let news = self.model.as_deref() != Some(model);
        self.model = Some(model.to_owned());
        news
    }

    /// A prompt has chosen an effort. Returns whether that is news.
    pub fn choose_effort(&mut self, effort: &str, asked: &Options) -> bool {
        if !is_a_name(effort) {
            return false;
        }
        let other = (asked.effort.as_deref() != Some(effort)).then(|| effort.to_owned());
        let news = self.effort != other;
        self.effort = other;
        news
    }

    /// Options are asked for anew, and hold: what they say is in force, and nothing of what
    /// they reset.
    pub fn asked_anew(&mut self, before: &Options, wanted: &Options) {
        let lost = self.difference(before, wanted).fixed;
        let loses = |name| wanted.resets(name) && lost.contains(&name);
        let (loses_mode, loses_model) = (loses(PERMISSION_MODE), loses(MODEL));
        if wanted.permission_mode.is_some() || loses_mode {
            self.mode = None;
            self.own_mode = loses_mode;
        }
        if wanted.effort.is_some() || loses(EFFORT) {
            self.effort = None;
        }
        let model = self.model.as_ref().or(before.model.as_ref());
        if wanted.model.is_some() || loses_model {
            if model != wanted.model.as_ref() {
                self.model_called = None;
            } else if self.model.is_some() {
                self.model_called.clone_from(&self.model);
            }
            self.model = None;
            self.own_model = loses_model;
        }
    }
}

/// Whether the CLI may call a model or a mode so. An agent can speak in its name: no more is
/// kept and shown than a caller may say.
pub fn is_a_name(text: &str) -> bool {
    const LONGEST: usize = 256;
    !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::domain::acquired::*;

    fn asked(model: Option<&str>, mode: Option<&str>) -> Options {
        Options {
            model: model.map(str::to_owned),
            permission_mode: mode.map(str::to_owned),
            ..Options::default()
        }
    }

    #[test]
    fn e3_an_approved_plan_is_another_mode_than_was_asked_for() {
        let plan = asked(None, Some("plan"));
        let mut acquired = Acquired::default();
        assert!(!acquired.hear_mode("plan", &plan));
        assert!(acquired.hear_mode("acceptEdits", &plan));
        let in_force = acquired.in_force(&plan);
        assert_eq!(in_force.permission_mode.as_deref(), Some("acceptEdits"));
        assert_eq!(in_force.difference(&plan).live.len(), 1, "plan has to be asked for again");
        assert_eq!(in_force.difference(&Options::default()).live, []);
        acquired.asked_anew(&plan, &plan);
        assert_eq!(acquired.in_force(&plan), plan);
    }

    #[test]
    fn e3_an_alias_is_the_model_that_the_cli_first_calls_by_it() {
        let sonnet = asked(Some("sonnet"), None);
        let mut acquired = Acquired::default();
        assert!(!acquired.hear_model("claude-sonnet-4-6", &sonnet));
        assert!(!acquired.hear_model("claude-sonnet-4-6", &sonnet));
        assert_eq!(acquired.in_force(&sonnet), sonnet);
        // Somebody said `/model opus`.
        assert!(acquired.hear_model("claude-opus-4-6", &sonnet));
        assert_eq!(acquired.in_force(&sonnet).model.as_deref(), Some("claude-opus-4-6"));
        acquired.asked_anew(&sonnet, &sonnet);
        assert!(!acquired.hear_model("claude-sonnet-4-7", &sonnet), "another process, say");
        assert_eq!(acquired.in_force(&sonnet), sonnet);
    }

    #[test]
    fn e3_a_process_goes_on_with_the_model_that_nobody_asked_for() {
        let mut acquired = Acquired::default();
        assert!(acquired.hear_model("claude-opus-4-8[1m]", &Options::default()));
        let to_start = acquired.to_start(&Options::default());
        assert_eq!(to_start.model.as_deref(), Some("claude-opus-4-8[1m]"));
        let fallback =
            Options { fallback_model: Some("claude-opus-4-8[1m]".into()), ..Options::default() };
        assert_eq!(acquired.to_start(&fallback), fallback);
    }

    #[test]
    fn e3_an_effort_that_a_prompt_chose_holds_until_another_is_asked_for() {
        let high = Options { effort: Some("high".into()), ..Options::default() };
        let mut acquired = Acquired::default();
        assert!(!acquired.choose_effort("high", &high) && !acquired.choose_effort("", &high));
        assert!(acquired.choose_effort("low", &high));
        assert_eq!(acquired.to_start(&high).effort.as_deref(), Some("low"));
        assert_eq!(acquired.difference(&high, &Options::default()), Difference::default());
        assert_eq!(acquired.difference(&high, &high).live.len(), 1);
        assert_eq!(acquired.difference(&high, &reset(&[EFFORT])).fixed, [EFFORT]);
        for wanted in [&high, &reset(&[EFFORT])] {
            let mut acquired = acquired.clone();
            acquired.asked_anew(&high, wanted);
            assert_eq!(acquired, Acquired::default());
        }
        acquired.asked_anew(&high, &Options::default());
        let kept = serde_json::to_string(&acquired).expect("JSON");
        let kept: Acquired = serde_json::from_str(&kept).expect("a later life");
        assert_eq!(kept.in_force(&high).effort.as_deref(), Some("low"));
    }

    fn reset(names: &[&'static str]) -> Options {
        Options { reset: names.iter().copied().collect(), ..Options::default() }
    }

    #[test]
    fn d6_a_reset_takes_back_what_the_cli_came_to_and_the_next_process_begins_anew() {
        let both = reset(&[MODEL, PERMISSION_MODE]);
        let unasked = Options::default();
        let mut acquired = Acquired::default();
        acquired.begin_conversation(&unasked);
        acquired.hear_mode("default", &unasked);
        acquired.hear_model("opus", &unasked);
        // It chose them by itself.
        let before = acquired.clone();
        assert_eq!(acquired.difference(&unasked, &both), Difference::default());
        acquired.asked_anew(&unasked, &both);
        assert_eq!(acquired, before);
        assert!(acquired.to_start(&unasked).reset.is_empty());

        // The model made a plan, somebody said `/model`, and somebody granted a folder.
        acquired.hear_mode("plan", &unasked);
        acquired.hear_model("sonnet", &unasked);
        acquired.grants.folders.push("/a".into());
        assert_eq!(acquired.difference(&unasked, &both).fixed, [MODEL, PERMISSION_MODE]);
        acquired.asked_anew(&unasked, &both);
        assert_eq!(acquired.in_force(&unasked), unasked);
        let to_start = Options { add_dirs: vec!["/a".into()], ..both.clone() };
        assert_eq!(acquired.to_start(&unasked), to_start);
        assert_eq!(acquired.difference(&unasked, &both), Difference::default());
        let kept = serde_json::to_string(&acquired).expect("JSON");
        let kept: Acquired = serde_json::from_str(&kept).expect("an older life");
        assert_eq!(kept.to_start(&unasked), to_start);

        acquired.hear_mode("default", &unasked);
        acquired.hear_model("opus", &unasked);
        assert!(acquired.to_start(&unasked).reset.is_empty(), "it has begun");
    }

    #[test]
    fn d6_what_a_conversation_brings_along_is_not_the_choice_of_the_cli() {
        let unasked = Options::default();
        let mut acquired = Acquired::default();
        acquired.hear_mode("plan", &unasked);
        acquired.hear_model("sonnet", &unasked);
        let both = reset(&[MODEL, PERMISSION_MODE]);
        assert_eq!(acquired.difference(&unasked, &both).fixed, [MODEL, PERMISSION_MODE]);
    }

    #[test]
    fn d6_what_is_asked_for_after_a_reset_goes_before_it() {
        let plan = asked(Some("sonnet"), Some("plan"));
        let mut acquired = Acquired::default();
        acquired.asked_anew(&plan, &reset(&[MODEL, PERMISSION_MODE]));
        let unasked = Options::default();
        assert_eq!(acquired.to_start(&unasked).reset, [MODEL, PERMISSION_MODE].into());
        acquired.asked_anew(&unasked, &plan);
        assert_eq!(acquired, Acquired::default());
        assert_eq!(acquired.to_start(&plan), plan);
    }

    #[test]
    fn e3_what_no_caller_could_say_is_not_taken_from_the_cli() {
        let options = Options::default();
        let mut acquired = Acquired::default();
        for said in ["", "a\nb", &"x".repeat(257)] {
            assert!(!acquired.hear_mode(said, &options) && !acquired.hear_model(said, &options));
        }
        assert_eq!(acquired, Acquired::default());
        assert!(acquired.hear_model(&"x".repeat(256), &options));
    }

    #[test]
    fn e3_granted_folders_are_given_at_the_start_once() {
        let asked = Options { add_dirs: vec!["/a".into()], ..Options::default() };
        let grants = Grants { folders: vec!["/b".into(), "/a".into()], ..Grants::default() };
        let acquired = Acquired { grants, ..Acquired::default() };
        assert_eq!(acquired.to_start(&asked).add_dirs, ["/a", "/b"]);
        assert_eq!(acquired.in_force(&asked).add_dirs, ["/a"]);
    }

    fn name() -> impl Strategy<Value = Option<String>> {
        prop::option::of("[a-c]")
    }

    proptest! {
        /// Whatever was asked and heard: the mode in force is what was heard last, what is
        /// asked for anew is in force, and what is reset is not.
        #[test]
        fn d6_e3_what_was_said_last_is_in_force(
            said in prop::collection::vec((any::<bool>(), name(), name(), any::<bool>()), 1..20),
        ) {
            let (mut options, mut acquired) = (Options::default(), Acquired::default());
            acquired.begin_conversation(&options);
            for (by_cli, model, mode, resets) in said {
                if by_cli {
                    acquired.hear_model(model.as_deref().unwrap_or_default(), &options);
                    acquired.hear_mode(mode.as_deref().unwrap_or_default(), &options);
                } else {
                    let mut wanted = asked(model.as_deref(), mode.as_deref());
                    let unsaid = [MODEL, PERMISSION_MODE].into_iter().filter(|n| !wanted.says(n));
                    wanted.reset = unsaid.filter(|_| resets).collect();
                    acquired.asked_anew(&options, &wanted);
                    options = options.updated(&wanted);
                    let in_force = acquired.in_force(&options);
                    prop_assert_eq!(in_force.difference(&wanted).live, []);
                    let nothing = Difference::default();
                    prop_assert_eq!(acquired.difference(&options, &wanted), nothing);
                }
                if let Some(mode) = mode {
                    prop_assert_eq!(acquired.in_force(&options).permission_mode, Some(mode));
                }
            }
        }
    }
}
