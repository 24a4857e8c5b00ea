//! What the limit of file descriptors is enough for, said at the start.

use tracing::{info, warn};

use crate::{
    config::Config,
    os::descriptors::{connections_carried, limit, processes_carried},
};

/// How many connections of callers are taken, with so many beside them, and what is left for sessions. A session without a
/// process needs no descriptor, so `pool.max_processes` is what has to fit.
pub fn connections(config: &Config, beside: usize) -> usize {
    let limit = limit();
    let wanted = config.server.limits.max_connections;
    let connections = connections_carried(limit, wanted);
    if connections < wanted {
        warn!(
            limit,
            connections,
            wanted,
            detail = "server.limits.max_connections: ulimit -n has room for fewer",
            "file_descriptors_limit_connections"
        );
    }
    let processes = processes_carried(limit, (connections + beside) as u64);
    info!(limit, connections, processes, "file_descriptors");
    let max_processes = config.pool.max_processes;
    if processes < max_processes as u64 {
        warn!(
            limit,
            processes,
            max_processes,
            detail = "pool.max_processes: ulimit -n carries fewer running sessions",
            "file_descriptors_limit_processes"
        );
    }
    connections
}
