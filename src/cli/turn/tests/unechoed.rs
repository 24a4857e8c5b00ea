//! Versions that do not say what a result answers, but echo each prompt before its result.

use super::*;

const CRON: &str = r#"{"type":"assistant","message":{"content":
    [{"type":"tool_use","id":"t","name":"CronCreate","input":{"cron":"* * * * *","prompt":"p"}}]}}"#;
const SET: &str = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t",
    "content":"Scheduled recurring job dbaa00bf (Every minute)."}]}}"#;

/// The result of a turn in which the model was asked.
const COMPLETED: &str = r#"{"type":"result","subtype":"success","terminal_reason":"completed"}"#;

/// A turn on a process that has echoed a prompt before, behind these frames.
fn asked_behind(frames: &[&str]) -> TurnReader {
    let mut traits = CliTraits::default();
    traits.note(&frame(&echo()));
    frames.iter().for_each(|line| traits.note(&frame(line)));
    TurnReader::new(Some(PROMPT), &traits, Instant::now())
}

#[test]
fn a_result_without_an_echo_is_of_the_turn_about_a_task_that_has_ended() {
    let other = [
        (TASK_OVER, "System event"),
        (INIT, "System event, moves to c"),
        (TEXT, "Assistant event"),
        (COMPLETED, "another turn is over"),
    ];
    let mine = [other[1], (&echo(), "echo"), (COMPLETED, "over: Completed")];
    let mut reader = asked_behind(&[TASK]);
    // Two tasks end.
    means(&mut reader, &[other, other].concat());
    assert!(!reader.is_certain());
    means(&mut reader, &mine);
    // The turn about the task takes the prompt up.
    let mut reader = asked_behind(&[TASK]);
    means(&mut reader, &other[..2]);
    means(&mut reader, &[(&echo(), "echo"), (COMPLETED, "over: Completed")]);
}

#[test]
fn a_result_without_an_echo_is_of_the_turn_that_a_timer_began() {
    let timer = [INIT, &CRON.replace('\n', ""), &SET.replace('\n', "")];
    let mut reader = asked_behind(&timer);
    means(&mut reader, &[(INIT, "System event, moves to c"), (COMPLETED, "another turn is over")]);
    means(&mut reader, &[(&echo(), "echo"), (COMPLETED, "over: Completed")]);
}

#[test]
fn a_result_without_an_echo_is_the_prompts_where_no_other_turn_may_begin() {
    means(&mut asked_behind(&[TASK]), &[(COMPLETED, "over: Completed")]);
    // Commands of the CLI have no echo, nor have prompts that a hook has blocked.
    let told = [(TASK_OVER, "System event"), (DONE, "over: Completed")];
    means(&mut asked_behind(&[TASK]), &told);
}
