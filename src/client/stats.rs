//! The pool's figures, as lines for people. Pure.

use super::values::{duration, one_line, show_bytes, show_cost, show_duration};
use crate::proto::{GetStatsResponse, PoolCounters};

/// The pool's figures, a line each, in groups.
pub fn lines(stats: &GetStatsResponse) -> String {
    let mut text = String::new();
    let groups = [pool_lines(stats), work_lines(stats), service_lines(stats), counter_lines(stats)];
    let names = groups.iter().flatten().map(|(name, _)| name.len());
    let width = names.max().unwrap_or_default() + 2;
    for (index, lines) in groups.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        for (name, value) in lines {
            text += &format!("{name:<width$}{value}\n");
        }
    }
    text
}

type Lines = Vec<(&'static str, String)>;

fn pool_lines(stats: &GetStatsResponse) -> Lines {
    let state = match (stats.enabled, stats.draining) {
        (_, true) => "draining",
        (true, false) => "enabled",
        (false, false) => "disabled",
    };
    vec![
        ("pool", state.into()),
        ("sessions", format!("{} of {}", stats.total_sessions, stats.max_sessions)),
        ("  active", stats.active_sessions.to_string()),
        ("  hibernated", stats.hibernated_sessions.to_string()),
        ("processes", format!("{} of {}", stats.processes, stats.max_processes)),
        ("  starting", stats.starting_processes.to_string()),
        ("  spare", stats.spares.to_string()),
        ("  spare, starting", stats.spares_starting.to_string()),
        ("process memory", show_bytes(stats.process_memory_bytes)),
    ]
}

fn work_lines(stats: &GetStatsResponse) -> Lines {
    let usage = stats.usage.clone().unwrap_or_default();
    vec![
        ("turns running", stats.streaming_turns.to_string()),
        ("turns waiting", stats.queued_turns.to_string()),
        ("prompts sent", stats.total_messages.to_string()),
        ("cost", show_cost(stats.total_cost_usd)),
        ("tokens read", usage.input_tokens.to_string()),
        ("  from cache", usage.cache_read_input_tokens.to_string()),
        ("  to cache", usage.cache_creation_input_tokens.to_string()),
        ("tokens written", usage.output_tokens.to_string()),
    ]
}

fn service_lines(stats: &GetStatsResponse) -> Lines {
    let or_dash = |text: &str| if text.is_empty() { "-".into() } else { one_line(text) };
    vec![
        ("uptime", show_duration(duration(stats.uptime))),
        ("session ttl", show_duration(duration(stats.session_ttl))),
        ("cleanup interval", show_duration(duration(stats.cleanup_interval))),
        ("service version", or_dash(&stats.service_version)),
        ("CLI version", or_dash(&stats.cli_version)),
        ("not ready", or_dash(&stats.not_ready_reasons.join("; "))),
        ("sandbox", or_dash(&stats.sandbox)),
        ("tasks", stats.tasks.to_string()),
    ]
}

fn counter_lines(stats: &GetStatsResponse) -> Lines {
    let mut lines: Lines = counters(stats.counters.as_ref())
        .into_iter()
        .map(|(name, count)| (name, count.to_string()))
        .collect();
    let c = stats.counters.unwrap_or_default();
    let created = u32::try_from(c.sessions_created.max(1)).unwrap_or(u32::MAX);
    let resumed = u32::try_from(c.sessions_resumed.max(1)).unwrap_or(u32::MAX);
    lines.push(("mean start", show_duration(duration(c.cold_start_time) / created)));
    lines.push(("mean resume", show_duration(duration(c.resume_time) / resumed)));
    lines
}

/// The counters by their names in the contract.
fn counters(counters: Option<&PoolCounters>) -> [(&'static str, u64); 28] {
    let c = counters.copied().unwrap_or_default();
    [
        ("turns", c.turns),
        ("turns_completed", c.turns_completed),
        ("turns_failed", c.turns_failed),
        ("sessions_created", c.sessions_created),
        ("sessions_reused", c.sessions_reused),
        ("sessions_resumed", c.sessions_resumed),
        ("from_spare", c.from_spare),
        ("cold_starts", c.cold_starts),
        ("interrupted", c.interrupted),
        ("first_chunk_timeouts", c.first_chunk_timeouts),
        ("stalled", c.stalled),
        ("credentials_refused", c.credentials_refused),
        ("expired", c.expired),
        ("idle_removed", c.idle_removed),
        ("stuck", c.stuck),
        ("cli_exits", c.cli_exits),
        ("capacity_refusals", c.capacity_refusals),
        ("connect_failures", c.connect_failures),
        ("interrupt_escalations", c.interrupt_escalations),
        ("hibernations", c.hibernations),
        ("hibernations_under_pressure", c.hibernations_under_pressure),
        ("background_work_ended", c.background_work_ended),
        ("spare_misses_none_ready", c.spare_misses_none_ready),
        ("spare_misses_options", c.spare_misses_options),
        ("spare_misses_conversation", c.spare_misses_conversation),
        ("spare_misses_folder", c.spare_misses_folder),
        ("spare_misses_failed", c.spare_misses_failed),
        ("frames", c.frames),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_show_limits_beside_what_they_limit() {
        let figures = GetStatsResponse {
            enabled: true,
            total_sessions: 3,
            max_sessions: 1000,
            counters: Some(PoolCounters { cold_starts: 7, ..PoolCounters::default() }),
            ..GetStatsResponse::default()
        };
        let text = lines(&figures);
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
        };
        assert_eq!(value("sessions ").trim_start(), "3 of 1000");
        assert_eq!(value("cold_starts ").trim_start(), "7");
        assert_eq!(value("hibernations_under_pressure "), " 0", "the longest name");
    }
}
