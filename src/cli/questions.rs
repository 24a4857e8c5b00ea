//! The tool by which the model asks the user: its questions, and the answers to them. It asks for
//! a permission like any tool. The answers go back to the CLI in the tool's input, under the key
//! `answers`, each under the text of its question (seen on 2.1.197 to 2.1.332); several choices
//! are one text, joined by a comma and a space.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, value::RawValue};

use super::json::{Extra, Json, Rest as _, Text, members, read_or_default, view};

/// The name of the tool.
pub const TOOL: &str = "AskUserQuestion";

/// Characters of a question that a refusal shows.
const SHOWN: usize = 100;

/// The key of the answers in the tool's input.
const ANSWERS: &str = "answers";

view! {
    /// The tool's input.
    Asked {
        /// What it asks.
        "questions" => questions: Vec<Question<'a>>,
    }
}

view! {
    /// A question of the model.
    Question {
        /// The question in words, by which it is answered.
        "question" => question: Json<'a>,
        /// A word or two that say what it is about.
        "header" => header: Text<'a>,
        /// Whether several choices may be made.
        "multiSelect" => multi_select: bool,
        /// What may be chosen; another text is an answer, too.
        "options" => options: Vec<Choice<'a>>,
    }
}

view! {
    /// What may be chosen as an answer.
    Choice {
        /// The answer.
        "label" => label: Text<'a>,
        /// What it means.
        "description" => description: Text<'a>,
    }
}

impl Question<'_> {
    /// The question in words.
    pub fn text(&self) -> String {
        read_or_default::<Text<'_>>(self.question).into_string()
    }
}

/// The questions in the tool's input; none where it cannot be read.
pub fn questions(input: &str) -> Vec<Question<'_>> {
    Asked::parse(input).unwrap_or_default().questions
}

/// What is wrong with answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// A question has no answer, or an empty one.
    Missing(String),
    /// An answer is to no question.
    Unknown(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As long as a refusal can show; the model may ask much.
        let cut = |text: &str| text.chars().take(SHOWN).collect::<String>();
        match self {
            Self::Missing(text) => write!(f, "must have an answer to {:?}", cut(text)),
            Self::Unknown(text) => {
                write!(f, "must not have an answer to {:?}, which was not asked", cut(text))
            }
        }
    }
}

/// Whether an input has answers that its caller put there.
pub fn has_answers(input: &str) -> bool {
    let mut found = false;
    members(input, |key, _, value| {
        found |= key == ANSWERS && members(value.get(), |_, _, _| {}) && value.get() != "{}";
    });
    found
}

/// The tool's input with the answers in it: one to each question, and to nothing else. Nobody
/// consents by silence.
///
/// # Errors
/// All that is wrong, the questions first.
pub fn answered(
    input: &str,
    answers: &BTreeMap<String, String>,
) -> Result<String, Vec<Unanswered>> {
    let questions = questions(input);
    let texts: Vec<String> = questions.iter().map(Question::text).collect();
    let is_given = |text: &String| answers.get(text).is_some_and(|answer| !answer.is_empty());
    let missing = texts.iter().filter(|text| !is_given(text)).cloned().map(Unanswered::Missing);
    let unknown = answers.keys().filter(|text| !texts.contains(text));
    let wrong: Vec<_> = missing.chain(unknown.cloned().map(Unanswered::Unknown)).collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    // The key is the question as it came: it may hold what no reader of JSON gives back.
    let mut given = Extra::default();
    for (question, text) in questions.iter().zip(&texts) {
        let answer = answers.get(text).map_or(Value::Null, |answer| Value::from(answer.as_str()));
        push(&mut given, question.question.map_or("\"\"", RawValue::get), &answer.to_string());
    }
    let mut updated = Extra::default();
    members(input, |key, name, value| {
        if key != ANSWERS {
            updated.push(name.get(), value);
        }
    });
    let given = given.finish();
    let given = if given.is_empty() { "{}" } else { &given };
    push(&mut updated, &Value::from(ANSWERS).to_string(), given);
    Ok(updated.finish())
}

fn push(object: &mut Extra, name: &str, value: &str) {
    if let Ok(value) = serde_json::from_str::<&RawValue>(value) {
        object.push(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &str = r#"{"questions":[{"question":"Which one?","header":"One","options":[{"label":"A","description":"the first"},{"label":"B"}],"multiSelect":false},{"question":"Which \ud83d?","multiSelect":true,"options":7}],"n":1e400}"#;

    fn answers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(question, answer)| ((*question).into(), (*answer).into())).collect()
    }

    #[test]
    fn questions_are_read_however_odd_they_are() {
        let read = questions(INPUT);
        assert_eq!(
            (read.len(), read[0].text().as_str(), &*read[0].header.0),
            (2, "Which one?", "One")
        );
        assert_eq!(
            (&*read[0].options[0].label.0, &*read[0].options[0].description.0),
            ("A", "the first")
        );
        assert!(!read[0].multi_select && read[1].multi_select && read[1].options.is_empty());
        for odd in ["", "[]", "{}", r#"{"questions":5}"#, r#"{"questions":[7,null]}"#] {
            assert!(questions(odd).iter().all(|question| question.text().is_empty()), "{odd}");
        }
    }

    #[test]
    fn answers_go_back_under_their_questions_and_the_rest_byte_for_byte() {
        let given = answers(&[("Which one?", "A"), ("Which \u{fffd}?", "x, \"y\"")]);
        let updated = answered(INPUT, &given).expect("answered");
        let rest = INPUT.strip_suffix('}').expect("an object");
        let wanted = r#"{"Which one?":"A","Which \ud83d?":"x, \"y\""}"#;
        assert_eq!(updated, format!(r#"{rest},"answers":{wanted}}}"#));
        // Answers that the model made up itself do not count.
        let forged = format!(r#"{rest},"answers":{{"Which one?":"B"}}}}"#);
        assert_eq!(answered(&forged, &given), Ok(updated));
    }

    #[test]
    fn no_answer_is_invented_and_none_is_given_to_nothing() {
        let some = answers(&[("Which one?", ""), ("Other?", "A")]);
        let missing = |text: &str| Unanswered::Missing(text.into());
        let unknown = Unanswered::Unknown("Other?".into());
        let wrong = vec![missing("Which one?"), missing("Which \u{fffd}?"), unknown];
        assert_eq!(answered(INPUT, &some), Err(wrong));
        assert_eq!(answered("{}", &answers(&[])).as_deref(), Ok(r#"{"answers":{}}"#));
    }
}
