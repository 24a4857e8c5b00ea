//! A page of the sessions of all tenants, in the order of their names, and of those alone in which a
//! text is found. One answer has looked at a bounded number of sessions: where more are to be looked
//! at, it says from where on.

use axum::body::Bytes;
use serde::Serialize;

use crate::{
    domain::{
        failure::Failure,
        ids::{SessionId, TenantId},
    },
    pool::SessionPool,
    session::status::{SessionState, Status},
};

/// Sessions of a page.
const MOST: usize = 200;
/// Sessions that one answer looks at, and how many of them at a time.
const LOOKED_AT: usize = 2000;
const AT_A_TIME: usize = 500;
/// Characters of what is looked for, and of a model's name.
const LONGEST: usize = 200;

/// What is asked for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// What sessions are to have in them, in small letters.
    text: String,
    /// The tenant and the session behind which the page begins.
    tenant: Option<TenantId>,
    after: Option<SessionId>,
    limit: usize,
}

impl Wanted {
    /// Reads the query of an address; `None` if it makes no sense.
    pub(super) fn read(query: &str) -> Option<Self> {
        let mut wanted = Self { limit: MOST, ..Self::default() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (name.as_ref(), value.as_ref()) {
                ("tenant" | "after", "") => {}
                ("q", text) if text.chars().count() <= LONGEST => {
                    wanted.text = text.trim().to_lowercase();
                }
                ("tenant", name) => wanted.tenant = Some(TenantId::parse(name).ok()?),
                ("after", name) => wanted.after = Some(SessionId::parse(name).ok()?),
                ("limit", number) => wanted.limit = number.parse().ok().filter(|it| *it > 0)?,
                _ => return None,
            }
        }
        wanted.limit = wanted.limit.min(MOST);
        Some(wanted)
    }
}

#[derive(Serialize)]
struct Page {
    sessions: Vec<Shown>,
    next: Option<Next>,
}

/// Where the next page begins.
#[derive(Serialize)]
struct Next {
    tenant: String,
    after: String,
}

#[derive(Debug, Serialize)]
struct Shown {
    tenant: String,
    session: String,
    state: &'static str,
    turn: bool,
    model: String,
    queued: usize,
    prompts_open: usize,
    tasks: usize,
    messages: u64,
    errors: u64,
    cost_usd: f64,
    age_seconds: u64,
    idle_seconds: u64,
    process_id: Option<u32>,
}

/// The page as JSON.
pub(super) async fn text(pool: &SessionPool, wanted: &Wanted) -> Result<Bytes, Failure> {
    let (mut page, mut looked_at) = (Page { sessions: Vec::new(), next: None }, 0);
    let mut tenants: Vec<_> = pool.tenants().all().iter().map(|it| it.id().clone()).collect();
    tenants.sort();
    tenants.retain(|tenant| wanted.tenant.as_ref().is_none_or(|first| tenant >= first));
    'all: for tenant in tenants {
        let mut after = wanted.after.clone().filter(|_| wanted.tenant.as_ref() == Some(&tenant));
        loop {
            let (sessions, more) = pool.list(&tenant, after.clone(), AT_A_TIME).await?;
            for status in &sessions {
                looked_at += 1;
                after = Some(status.session_id.clone());
                let shown = shown(&tenant, status);
                if shown.has(&wanted.text) {
                    page.sessions.push(shown);
                }
                if page.sessions.len() >= wanted.limit || looked_at >= LOOKED_AT {
                    let after = status.session_id.to_string();
                    page.next = Some(Next { tenant: tenant.to_string(), after });
                    break 'all;
                }
            }
            if !more {
                break;
            }
        }
    }
    // Of names and numbers alone, it can be written.
    Ok(serde_json::to_vec(&page).unwrap_or_default().into())
}

fn shown(tenant: &TenantId, status: &Status) -> Shown {
    let model = status.acquired.model.as_deref().or(status.options.model.as_deref());
    Shown {
        tenant: tenant.to_string(),
        session: status.session_id.to_string(),
        state: name_of(status.condition),
        turn: status.running.is_some(),
        model: model.unwrap_or_default().chars().take(LONGEST).collect(),
        queued: status.queued,
        prompts_open: status.open_prompts.len(),
        tasks: status.work.tasks.len(),
        messages: status.message_count,
        errors: status.error_count,
        cost_usd: status.spent.cost_usd,
        age_seconds: status.age().as_secs(),
        idle_seconds: status.idle_time().as_secs(),
        process_id: status.process_id,
    }
}

impl Shown {
    fn has(&self, text: &str) -> bool {
        let Self { tenant, session, state, model, .. } = self;
        text.is_empty()
            || [tenant, session, *state, model].iter().any(|it| it.to_lowercase().contains(text))
    }
}

fn name_of(state: SessionState) -> &'static str {
    match state {
        SessionState::Idle => "idle",
        SessionState::Connecting => "connecting",
        SessionState::Active => "active",
        SessionState::Interrupting => "interrupting",
        SessionState::Disconnected => "disconnected",
        SessionState::Hibernated => "hibernated",
        SessionState::Error => "error",
        SessionState::Expired => "expired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded_and_has_to_make_sense() {
        let wanted = Wanted::read("q=A%20b+&tenant=t&after=s&limit=10").expect("sense");
        let tenant = TenantId::parse("t").ok();
        let after = SessionId::parse("s").ok();
        assert_eq!(wanted, Wanted { text: "a b".into(), tenant, after, limit: 10 });
        let all = Wanted { limit: MOST, ..Wanted::default() };
        assert_eq!(Wanted::read(""), Some(all));
        assert_eq!(Wanted::read("limit=100000&tenant=&after=").map(|it| it.limit), Some(MOST));
        let long = format!("q={}", "x".repeat(1000));
        for senseless in ["limit=0", "limit=x", "tenant=%3Cb%3E", "after=a/b", "other=1", &long] {
            assert_eq!(Wanted::read(senseless), None, "{senseless}");
        }
    }
}
