//! One session in full, for people. Pure.

use super::{
    prompts, proto_json,
    values::{duration, enum_name, one_line, show_cost, show_duration},
};
use crate::proto::{BackgroundTask, QueuedTurn, Session, SessionPermissions, SessionTimer};

/// A line for each thing that is known, and then the prompts that wait for an answer.
pub fn session(session: &Session) -> String {
    let usage = session.usage.clone().unwrap_or_default();
    let time = |time: Option<prost_types::Timestamp>| time.map(|time| time.to_string());
    let options = session.options.as_ref();
    let options = options.and_then(|options| proto_json::line("SessionOptions", options).ok());
    let SessionPermissions { allow, deny, ask, directories } =
        session.permissions.clone().unwrap_or_default();
    let list = |items: Vec<String>| Some(items.join(", "));
    let number = |count: u64| Some(count.to_string()).filter(|_| count > 0);
    let lines = [
        ("session", Some(session.session_id.clone())),
        (
            "status",
            Some(enum_name(session.status().as_str_name(), "SESSION_STATUS_").to_lowercase()),
        ),
        ("turn", Some(session.running_turn_id.clone())),
        ("turns waiting", number(session.queued_turns.into())),
        ("prompts sent", Some(session.message_count.to_string())),
        ("made", time(session.create_time)),
        ("last used", time(session.last_used_time)),
        ("idle for", Some(show_duration(duration(session.idle_time)))),
        ("client", Some(session.client_id.clone())),
        ("process", number(session.process_id.into())),
        ("node", Some(session.node.clone())),
        ("conversation", Some(session.cli_session_id.clone())),
        ("cost", Some(show_cost(session.total_cost_usd))),
        ("tokens", Some(format!("{} read, {} written", usage.input_tokens, usage.output_tokens))),
        ("errors", number(session.error_count)),
        ("last error", Some(session.last_error.clone())),
        ("options", options),
        ("not shown", list(session.options_not_shown.clone())),
        ("allowed", list(allow)),
        ("denied", list(deny)),
        ("asked about", list(ask)),
        ("folders", list(directories)),
    ];
    let known = lines.into_iter().filter_map(|(name, value)| Some((name, one_line(&value?))));
    let known = known.filter(|(_, value)| !value.is_empty());
    let open = session.open_prompts.iter();
    let open = open.map(|prompt| prompts::open_prompt(&session.session_id, prompt));
    let works = session.background_tasks.iter().map(|task| {
        let BackgroundTask { task_id, kind, description, .. } = task;
        ("in background", one_line(&format!("{task_id} ({kind}) {description}")))
    });
    let timers = session.timers.iter().map(|timer| {
        let SessionTimer { timer_id, schedule, prompt_excerpt, .. } = timer;
        ("timer", one_line(&format!("{timer_id} ({schedule}) {prompt_excerpt}")))
    });
    let lines = known.chain(works).chain(timers);
    let queue = session.queue.iter().map(queued);
    lines.map(|(name, value)| format!("{name:<15}{value}\n")).chain(queue).chain(open).collect()
}

fn queued(turn: &QueuedTurn) -> String {
    let since = turn.since.map(|since| format!(" since {since}")).unwrap_or_default();
    format!("{:<15}{}{since}\n", format!("waiting {}", turn.position), one_line(&turn.turn_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_is_shown() {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect();
        let permissions = SessionPermissions {
            allow: list(&["Bash(make:*)", "Read"]),
            deny: list(&["WebFetch"]),
            ask: list(&["Write"]),
            directories: list(&["/srv/data"]),
        };
        let granted = Session {
            session_id: "s".into(),
            permissions: Some(permissions),
            options_not_shown: list(&["system_prompt"]),
            ..Session::default()
        };
        let text = session(&granted);
        for line in [
            "not shown      system_prompt\n",
            "allowed        Bash(make:*), Read\n",
            "denied         WebFetch\n",
            "asked about    Write\n",
            "folders        /srv/data\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(!session(&Session::default()).contains("allowed"));
    }

    #[test]
    fn turns_that_wait_are_shown_in_their_order() {
        let turn = |position, id: &str| QueuedTurn {
            turn_id: id.into(),
            position,
            since: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
        };
        let queue = vec![turn(1, "next"), turn(2, "last")];
        let text = session(&Session { queued_turns: 2, queue, ..Session::default() });
        let wanted = "waiting 1      next since 1970-01-01T00:01:00Z\n\
                      waiting 2      last since 1970-01-01T00:01:00Z\n";
        assert!(text.ends_with(wanted), "{text}");
    }

    #[test]
    fn what_works_behind_the_turns_is_shown() {
        let task = BackgroundTask {
            task_id: "b1".into(),
            kind: "local_bash".into(),
            description: "make\nall".into(),
            start_time: None,
        };
        let timer = SessionTimer {
            timer_id: "t1".into(),
            schedule: "* * * * *".into(),
            prompt_excerpt: "look".into(),
            ..SessionTimer::default()
        };
        let works =
            Session { background_tasks: vec![task], timers: vec![timer], ..Session::default() };
        let text = session(&works);
        assert!(text.contains("in background  b1 (local_bash) make"), "{text}");
        assert!(text.contains("timer          t1 (* * * * *) look\n"), "{text}");
    }
}
