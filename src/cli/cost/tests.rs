use tokio::sync::oneshot;

use super::*;

/// A result with this sum, and this share of it since the one before.
fn result(total: Option<f64>, since: Option<f64>) -> ResultSummary {
    ResultSummary { total_cost_usd: total, cost_since_last_usd: since, ..ResultSummary::default() }
}

/// A process that took up a conversation and answered this when it was asked.
fn resumed(answer: &str) -> Meter {
    asked(Ok(serde_json::json!({"text": answer}).to_string()))
}

fn asked(outcome: Result<String, String>) -> Meter {
    let (reply, answer) = oneshot::channel();
    reply.send(outcome).expect("it is waited for");
    let opening = Opening::Asked { answer: Some(answer), saved: None };
    Meter { opening, ..Meter::default() }
}

/// The same with a sum in the transcript.
fn resumed_at(saved: f64, answer: &str) -> Meter {
    let mut meter = resumed(answer);
    if let Opening::Asked { saved: of_transcript, .. } = &mut meter.opening {
        *of_transcript = Some(saved);
    }
    meter
}

#[track_caller]
fn costs(meter: &mut Meter, paid: Option<f64>, results: &[(ResultSummary, f64)]) {
    for (result, wanted) in results {
        let cost = meter.charge(result, paid).cost_usd;
        assert!((cost - wanted).abs() < 1e-9, "{cost} in place of {wanted}: {result:?}");
    }
}

/// A process that was asked later, and has answered this.
fn answers(meter: &mut Meter, outcome: Result<&str, &str>) {
    let (reply, answer) = oneshot::channel();
    let outcome = outcome.map(|text| serde_json::json!({"text": text}).to_string());
    reply.send(outcome.map_err(str::to_owned)).expect("it is waited for");
    meter.question = Some(answer);
}

#[track_caller]
fn hears(meter: &mut Meter, text: &str, wanted: f64) {
    answers(meter, Ok(text));
    let cost = meter.heard(None).cost_usd;
    assert!((cost - wanted).abs() < 1e-6, "{cost} in place of {wanted}: {text}");
    assert!(!meter.is_asked());
}

#[test]
fn e2_what_is_told_between_results_is_paid_once() {
    let mut meter = Meter::default();
    costs(&mut meter, None, &[(result(Some(0.3), None), 0.3)]);
    hears(&mut meter, "Total cost:            $0.4000\n", 0.099_95);
    hears(&mut meter, "Total cost:            $0.4000\n", 0.0);
    // Rounded up: what it stands for at least is taken, and the result pays for the rest.
    hears(&mut meter, "Total cost:            $1.30\n", 0.895_05);
    costs(&mut meter, None, &[(result(Some(1.296), None), 0.001_000_01)]);
    // A sum that is older than the result, or not to be read, is no refund.
    hears(&mut meter, "Total cost:            $0.90\n", 0.0);
    hears(&mut meter, "nothing that it understands", 0.0);
    costs(&mut meter, None, &[(result(Some(1.396), None), 0.1)]);
    assert!(!meter.was_reset());
}

#[test]
fn e2_a_process_that_took_up_a_conversation_is_asked_before_its_first_result() {
    // It goes on counting at 1.507; what it was paid for stands behind the rounded figure.
    let mut meter = resumed("Estimated cost:        $1.51\n");
    answers(&mut meter, Ok("Estimated cost:        $2.01\n"));
    let cost = meter.heard(Some(1.507)).cost_usd;
    assert!((cost - 0.498).abs() < 1e-6, "{cost}");
    // And one that counts from 0.
    let mut meter = resumed("Total cost:            $0.0000\n");
    answers(&mut meter, Ok("Total cost:            $0.2500\n"));
    let cost = meter.heard(Some(1.507)).cost_usd;
    assert!((cost - 0.249_95).abs() < 1e-6, "{cost}");
}

#[test]
fn e2_a_process_is_asked_once_it_has_worked_unless_it_cannot_be() {
    let mut meter = Meter::default();
    assert!(!meter.is_behind() && meter.ask_at().is_none());
    meter.note(&FrameKind::State { idle: true });
    assert!(!meter.is_behind());
    meter.note(&FrameKind::StreamEvent);
    let at = meter.ask_at().expect("it has worked");
    meter.note(&FrameKind::Assistant { tool_calls: Vec::new() });
    assert_eq!(meter.ask_at(), Some(at), "by the first of its work");
    // A result tells all.
    costs(&mut meter, None, &[(result(Some(0.3), None), 0.3)]);
    assert!(!meter.is_behind());
    meter.note(&FrameKind::StreamEvent);
    answers(&mut meter, Err("Unsupported control request subtype: get_session_cost"));
    assert!(meter.ask_at().is_none(), "one question at a time");
    assert_eq!(meter.heard(None).cost_usd.to_bits(), 0);
    assert!(!meter.is_behind() && meter.ask_at().is_none(), "2.1.110");
}

#[test]
fn e2_a_turn_costs_what_the_sum_has_grown_by() {
    let plain = |total| result(Some(total), None);
    costs(&mut Meter::default(), None, &[(plain(0.5), 0.5), (plain(0.75), 0.25)]);
}

#[test]
fn e2_a_process_that_counts_from_zero_pays_for_all_of_its_sum() {
    // 2.1.197, whose sum passes the old one within its first turn.
    let mut meter = resumed("Total cost:            $0.0000\nTotal duration (API):  0s");
    let plain = |total| result(Some(total), None);
    costs(&mut meter, Some(0.25), &[(plain(0.75), 0.75), (plain(1.0), 0.25)]);
}

#[test]
fn e2_a_version_that_does_not_know_the_question_counts_from_zero() {
    let mut meter = asked(Err("Unsupported control request subtype: get_session_cost".into()));
    costs(&mut meter, Some(0.25), &[(result(Some(0.75), None), 0.75)]);
}

#[test]
fn e2_a_process_that_goes_on_counting_pays_for_its_own_share() {
    // 2.1.300: the figure is rounded, the sum that was paid is not.
    let mut meter = resumed("Total cost:            $1.51\n");
    costs(&mut meter, Some(1.507_28), &[(result(Some(1.6), None), 0.092_72)]);
    let mut meter = resumed("Total cost:            $1,234.51\n");
    costs(&mut meter, Some(1234.507), &[(result(Some(1235.0), None), 0.493)]);
}

#[test]
fn e2_a_process_that_was_killed_is_paid_although_its_share_is_forgotten() {
    // 0.30 had been told, 0.10 had been saved.
    let mut meter = resumed("Estimated cost:        $0.1000\n");
    costs(&mut meter, Some(0.3), &[(result(Some(0.45), None), 0.35)]);
    // 2.1.330 says what it spent, to the last digit.
    let mut meter = resumed("Estimated cost:        $0.1001\n");
    let (first, second) = (result(Some(0.45), Some(0.349_96)), result(Some(0.5), Some(0.05)));
    costs(&mut meter, Some(0.3), &[(first, 0.349_96), (second, 0.05)]);
}

#[test]
fn e2_a_process_begins_at_what_the_transcript_says_where_its_own_word_may_stand_for_that() {
    // 2.1.300: 0.152804 had been told by the process that was killed.
    let plain = |total| result(Some(total), None);
    let mut meter = resumed_at(0.076_188, "Total cost:            $0.0762\n");
    costs(&mut meter, Some(0.152_804), &[(plain(0.153_104), 0.076_916)]);
    // The process began elsewhere, whatever an agent has written.
    for saved in [0.25, 0.153] {
        let mut meter = resumed_at(saved, "Total cost:            $0.0762\n");
        costs(&mut meter, Some(0.152_804), &[(plain(0.153_104), 0.076_904)]);
    }
    let mut meter = resumed_at(0.25, "Total cost:            $0.0000\n");
    costs(&mut meter, Some(0.25), &[(plain(0.375), 0.375)]);
}

#[test]
fn e2_what_a_turn_without_a_result_has_cost_is_paid_with_the_next() {
    // The process ended in order, and its sum holds 0.15 that no result has told.
    let told = result(Some(0.75), Some(0.25));
    costs(&mut resumed("Estimated cost: $0.50"), Some(0.35), &[(told, 0.4)]);
}

#[test]
fn e2_what_a_conversation_cost_others_is_not_paid_again() {
    let mut meter = resumed("Estimated cost:        $3.25\n");
    costs(&mut meter, None, &[(result(Some(3.5), None), 0.25)]);
    costs(&mut resumed(""), None, &[(result(Some(3.5), Some(0.25)), 0.25)]);
}

#[test]
fn e2_a_sum_that_is_cleared_begins_again() {
    let plain = |total| result(Some(total), None);
    let clear = [(plain(0.5), 0.5), (plain(0.0), 0.0), (plain(0.75), 0.75)];
    let mut meter = Meter::default();
    costs(&mut meter, None, &clear[..1]);
    assert!(!meter.was_reset());
    costs(&mut meter, None, &clear[1..]);
    assert!(meter.was_reset());
    let both = |total, since| result(Some(total), Some(since));
    costs(&mut Meter::default(), None, &[(both(0.5, 0.5), 0.5), (both(0.25, 0.125), 0.125)]);
    // The first result of a process that had begun at more.
    costs(&mut resumed("cost: $0.5000"), Some(0.5), &[(plain(0.0), 0.0), (plain(0.25), 0.25)]);
}

#[test]
fn e2_an_answer_that_says_nothing_leaves_the_sum_to_say_whether_it_goes_on() {
    for answer in ["", "cost: unknown", "cost: $", "cost: $.", "cost: $1.2.3", "Total: $5.00"] {
        costs(&mut resumed(answer), Some(0.5), &[(result(Some(0.75), None), 0.25)]);
        costs(&mut resumed(answer), Some(0.5), &[(result(Some(0.25), None), 0.25)]);
    }
    let opening = Opening::Asked { answer: None, saved: Some(0.125) };
    let mut unasked = Meter { opening, ..Meter::default() };
    costs(&mut unasked, Some(0.5), &[(result(Some(0.75), None), 0.25)]);
}

#[test]
fn e2_a_result_without_a_cost_is_paid_with_the_next() {
    let mut meter = resumed("Estimated cost: $0.5000");
    let (silent, next) = (result(None, None), result(Some(0.75), Some(0.125)));
    costs(&mut meter, Some(0.5), &[(silent, 0.0), (next, 0.25)]);
}

#[test]
fn nothing_that_a_cli_says_makes_a_cost_that_is_none() {
    let figures = [f64::INFINITY, 1e308, f64::INFINITY, 0.0, f64::NAN, 1e307, -5.0, 1e-320];
    for answer in ["cost: $99999999999999999999999999999999999999", "cost: $0.0000"] {
        let mut meter = resumed(answer);
        for total in figures {
            for since in [None, Some(f64::MAX), Some(0.0)] {
                let cost = meter.charge(&result(Some(total), since), Some(1e300)).cost_usd;
                assert!((0.0..=DEAREST_TURN).contains(&cost), "{cost} of {total}, {since:?}");
                assert!(meter.sum().is_finite(), "{}", meter.sum());
            }
        }
    }
}
