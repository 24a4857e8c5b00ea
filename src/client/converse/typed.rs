//! What a person types in a conversation: lines become prompts.

/// What a line comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A whole prompt.
    Prompt(String),
    /// The prompt is to be written in an editor, beginning with this.
    Edit(String),
    /// Nothing, or nothing yet.
    Nothing,
}

/// Lines of a prompt that goes on.
#[derive(Debug, Default)]
pub struct Typed {
    begun: Vec<String>,
}

impl Typed {
    /// Takes the next line.
    pub fn take(&mut self, line: &str) -> Said {
        // A paste can bring what no key types and no prompt takes.
        let line: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        if line.trim() == ":edit" {
            return Said::Edit(std::mem::take(&mut self.begun).join("\n"));
        }
        if let Some(line) = line.strip_suffix('\\') {
            self.begun.push(line.to_owned());
            return Said::Nothing;
        }
        self.begun.push(line);
        prompt(&std::mem::take(&mut self.begun).join("\n"))
    }
}

/// A text as a prompt, if it says something.
pub fn prompt(text: &str) -> Said {
    let text = text.trim_end();
    if text.trim().is_empty() { Said::Nothing } else { Said::Prompt(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_prompt_unless_it_says_nothing_or_goes_on() {
        let mut typed = Typed::default();
        assert_eq!(typed.take("hello"), Said::Prompt("hello".into()));
        for nothing in ["", "  ", "\u{1b}"] {
            assert_eq!(typed.take(nothing), Said::Nothing, "{nothing:?}");
        }
        assert_eq!(typed.take("one\\"), Said::Nothing);
        assert_eq!(typed.take("  two \\"), Said::Nothing);
        assert_eq!(typed.take("three "), Said::Prompt("one\n  two \nthree".into()));
        assert_eq!(typed.take("\\"), Said::Nothing);
        assert_eq!(typed.take(""), Said::Nothing);
        assert_eq!(typed.take("a\u{1b}[A\tb\0"), Said::Prompt("a[A\tb".into()));
    }

    #[test]
    fn an_editor_takes_over_what_was_begun() {
        let mut typed = Typed::default();
        assert_eq!(typed.take(":edit"), Said::Edit(String::new()));
        typed.take("one\\");
        assert_eq!(typed.take(" :edit "), Said::Edit("one".into()));
        assert_eq!(typed.take("say :edit"), Said::Prompt("say :edit".into()));
    }
}
