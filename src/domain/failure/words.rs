//! Messages of failures that are more than one text with values in it.

use super::Remedy;
use crate::domain::exit::{Overrun, Resource};

/// The message of [`super::Cause::OptionsMismatch`].
pub(super) fn mismatch(options: &[String], remedy: Remedy, detail: Option<&String>) -> String {
    let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("{}: {}{detail}; {}", remedy.problem(), options.join(", "), remedy.way_out())
}

/// What a CLI that says nothing may be waiting for.
pub(super) fn waits_for(mcp_servers: &[String]) -> String {
    match mcp_servers {
        [] => String::new(),
        names => format!(
            "; it first waits for the session's MCP servers, up to MCP_TIMEOUT: {}",
            names.join(", ")
        ),
    }
}

/// The message of [`super::Cause::HoldsTooMuch`].
pub(super) fn too_much(Overrun { resource, limit, used }: &Overrun) -> String {
    match resource {
        // Ended by the kernel, which gives no more than that.
        Resource::Memory if used <= limit => format!(
            "the session's processes wanted more memory than {limit} bytes (cli.memory_limit)"
        ),
        Resource::Memory => format!(
            "the session's processes held {used} bytes, more than {limit} (cli.memory_limit)"
        ),
        Resource::Processes => format!(
            "the session had {used} processes, more than {limit} (policy.max_processes_per_session)"
        ),
        Resource::Workspace => format!(
            "the session's files came to {used} bytes or more, over {limit} \
             (policy.max_workspace_bytes); it may remove some in its next turn"
        ),
        Resource::Tasks => format!(
            "the session had {used} processes and threads, more than {limit} (cli.max_tasks)"
        ),
    }
}
