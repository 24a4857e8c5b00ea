//! The commands about sessions: listing, showing, changing, interrupting and closing them.

use std::time::Duration;

use super::{
    args::{
        CloseArgs, Form, InterruptArgs, ScopeArgs, SessionsArgs, ShowArgs, StopTaskArgs, UpdateArgs,
    },
    connect::Service,
    details,
    exit::{Exit, Failure, Outcome},
    output::{is_screen, print, remark, screen_width},
    proto_json, tables,
    values::one_line,
};
use crate::proto::{
    BackgroundTask, CloseSessionRequest, GetSessionRequest, InterruptAllRequest, InterruptOutcome,
    InterruptRequest, InterruptScope, ListSessionsRequest, ListSessionsResponse, Session,
    SessionInterruptResult, StopTaskRequest, UnreachedNode, UpdateSessionRequest,
};

/// Time between two looks at the sessions.
const WATCH_PERIOD: Duration = Duration::from_secs(2);
/// Clears the screen and starts at its top.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// `sessions`: once, or again and again.
pub async fn list(service: &mut Service, args: SessionsArgs) -> Outcome {
    if !args.watch {
        print(&shown(all_sessions(service).await?, args.form)?)?;
        return Ok(Exit::Fine);
    }
    // The contract has no event for "something about a session changed".
    let mut period = tokio::time::interval(WATCH_PERIOD);
    loop {
        period.tick().await;
        let sessions = all_sessions(service).await?;
        let clear = if is_screen() && !args.form.json { CLEAR } else { "" };
        print(&format!("{clear}{}", shown(sessions, args.form)?))?;
    }
}

fn shown(sessions: Vec<Session>, form: Form) -> Result<String, Failure> {
    if form.json {
        // One answer, of however many pages it was.
        let response = ListSessionsResponse { sessions, ..ListSessionsResponse::default() };
        return proto_json::line("ListSessionsResponse", &response);
    }
    Ok(tables::sessions(&sessions, screen_width()))
}

/// `show`
pub async fn show(service: &mut Service, args: ShowArgs) -> Outcome {
    let request = GetSessionRequest { session_id: args.session };
    let answer = service.get_session(request).await?.into_inner();
    print(&if args.form.json {
        proto_json::line("GetSessionResponse", &answer)?
    } else {
        details::session(&answer.session.unwrap_or_default())
    })?;
    Ok(Exit::Fine)
}

/// `update`
pub async fn update(service: &mut Service, args: UpdateArgs) -> Outcome {
    let options = Some(args.options.into_message());
    let request = UpdateSessionRequest { session_id: args.session.clone(), options };
    let answer = service.update_session(request).await?.into_inner();
    print(&if args.form.json {
        proto_json::line("UpdateSessionResponse", &answer)?
    } else {
        let changed = match answer.changed_options.join(", ").as_str() {
            "" => "nothing to change".to_owned(),
            names => format!("changed {names}"),
        };
        format!("{}: {changed}\n", one_line(&args.session))
    })?;
    Ok(Exit::Fine)
}

async fn all_sessions(service: &mut Service) -> Result<Vec<Session>, Failure> {
    let mut sessions = Vec::new();
    let mut request = ListSessionsRequest::default();
    loop {
        let page = service.list_sessions(request.clone()).await?.into_inner();
        sessions.extend(page.sessions);
        tell_of_unreached(&page.unreached_nodes);
        if page.next_page_token.is_empty() {
            return Ok(sessions);
        }
        request.page_token = page.next_page_token;
    }
}

/// `interrupt`
pub async fn interrupt(service: &mut Service, args: InterruptArgs) -> Outcome {
    let request = InterruptRequest {
        session_id: args.session.clone(),
        keep_session: args.keep_session,
        turn_id: args.turn,
        scope: if args.all { InterruptScope::All } else { InterruptScope::Turn }.into(),
    };
    let answer = service.interrupt(request).await?.into_inner();
    let exit = match answer.outcome() {
        InterruptOutcome::NotFound => Exit::NotFound,
        _ => Exit::Fine,
    };
    if args.form.json {
        print(&proto_json::line("InterruptResponse", &answer)?)?;
        return Ok(exit);
    }
    let result = SessionInterruptResult {
        session_id: args.session,
        interrupted: answer.interrupted,
        had_active_turn: answer.had_active_turn,
        outcome: answer.outcome,
        elapsed: answer.elapsed,
        ..SessionInterruptResult::default()
    };
    print(&tables::interrupt_line(&result))?;
    for (what, tasks) in [("stopped", &answer.stopped), ("goes on", &answer.still_running)] {
        for BackgroundTask { task_id, kind, description, .. } in tasks {
            print(&one_line(&format!("{what}: {task_id} ({kind}) {description}")))?;
        }
    }
    Ok(exit)
}

/// `stop-task`
pub async fn stop_task(service: &mut Service, args: StopTaskArgs) -> Outcome {
    let StopTaskArgs { session: session_id, task: task_id } = args;
    service.stop_task(StopTaskRequest { session_id, task_id }).await?;
    Ok(Exit::Fine)
}

/// `interrupt-all`
pub async fn interrupt_all(service: &mut Service, args: ScopeArgs) -> Outcome {
    let request = InterruptAllRequest { all_tenants: args.all_tenants };
    let answer = service.interrupt_all(request).await?.into_inner();
    print(&if args.form.json {
        proto_json::line("InterruptAllResponse", &answer)?
    } else {
        tables::interrupts(&answer.results)
    })?;
    tell_of_unreached(&answer.unreached_nodes);
    // Turns may run there still.
    Ok(if answer.unreached_nodes.is_empty() { Exit::Fine } else { Exit::TryAgain })
}

fn tell_of_unreached(nodes: &[UnreachedNode]) {
    for UnreachedNode { name, reason } in nodes {
        remark(&format!("node {} was not reached: {}", one_line(name), one_line(reason)));
    }
}

/// `close`
pub async fn close(service: &mut Service, args: CloseArgs) -> Outcome {
    let request = CloseSessionRequest { session_id: args.session.clone(), forget: args.forget };
    let answer = service.close_session(request).await?.into_inner();
    print(&if args.form.json {
        proto_json::line("CloseSessionResponse", &answer)?
    } else {
        tables::closed_line(&args.session, answer.had_active_turn)
    })?;
    Ok(Exit::Fine)
}
