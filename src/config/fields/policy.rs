//! The keys of the section `policy`.

use super::{DAY, Field, GIB, PIB, Slot, TIB, duration, duration_or_off, field};
use crate::config::PolicyConfig;

pub(super) fn fields(policy: &mut PolicyConfig) -> impl IntoIterator<Item = Field<'_>> {
    let PolicyConfig {
        permission_modes,
        cwd_roots,
        mcp_servers,
        settings,
        agents,
        tool_servers,
        tool_call_timeout,
        env,
        setting_sources,
        rule,
        egress,
        max_prompt_bytes,
        slash_commands,
        file_mentions,
        prompt_timeout,
        tenant_max_sessions,
        tenant_max_processes,
        tenant_max_queued_turns,
        tenant_max_streams,
        tenant_max_memory,
        tenant_max_spill,
        tenant_max_cost_usd_per_day,
        tenant_max_tokens_per_minute,
    } = policy;
    [
        field("policy.permission_modes", Slot::Texts(permission_modes, 32)),
        field("policy.cwd_roots", Slot::Texts(cwd_roots, 64)),
        field("policy.mcp_servers", Slot::McpServers(mcp_servers)),
        field("policy.settings", Slot::Flag(settings)),
        field("policy.agents", Slot::Flag(agents)),
        field("policy.tool_servers", Slot::Flag(tool_servers)),
        duration("policy.tool_call_timeout", tool_call_timeout, DAY),
        field("policy.env", Slot::Texts(env, 256)),
        field("policy.setting_sources", Slot::Texts(setting_sources, 3)),
        field("policy.rule", Slot::Rules(rule)),
        field("policy.egress", Slot::Egress(egress)),
        field("policy.max_prompt_bytes", Slot::Bytes(max_prompt_bytes, 1..=GIB)),
        field("policy.slash_commands", Slot::Flag(slash_commands)),
        field("policy.file_mentions", Slot::FileMentions(file_mentions)),
        duration_or_off("policy.prompt_timeout", prompt_timeout),
        field("policy.tenant_max_sessions", Slot::Count(tenant_max_sessions, 0..=1_000_000)),
        field("policy.tenant_max_processes", Slot::Count(tenant_max_processes, 0..=100_000)),
        field(
            "policy.tenant_max_queued_turns",
            Slot::Count(tenant_max_queued_turns, 0..=1_000_000),
        ),
        field("policy.tenant_max_streams", Slot::Count(tenant_max_streams, 0..=1_000_000)),
        field("policy.tenant_max_memory", Slot::LargeBytes(tenant_max_memory, 0..=TIB)),
        field("policy.tenant_max_spill", Slot::LargeBytes(tenant_max_spill, 0..=PIB)),
        field(
            "policy.tenant_max_cost_usd_per_day",
            Slot::Amount(tenant_max_cost_usd_per_day, 0.0..=1e9),
        ),
        field(
            "policy.tenant_max_tokens_per_minute",
            Slot::Count(tenant_max_tokens_per_minute, 0..=1_000_000_000_000),
        ),
    ]
}
