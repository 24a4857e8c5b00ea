//! Answers about sessions, as tables for people. Pure.

use super::values::{cut, duration, enum_name, one_line, show_cost, show_duration};
use crate::proto::{InterruptOutcome, Session, SessionInterruptResult};

const SESSION_COLUMNS: [&str; 8] =
    ["SESSION", "STATUS", "AGE", "IDLE", "TURNS", "QUEUED", "COST", "NOTE"];

/// One row a session, under a head; the last column gets what is left of the width.
pub fn sessions(sessions: &[Session], width: usize) -> String {
    let mut rows = vec![SESSION_COLUMNS.map(String::from)];
    rows.extend(sessions.iter().map(session_row));
    let unit = if sessions.len() == 1 { "session" } else { "sessions" };
    table(&rows, width) + &format!("{} {unit}\n", sessions.len())
}

fn session_row(session: &Session) -> [String; 8] {
    [
        one_line(&session.session_id),
        session_status(session).to_lowercase(),
        show_duration(duration(session.age)),
        show_duration(duration(session.idle_time)),
        session.message_count.to_string(),
        session.queued_turns.to_string(),
        show_cost(session.total_cost_usd),
        session_note(session),
    ]
}

fn session_note(session: &Session) -> String {
    if !session.running_turn_id.is_empty() {
        let asks = if session.open_prompts.is_empty() { "" } else { " waits for an answer" };
        return format!("turn {}{asks}", one_line(&session.running_turn_id));
    }
    let errors = match session.error_count {
        0 => return String::new(),
        1 => "1 error".into(),
        count => format!("{count} errors"),
    };
    match one_line(&session.last_error).as_str() {
        "" => errors,
        last => format!("{errors}, last: {last}"),
    }
}

fn session_status(session: &Session) -> &'static str {
    enum_name(session.status().as_str_name(), "SESSION_STATUS_")
}

fn table<const N: usize>(rows: &[[String; N]], width: usize) -> String {
    let length = |text: &String| text.chars().count();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| length(&row[column])).max().unwrap_or(0)
    });
    let before_last: usize = widths[..N - 1].iter().map(|width| width + 2).sum();
    let last = width.saturating_sub(before_last).max(10);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row[..N - 1].iter().enumerate() {
            line += &format!("{cell:<width$}  ", width = widths[column]);
        }
        line += &cut(&row[N - 1], last);
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What became of a session's turn.
pub fn interrupt_line(result: &SessionInterruptResult) -> String {
    let outcome = interrupt_outcome(result).to_lowercase().replace('_', " ");
    let elapsed = show_duration(duration(result.elapsed));
    format!("{}: {outcome} ({elapsed})\n", one_line(&result.session_id))
}

/// What became of the turns of all sessions: a line for each session, and the sum.
pub fn interrupts(results: &[SessionInterruptResult]) -> String {
    use InterruptOutcome::{Interrupted, NoActiveTurn, Terminated, TurnEnded};
    let lines: String = results.iter().map(interrupt_line).collect();
    let count = |outcome| results.iter().filter(|result| result.outcome() == outcome).count();
    let counted = |count: usize, unit: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {unit}{plural}")
    };
    let mut parts = vec![format!("{} interrupted", counted(count(Interrupted), "turn"))];
    for (outcome, unit, what) in [
        (Terminated, "turn", "stopped by ending the process"),
        (TurnEnded, "turn", "ended without the interrupt"),
        (NoActiveTurn, "session", "had no turn"),
    ] {
        let count = count(outcome);
        if count > 0 {
            parts.push(format!("{} {what}", counted(count, unit)));
        }
    }
    format!("{lines}{}\n", parts.join(", "))
}

fn interrupt_outcome(result: &SessionInterruptResult) -> &'static str {
    enum_name(result.outcome().as_str_name(), "INTERRUPT_OUTCOME_")
}

/// That a session is closed.
pub fn closed_line(session_id: &str, had_active_turn: bool) -> String {
    let turn = if had_active_turn { ", its turn was stopped" } else { "" };
    format!("{}: closed{turn}\n", one_line(session_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{OpenPrompt, SessionStatus};

    fn session(id: &str) -> Session {
        let mut session = Session {
            session_id: id.into(),
            age: Some(prost_types::Duration { seconds: 125, nanos: 0 }),
            message_count: 3,
            ..Session::default()
        };
        session.set_status(SessionStatus::Active);
        session
    }

    #[test]
    fn sessions_stand_in_columns_and_notes_are_cut() {
        let mut failed = session("a-long-name");
        failed.error_count = 2;
        failed.last_error = "something\nquite long that does not fit".into();
        let text = sessions(&[session("a"), failed], 80);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "SESSION      STATUS  AGE    IDLE  TURNS  QUEUED  COST     NOTE");
        assert_eq!(lines[1], "a            active  2m 5s  0ms   3      0       $0.0000");
        assert!(lines[2].ends_with("2 errors, last: somet…"), "{}", lines[2]);
        assert_eq!(lines[2].chars().count(), 80);
        assert_eq!(lines[3], "2 sessions");
    }

    #[test]
    fn a_turn_that_asks_something_says_so() {
        let mut asking = session("a");
        asking.running_turn_id = "t".into();
        assert!(sessions(&[asking.clone()], 80).contains("  turn t\n"));
        asking.open_prompts.push(OpenPrompt::default());
        assert!(sessions(&[asking], 80).contains("  turn t waits for an answer\n"));
    }

    #[test]
    fn interrupts_are_told_in_words() {
        let mut result = SessionInterruptResult { session_id: "s".into(), ..Default::default() };
        result.set_outcome(InterruptOutcome::NoActiveTurn);
        assert_eq!(interrupt_line(&result), "s: no active turn (0ms)\n");
    }

    #[test]
    fn sessions_without_a_turn_do_not_count_as_interrupted() {
        use InterruptOutcome::{Interrupted, NoActiveTurn, Terminated, TurnEnded};
        let summary = |outcomes: &[InterruptOutcome]| {
            let result = |outcome: &InterruptOutcome| SessionInterruptResult {
                session_id: "s".into(),
                interrupted: true,
                outcome: (*outcome).into(),
                ..SessionInterruptResult::default()
            };
            let text = interrupts(&outcomes.iter().map(result).collect::<Vec<_>>());
            assert_eq!(text.lines().count(), outcomes.len() + 1, "{text}");
            text.lines().last().unwrap_or_default().to_owned()
        };
        assert_eq!(summary(&[]), "0 turns interrupted");
        assert_eq!(summary(&[NoActiveTurn]), "0 turns interrupted, 1 session had no turn");
        assert_eq!(
            summary(&[Interrupted, NoActiveTurn, NoActiveTurn]),
            "1 turn interrupted, 2 sessions had no turn"
        );
        assert_eq!(
            summary(&[Interrupted, Interrupted, Terminated, TurnEnded]),
            "2 turns interrupted, 1 turn stopped by ending the process, 1 turn ended without the \
             interrupt"
        );
    }
}
