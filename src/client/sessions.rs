//! The commands about sessions: listing, interrupting and closing them.

use std::time::Duration;

use super::{
    args::{CloseArgs, Form, InterruptArgs, ScopeArgs, SessionsArgs},
    connect::Service,
    exit::{Exit, Failure, Outcome},
    output::{is_screen, print, screen_width},
    tables,
};
use crate::proto::{
    CloseSessionRequest, InterruptAllRequest, InterruptOutcome, InterruptRequest,
    ListSessionsRequest, Session, SessionInterruptResult,
};

/// Time between two looks at the sessions.
const WATCH_PERIOD: Duration = Duration::from_secs(2);
/// Clears the screen and starts at its top.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// `sessions`: once, or again and again.
pub async fn list(service: &mut Service, args: SessionsArgs) -> Outcome {
    if !args.watch {
        print(&show(&all_sessions(service).await?, args.form))?;
        return Ok(Exit::Fine);
    }
    // The contract has no event for "something about a session changed".
    let mut period = tokio::time::interval(WATCH_PERIOD);
    loop {
        period.tick().await;
        let sessions = all_sessions(service).await?;
        let clear = if is_screen() && !args.form.json { CLEAR } else { "" };
        print(&format!("{clear}{}", show(&sessions, args.form)))?;
    }
}

fn show(sessions: &[Session], form: Form) -> String {
    if form.json {
        return sessions
            .iter()
            .map(|session| format!("{}\n", tables::session_json(session)))
            .collect();
    }
    tables::sessions(sessions, screen_width())
}

async fn all_sessions(service: &mut Service) -> Result<Vec<Session>, Failure> {
    let mut sessions = Vec::new();
    let mut request = ListSessionsRequest::default();
    loop {
        let page = service.list_sessions(request.clone()).await?.into_inner();
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() {
            return Ok(sessions);
        }
        request.page_token = page.next_page_token;
    }
}

/// `interrupt`
pub async fn interrupt(service: &mut Service, args: InterruptArgs) -> Outcome {
    let request =
        InterruptRequest { session_id: args.session.clone(), keep_session: args.keep_session };
    let answer = service.interrupt(request).await?.into_inner();
    let exit = match answer.outcome() {
        InterruptOutcome::NotFound => Exit::NotFound,
        _ => Exit::Fine,
    };
    let result = SessionInterruptResult {
        session_id: args.session,
        interrupted: answer.interrupted,
        had_active_turn: answer.had_active_turn,
        outcome: answer.outcome,
        elapsed: answer.elapsed,
        tenant: String::new(),
    };
    print(&show_interrupts(&[result], args.form))?;
    Ok(exit)
}

/// `interrupt-all`
pub async fn interrupt_all(service: &mut Service, args: ScopeArgs) -> Outcome {
    let request = InterruptAllRequest { all_tenants: args.all_tenants };
    let answer = service.interrupt_all(request).await?.into_inner();
    print(&show_interrupts(&answer.results, args.form))?;
    if !args.form.json {
        let (count, of) = (answer.interrupted_count, answer.session_count);
        print(&format!("{count} of {of} interrupted\n"))?;
    }
    Ok(Exit::Fine)
}

fn show_interrupts(results: &[SessionInterruptResult], form: Form) -> String {
    if form.json {
        return results
            .iter()
            .map(|result| format!("{}\n", tables::interrupt_json(result)))
            .collect();
    }
    results.iter().map(tables::interrupt_line).collect()
}

/// `close`
pub async fn close(service: &mut Service, args: CloseArgs) -> Outcome {
    let request = CloseSessionRequest { session_id: args.session.clone(), forget: args.forget };
    let answer = service.close_session(request).await?.into_inner();
    print(&tables::closed_line(&args.session, answer.had_active_turn))?;
    Ok(Exit::Fine)
}
