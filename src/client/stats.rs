//! The pool's figures, as lines for people. Pure.

use super::values::{duration, one_line, show_bytes, show_cost, show_duration};
use crate::proto::{GetStatsResponse, NodeStats, PoolCounters};

/// The pool's figures, a line each, in groups.
pub fn lines(stats: &GetStatsResponse) -> String {
    let mut text = String::new();
    let where_it_runs = match stats.nodes.is_empty() {
        true => service_lines(stats),
        false => stats.nodes.iter().map(node_line).collect(),
    };
    let groups = [pool_lines(stats), work_lines(stats), where_it_runs, counter_lines(stats)];
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
    // What nodes may have is told of each.
    let processes = match stats.nodes.is_empty() {
        true => format!("{} of {}", stats.processes, stats.max_processes),
        false => stats.processes.to_string(),
    };
    vec![
        ("pool", state.into()),
        ("sessions", format!("{} of {}", stats.total_sessions, stats.max_sessions)),
        ("  active", stats.active_sessions.to_string()),
        ("  hibernated", stats.hibernated_sessions.to_string()),
        ("processes", processes),
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

/// A node, and how it is.
fn node_line(node: &NodeStats) -> (&'static str, String) {
    let name = one_line(&node.name);
    let Some(stats) = node.stats.as_ref().filter(|_| node.reached) else {
        return ("node", format!("{name}: not reached: {}", one_line(&node.reason)));
    };
    let draining = if node.draining { ", draining" } else { "" };
    let not_ready = match stats.not_ready_reasons.join("; ").as_str() {
        "" => String::new(),
        reasons => format!(", not ready: {}", one_line(reasons)),
    };
    let line = format!(
        "{name}: {} sessions, {} of {} processes, {} turns running, up {}, version {}{draining}{not_ready}",
        stats.total_sessions,
        stats.processes,
        stats.max_processes,
        stats.streaming_turns,
        show_duration(duration(stats.uptime)),
        one_line(&stats.service_version),
    );
    ("node", line)
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

    #[test]
    fn each_node_has_a_line() {
        let stats = GetStatsResponse { processes: 2, max_processes: 16, ..figures() };
        let reached =
            NodeStats { name: "one".into(), reached: true, stats: Some(stats), ..nobody() };
        let gone = NodeStats { name: "two".into(), reason: "it is gone".into(), ..nobody() };
        let text = lines(&GetStatsResponse { nodes: vec![reached, gone], ..figures() });
        let nodes: Vec<_> = text.lines().filter(|line| line.starts_with("node ")).collect();
        assert!(nodes[0].contains("one: 0 sessions, 2 of 16 processes"), "{text}");
        assert!(nodes[1].ends_with("two: not reached: it is gone"), "{text}");
        assert!(!text.contains("uptime"), "{text}");
    }

    fn figures() -> GetStatsResponse {
        GetStatsResponse::default()
    }

    fn nobody() -> NodeStats {
        NodeStats::default()
    }
}
