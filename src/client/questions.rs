//! The model's questions at a terminal: shown one after the other with their choices, and
//! answered by the numbers of choices or by words.

use std::fmt::Write as _;

use super::values::one_line;
use crate::proto::{PromptAnswers, Question};

/// Questions of one prompt, and the answers so far.
#[derive(Debug, Default)]
pub struct Questions {
    answers: Vec<String>,
}

impl Questions {
    /// The question that is next, as it is shown; `None` if all are answered.
    pub fn shown(&self, questions: &[Question]) -> Option<String> {
        let question = questions.get(self.answers.len())?;
        let mut text = format!("? {}\n", one_line(&question.question));
        for (number, option) in (1..).zip(&question.options) {
            let (label, about) = (one_line(&option.label), one_line(&option.description));
            let about = if about.is_empty() { about } else { format!("  ({about})") };
            writeln!(text, "  {number}. {label}{about}").ok();
        }
        let how = match (question.options.is_empty(), question.multi_select) {
            (true, _) => "Your answer: ",
            (false, false) => "A number, or your own words: ",
            (false, true) => "Numbers with commas, or your own words: ",
        };
        text.push_str("  ");
        text.push_str(how);
        Some(text)
    }

    /// Takes the answer to the question that is next; false if the line is none.
    pub fn take(&mut self, questions: &[Question], line: &str) -> bool {
        let Some(question) = questions.get(self.answers.len()) else { return false };
        let Some(answer) = answer(question, line.trim()) else { return false };
        self.answers.push(answer);
        true
    }

    /// The answers, once there is one to each question.
    pub fn all(&self, questions: &[Question]) -> Option<PromptAnswers> {
        let texts = questions.iter().map(|question| question.question.clone());
        let is_done = self.answers.len() >= questions.len();
        is_done
            .then(|| PromptAnswers { answers: texts.zip(self.answers.iter().cloned()).collect() })
    }
}

/// Numbers are choices, as far as there are so many; anything else is an answer in words.
fn answer(question: &Question, line: &str) -> Option<String> {
    if line.is_empty() {
        return None;
    }
    let numbers: Option<Vec<usize>> =
        line.split(',').map(|number| number.trim().parse().ok()).collect();
    let Some(numbers) = numbers.filter(|_| !question.options.is_empty()) else {
        return Some(line.to_owned());
    };
    if numbers.len() > 1 && !question.multi_select {
        return None;
    }
    let label = |number: &usize| question.options.get(number.checked_sub(1)?);
    let labels: Option<Vec<&str>> =
        numbers.iter().map(|number| Some(label(number)?.label.as_str())).collect();
    labels.map(|labels| labels.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::QuestionOption;

    fn question(text: &str, labels: &[&str], multi_select: bool) -> Question {
        let options = labels.iter().map(|label| QuestionOption {
            label: (*label).to_owned(),
            ..QuestionOption::default()
        });
        Question {
            question: text.into(),
            options: options.collect(),
            multi_select,
            ..Question::default()
        }
    }

    #[test]
    fn choices_are_answered_by_number_and_everything_by_words() {
        let one = question("Which?", &["A", "B"], false);
        let many = question("Which ones?", &["A", "B"], true);
        let open = question("Who?", &[], false);
        for (question, line, expected) in [
            (&one, "2", Some("B")),
            (&one, "neither", Some("neither")),
            (&one, "1,2", None),
            (&one, "3", None),
            (&one, "0", None),
            (&one, "", None),
            (&many, "1, 2", Some("A, B")),
            (&many, "2", Some("B")),
            (&open, "7", Some("7")),
        ] {
            assert_eq!(answer(question, line).as_deref(), expected, "{line:?}");
        }
    }

    #[test]
    fn questions_are_asked_one_after_the_other() {
        let all = [question("Which?", &["A", "B"], false), question("Who?", &[], false)];
        let mut asked = Questions::default();
        assert!(asked.shown(&all).expect("the first").contains("2. B"));
        assert!(!asked.take(&all, " ") && asked.take(&all, "1") && asked.all(&all).is_none());
        assert!(asked.shown(&all).expect("the second").starts_with("? Who?"));
        assert!(asked.take(&all, "Ada"));
        let answers = asked.all(&all).expect("all").answers;
        assert_eq!((answers["Which?"].as_str(), answers["Who?"].as_str()), ("A", "Ada"));
        assert_eq!(asked.shown(&all), None);
    }
}
