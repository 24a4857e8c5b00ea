//! Defaults that depend on other keys: what one tenant may have once callers are told apart,
//! and memory for prompts of the size that is allowed.

use super::{Config, source::Settings};

/// Of what there is, one tenant leaves this part to others.
const LEFT_TO_OTHERS: usize = 4;
/// Turns of one tenant that wait.
const QUEUED_TURNS: usize = 256;
/// Open streams of one tenant.
const STREAMS: usize = 1000;
/// Prompts of the largest size for which there is memory.
const LARGE_PROMPTS: u64 = 4;

/// Gives keys that nobody has set their values.
pub fn share_out(config: &mut Config, settings: &Settings) {
    let unset = |key: &str| settings.iter().all(|(set, _)| set != key);
    let largest = config.policy.max_prompt_bytes as u64;
    if unset("pool.memory_budget") {
        let needed = largest.saturating_mul(LARGE_PROMPTS).min(1 << 40);
        config.pool.memory_budget = config.pool.memory_budget.max(needed);
    }
    if unset("gateway.enabled") {
        config.gateway.enabled = config.gateway.has_credential();
    }
    if config.auth.tokens_file.is_none() && config.tls.client_ca.is_none() {
        return;
    }
    let part = |all: usize| (all - all / LEFT_TO_OTHERS).min(all.saturating_sub(1)).max(1);
    let part_of_bytes = |all: u64| all - all / LEFT_TO_OTHERS as u64;
    let (pool, policy) = (&config.pool, &mut config.policy);
    for (key, place, default) in [
        ("policy.tenant_max_sessions", &mut policy.tenant_max_sessions, part(pool.max_sessions)),
        ("policy.tenant_max_processes", &mut policy.tenant_max_processes, part(pool.max_processes)),
        ("policy.tenant_max_queued_turns", &mut policy.tenant_max_queued_turns, QUEUED_TURNS),
        ("policy.tenant_max_streams", &mut policy.tenant_max_streams, STREAMS),
    ] {
        if unset(key) {
            *place = default;
        }
    }
    for (key, place, default) in [
        (
            "policy.tenant_max_memory",
            &mut policy.tenant_max_memory,
            part_of_bytes(pool.memory_budget),
        ),
        ("policy.tenant_max_spill", &mut policy.tenant_max_spill, part_of_bytes(pool.spill_bytes)),
    ] {
        if unset(key) {
            *place = default;
        }
    }
}
