//! Pictures of sessions, figures and reports to the contract's messages.

use std::time::SystemTime;

use prost::Message as _;
use tokio::time::Instant;

use super::{
    encode::{duration, prompt_kind, rate_limited},
    options,
};
use crate::{
    cli::{
        background::Task,
        timers::{Timer, TimerKind},
        versions::{NEWEST_TESTED, OLDEST},
    },
    counters::Counters,
    domain::{grants::Grants, ids::SessionKey, notice::RateLimited, usage::TokenUsage},
    pool::PoolStats,
    proto,
    session::{
        InterruptOutcome, InterruptReport, ShownPrompt,
        status::{SessionState, Status},
    },
    store::StoreStatus,
};

/// What the service adds to the pool's figures.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Live processes.
    pub processes: usize,
    /// Processes that start.
    pub starting: u32,
    /// Processes at most.
    pub max_processes: usize,
    /// Spares that are ready.
    pub spares: usize,
    /// Spares that start.
    pub spares_starting: usize,
    /// Resident bytes of all process trees.
    pub memory_bytes: u64,
    /// Tasks of the runtime.
    pub tasks: u64,
    /// What the CLI calls its version.
    pub cli_version: String,
    /// What CLI processes are enclosed in.
    pub sandbox: &'static str,
    /// Why no turns are taken, each with the part that says so.
    pub not_ready_reasons: Vec<String>,
    /// What was tried against the sandbox at the start, and how that ended.
    pub sandbox_attempts: Vec<String>,
    /// The limits of the API for which requests wait.
    pub rate_limits: Vec<RateLimited>,
}

/// A number of things.
pub(super) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Bytes of a session as it is shown, and of a page of them: a client takes 4 MiB.
pub const SHOWN_BYTES: usize = 3 << 20;

/// A session, as the node of this name shows it.
pub fn session(status: &Status, node: &str) -> proto::Session {
    let now = SystemTime::now();
    let wall = |at: Instant| Some((now - at.elapsed()).into());
    let queue = (1..).zip(status.queue.iter());
    let mut shown = proto::Session {
        session_id: status.session_id.to_string(),
        status: condition(status.condition).into(),
        client_id: status.client_id.map(|id| id.to_string()).unwrap_or_default(),
        cli_session_id: status.cli_session_id.to_string(),
        create_time: Some(status.create_time.into()),
        last_used_time: wall(status.last_used_at),
        age: Some(duration(status.age())),
        idle_time: Some(duration(status.idle_time())),
        message_count: status.message_count,
        error_count: status.error_count,
        last_error: status.last_error.clone().unwrap_or_default(),
        running_turn_id: status.running.as_ref().map(ToString::to_string).unwrap_or_default(),
        queued_turns: count(status.queued),
        process_id: status.process_id.unwrap_or_default(),
        total_cost_usd: status.spent.cost_usd,
        usage: Some(usage(&status.spent.usage)),
        options: Some(options::shown(&status.acquired.in_force(&status.options))),
        permissions: Some(permissions(&status.acquired.grants)),
        options_not_shown: Vec::new(),
        open_prompts: status.open_prompts.iter().map(open_prompt).collect(),
        queue: queue
            .map(|(position, turn)| proto::QueuedTurn {
                turn_id: turn.id.to_string(),
                position,
                since: wall(turn.since),
            })
            .collect(),
        background_tasks: status.work.tasks.iter().map(|task| background_task(task)).collect(),
        timers: status.work.timers.iter().map(|timer| session_timer(timer)).collect(),
        node: if status.is_loaded { node.to_owned() } else { String::new() },
    };
    leave_out_what_is_too_long(&mut shown);
    shown
}

/// Each option has a bound, and several of them together are more than a message may be.
fn leave_out_what_is_too_long(session: &mut proto::Session) {
    while session.encoded_len() > SHOWN_BYTES {
        let Some(options) = &mut session.options else { return };
        let texts = [
            ("system_prompt", &mut options.system_prompt),
            ("append_system_prompt", &mut options.append_system_prompt),
            ("agents", &mut options.agents),
            ("json_schema", &mut options.json_schema),
        ];
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let longest = texts.into_iter().max_by_key(|(_, text)| length(text));
        let Some((name, text)) = longest.filter(|(_, text)| text.is_some()) else { return };
        *text = None;
        session.options_not_shown.push(name.to_owned());
    }
}

fn open_prompt(prompt: &ShownPrompt) -> proto::OpenPrompt {
    let ShownPrompt { id, subtype, tool_name, input, hook_event, expire_time } = prompt.clone();
    proto::OpenPrompt {
        prompt_id: id,
        expire_time: expire_time.map(Into::into),
        kind: prompt_kind(&subtype, &tool_name).into(),
        tool_name,
        input_excerpt: input,
        hook_event: hook_event.to_owned(),
    }
}

fn background_task(task: &Task) -> proto::BackgroundTask {
    let Task { id, kind, description, start_time, began: _ } = task.clone();
    let start_time = Some(start_time.into());
    proto::BackgroundTask { task_id: id, kind, description, start_time }
}

fn session_timer(timer: &Timer) -> proto::SessionTimer {
    proto::SessionTimer {
        timer_id: timer.id.clone(),
        kind: match timer.kind {
            TimerKind::Cron => proto::TimerKind::Cron,
            TimerKind::Wakeup => proto::TimerKind::Wakeup,
        }
        .into(),
        schedule: timer.schedule.clone(),
        prompt_excerpt: timer.prompt.clone(),
        create_time: Some(timer.create_time.into()),
    }
}

fn permissions(grants: &Grants) -> proto::SessionPermissions {
    let Grants { allow, deny, ask, folders } = grants.clone();
    proto::SessionPermissions { allow, deny, ask, directories: folders }
}

fn condition(condition: SessionState) -> proto::SessionStatus {
    match condition {
        SessionState::Idle => proto::SessionStatus::Idle,
        SessionState::Connecting => proto::SessionStatus::Connecting,
        SessionState::Active => proto::SessionStatus::Active,
        SessionState::Interrupting => proto::SessionStatus::Interrupting,
        SessionState::Disconnected => proto::SessionStatus::Disconnected,
        SessionState::Hibernated => proto::SessionStatus::Hibernated,
        SessionState::Error => proto::SessionStatus::Error,
        SessionState::Expired => proto::SessionStatus::Expired,
    }
}

/// Tokens.
pub(super) fn usage(usage: &TokenUsage) -> proto::Usage {
    proto::Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_creation_input_tokens: usage.cache_creation_input_tokens,
        cache_read_input_tokens: usage.cache_read_input_tokens,
        extra_json: String::new(),
    }
}

/// The pool's figures.
pub fn stats(stats: &PoolStats, facts: Facts) -> proto::GetStatsResponse {
    let spent = stats.counters.spent();
    proto::GetStatsResponse {
        enabled: stats.enabled,
        total_sessions: count(stats.total_sessions),
        active_sessions: count(stats.active_sessions),
        max_sessions: count(stats.max_sessions),
        total_messages: stats.counters.messages.get(),
        session_ttl: Some(duration(stats.session_ttl)),
        cleanup_interval: Some(duration(stats.cleanup_interval)),
        processes: count(facts.processes),
        max_processes: count(facts.max_processes),
        spares: count(facts.spares),
        spares_starting: count(facts.spares_starting),
        hibernated_sessions: count(stats.hibernated_sessions),
        streaming_turns: count(stats.streaming_turns),
        queued_turns: count(stats.queued_turns),
        counters: Some(counters(&stats.counters)),
        total_cost_usd: spent.cost_usd,
        usage: Some(usage(&spent.usage)),
        process_memory_bytes: facts.memory_bytes,
        uptime: Some(duration(stats.uptime)),
        service_version: env!("CARGO_PKG_VERSION").to_owned(),
        cli_version: facts.cli_version,
        oldest_cli_version: OLDEST.to_string(),
        newest_tested_cli_version: NEWEST_TESTED.to_string(),
        sandbox: facts.sandbox.to_owned(),
        draining: stats.draining,
        starting_processes: facts.starting,
        tasks: facts.tasks,
        not_ready_reasons: facts.not_ready_reasons,
        sandbox_attempts: facts.sandbox_attempts,
        store: Some(store(&stats.store)),
        rate_limits: facts.rate_limits.into_iter().map(rate_limited).collect(),
        // Neither of the two that the contract names: group, death signal and mark.
        memory_budget_bytes: stats.usage.memory_limit,
        memory_used_bytes: stats.usage.memory,
        spill_budget_bytes: stats.usage.disk_limit,
        spill_used_bytes: stats.usage.disk,
        dropped_turns: stats.usage.dropped,
        memory_refusals: stats.usage.refused,
        nodes: Vec::new(),
    }
}

fn store(status: &StoreStatus) -> proto::StoreStatus {
    let failing = status.failing.as_ref();
    proto::StoreStatus {
        failing_since: failing.map(|failing| failing.since.into()),
        reason: failing.map(|failing| failing.reason.clone()).unwrap_or_default(),
        failed_transactions: status.failed_transactions,
        database_bytes: status.database_bytes,
        log_bytes: status.log_bytes,
    }
}

/// A sum of times that is counted in microseconds.
fn micros(sum: u64) -> prost_types::Duration {
    duration(std::time::Duration::from_micros(sum))
}

/// What was counted.
pub(super) fn counters(counters: &Counters) -> proto::PoolCounters {
    proto::PoolCounters {
        turns: counters.turns.get(),
        turns_completed: counters.turns_completed.get(),
        turns_failed: counters.turns_failed.get(),
        sessions_created: counters.sessions_created.get(),
        sessions_reused: counters.sessions_reused.get(),
        sessions_resumed: counters.sessions_resumed.get(),
        from_spare: counters.from_spare.get(),
        cold_starts: counters.cold_starts.get(),
        interrupted: counters.interrupted.get(),
        first_chunk_timeouts: counters.first_chunk_timeouts.get(),
        stalled: counters.stalled.get(),
        credentials_refused: counters.credentials_refused.get(),
        expired: counters.expired.get(),
        idle_removed: counters.idle_removed.get(),
        stuck: counters.stuck.get(),
        cli_exits: counters.cli_exits.get(),
        capacity_refusals: counters.capacity_refusals.get(),
        connect_failures: counters.connect_failures.get(),
        interrupt_escalations: counters.interrupt_escalations.get(),
        hibernations: counters.hibernations.get(),
        hibernations_under_pressure: counters.hibernations_under_pressure.get(),
        background_work_ended: counters.background_work_ended.get(),
        cold_start_time: Some(micros(counters.cold_start_micros.get())),
        resume_time: Some(micros(counters.resume_micros.get())),
        spare_misses_none_ready: counters.spare_misses_none_ready.get(),
        spare_misses_options: counters.spare_misses_options.get(),
        spare_misses_conversation: counters.spare_misses_conversation.get(),
        spare_misses_folder: counters.spare_misses_folder.get(),
        spare_misses_failed: counters.spare_misses_failed.get(),
        frames: counters.frames.get(),
        stray_lines: counters.stray_lines.get(),
    }
}

fn outcome(outcome: InterruptOutcome) -> proto::InterruptOutcome {
    match outcome {
        InterruptOutcome::Interrupted => proto::InterruptOutcome::Interrupted,
        InterruptOutcome::NoActiveTurn => proto::InterruptOutcome::NoActiveTurn,
        InterruptOutcome::Terminated => proto::InterruptOutcome::Terminated,
        InterruptOutcome::TurnEnded => proto::InterruptOutcome::TurnEnded,
    }
}

/// What became of an interrupt; `None` is an unknown session.
pub fn interrupt(report: Option<InterruptReport>) -> proto::InterruptResponse {
    match report {
        Some(report) => proto::InterruptResponse {
            interrupted: report.interrupted(),
            had_active_turn: report.had_active_turn,
            outcome: outcome(report.outcome).into(),
            elapsed: Some(duration(report.elapsed)),
            stopped: report.stopped.iter().map(|task| background_task(task)).collect(),
            still_running: report.still_running.iter().map(|task| background_task(task)).collect(),
        },
        None => proto::InterruptResponse {
            interrupted: false,
            had_active_turn: false,
            outcome: proto::InterruptOutcome::NotFound.into(),
            elapsed: Some(duration(std::time::Duration::ZERO)),
            stopped: Vec::new(),
            still_running: Vec::new(),
        },
    }
}

/// What became of all interrupts at the node of this name.
pub fn interrupt_all(
    reports: &[(SessionKey, InterruptReport)],
    node: &str,
) -> proto::InterruptAllResponse {
    let interrupted = reports.iter().filter(|(_, report)| report.interrupted()).count();
    let results = reports.iter().map(|(key, report)| proto::SessionInterruptResult {
        session_id: key.session.to_string(),
        tenant: key.tenant.to_string(),
        interrupted: report.interrupted(),
        had_active_turn: report.had_active_turn,
        outcome: outcome(report.outcome).into(),
        elapsed: Some(duration(report.elapsed)),
        node: node.to_owned(),
    });
    proto::InterruptAllResponse {
        interrupted_count: count(interrupted),
        session_count: count(reports.len()),
        results: results.collect(),
        unreached_nodes: Vec::new(),
    }
}
