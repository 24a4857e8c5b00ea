//! How a log shows the sections `cli` and `store`: without what looks like a credential.

use std::{collections::BTreeMap, fmt};

use super::{
    CliConfig, StoreConfig,
    secrets::{shown_argument, shown_url, shown_value},
};

impl fmt::Debug for CliConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            extra_args,
            env,
            env_files,
            env_passthrough,
            max_frame_bytes,
            sandbox,
            memory_limit,
            max_tasks,
            max_open_files,
            cgroups,
            cpu_weight,
            tmp_limit,
            sandbox_required,
            start_check,
        } = self;
        let env: BTreeMap<_, _> =
            env.iter().map(|(name, value)| (name, shown_value(name, value))).collect();
        let extra_args: Vec<_> = extra_args.iter().map(|item| shown_argument(item)).collect();
        f.debug_struct("CliConfig")
            .field("path", path)
            .field("extra_args", &extra_args)
            .field("env", &env)
            .field("env_files", env_files)
            .field("env_passthrough", env_passthrough)
            .field("max_frame_bytes", max_frame_bytes)
            .field("sandbox", sandbox)
            .field("memory_limit", memory_limit)
            .field("max_tasks", max_tasks)
            .field("max_open_files", max_open_files)
            .field("cgroups", cgroups)
            .field("cpu_weight", cpu_weight)
            .field("tmp_limit", tmp_limit)
            .field("sandbox_required", sandbox_required)
            .field("start_check", start_check)
            .finish()
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            url,
            url_file,
            max_connections,
            acquire_timeout,
            statement_timeout,
            retention,
            turn_retention,
            commit_timeout,
            allow_empty,
        } = self;
        f.debug_struct("StoreConfig")
            .field("kind", kind)
            .field("url", &shown_url(url))
            .field("url_file", url_file)
            .field("max_connections", max_connections)
            .field("acquire_timeout", acquire_timeout)
            .field("statement_timeout", statement_timeout)
            .field("retention", retention)
            .field("turn_retention", turn_retention)
            .field("commit_timeout", commit_timeout)
            .field("allow_empty", allow_empty)
            .finish()
    }
}
