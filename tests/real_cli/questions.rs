//! The model asks the user: what it asks is told in fields, and what callers answer is what the
//! model is told. Nobody's consent is invented.

use session_pool::proto::{
    PromptAllow, PromptAnswers, PromptDeny, PromptEvent, PromptKind, respond_request::Decision,
    turn_event::Kind,
};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, tool_results},
    support::{reason, service::query, turn::Turn},
};

each_version!(pinned:
    one_question_and_several_are_answered,
    a_question_without_an_answer_stays_open,
    a_question_can_be_refused,
);

const ONE: &str = r#"{"question":"Which colour?","header":"Colour","multiSelect":false,
    "options":[{"label":"Red","description":"like fire"},{"label":"Blue","description":"like sky"}]}"#;
const MANY: &str = r#"{"question":"Which sizes?","header":"Sizes","multiSelect":true,
    "options":[{"label":"S","description":"small"},{"label":"M","description":"medium"}]}"#;

fn asking(questions: &[&str]) -> String {
    let questions = questions.join(",").replace('\n', " ");
    format!(r#"[[tool AskUserQuestion {{"questions":[{questions}]}}]] [[say understood]]"#)
}

fn answers(pairs: &[(&str, &str)]) -> Decision {
    let pairs = pairs.iter().map(|(question, answer)| ((*question).into(), (*answer).into()));
    Decision::Answers(PromptAnswers { answers: pairs.collect() })
}

/// Opens a turn that asks, up to its prompt.
async fn asked(bed: &Bed, questions: &[&str]) -> (Turn, PromptEvent) {
    let mut turn = bed.open(query("a", &asking(questions))).await;
    loop {
        let event = turn.next().await.expect("it asks before it ends");
        if let Some(Kind::Prompt(prompt)) = event.kind {
            return (turn, prompt);
        }
    }
}

/// What the model was told.
async fn told(mut turn: Turn) -> String {
    turn.finish().await;
    assert!(!turn.result().is_error, "{:?}", turn.result());
    tool_results(&turn).join("\n")
}

async fn one_question_and_several_are_answered(version: Version) {
    let bed = Bed::start(version).await;
    let (turn, prompt) = asked(&bed, &[ONE]).await;
    assert_eq!((prompt.kind(), prompt.questions.len()), (PromptKind::Question, 1));
    let question = &prompt.questions[0];
    assert_eq!((question.question.as_str(), question.header.as_str()), ("Which colour?", "Colour"));
    assert_eq!((question.options[1].label.as_str(), question.multi_select), ("Blue", false));
    bed.respond("a", &prompt.prompt_id, answers(&[("Which colour?", "Blue")])).await.expect("open");
    let told_one = told(turn).await;
    assert!(told_one.contains("Which colour?") && told_one.contains("Blue"), "{told_one}");

    let (turn, prompt) = asked(&bed, &[ONE, MANY]).await;
    assert!(prompt.questions[1].multi_select);
    let both = answers(&[("Which colour?", "Green, like grass"), ("Which sizes?", "S, M")]);
    bed.respond("a", &prompt.prompt_id, both).await.expect("open");
    let told_both = told(turn).await;
    assert!(told_both.contains("Green, like grass") && told_both.contains("S, M"), "{told_both}");
    bed.stop().await;
}

async fn a_question_without_an_answer_stays_open(version: Version) {
    let bed = Bed::start(version).await;
    let (turn, prompt) = asked(&bed, &[ONE, MANY]).await;
    for (wrong, field) in [
        (answers(&[("Which colour?", "Red")]), "answers.answers"),
        (answers(&[("Which colour?", "Red"), ("Which sizes?", "")]), "answers.answers"),
        (
            answers(&[("Which colour?", "Red"), ("Which sizes?", "S"), ("Who?", "I")]),
            "answers.answers",
        ),
        (Decision::Allow(PromptAllow::default()), "allow.updated_input_json"),
    ] {
        let status = bed.respond("a", &prompt.prompt_id, wrong).await.expect_err("it does not fit");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_ARGUMENT")
        );
        assert!(status.message().starts_with(field), "{status:?}");
    }
    let both = answers(&[("Which colour?", "Red"), ("Which sizes?", "S")]);
    bed.respond("a", &prompt.prompt_id, both).await.expect("it is still open");
    let told = told(turn).await;
    assert!(told.contains("Red"), "{told}");
    bed.stop().await;
}

async fn a_question_can_be_refused(version: Version) {
    let bed = Bed::start(version).await;
    let (turn, prompt) = asked(&bed, &[ONE]).await;
    let deny = Decision::Deny(PromptDeny { message: "ask me tomorrow".into(), interrupt: false });
    bed.respond("a", &prompt.prompt_id, deny).await.expect("open");
    let told = told(turn).await;
    assert!(told.contains("ask me tomorrow"), "{told}");
    bed.stop().await;
}
