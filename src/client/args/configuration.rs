//! Arguments that say where the configuration comes from.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    config::{ConfigError, Sources},
    domain::ids::TenantId,
};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Print it as TOML, secrets hidden.
    Print(ConfigArgs),
    /// Say whether it is accepted.
    Check(ConfigArgs),
}

/// What a new token stands for.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Whose sessions it gives access to.
    #[arg(long, value_parser = TenantId::parse)]
    pub tenant: TenantId,
    /// Lets it look at, and interrupt, what belongs to other tenants.
    #[arg(long)]
    pub admin: bool,
    /// How long it is good for, like 30days; without it until it is taken out of the file.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
}

/// Where the configuration comes from, besides the variables `SESSION_POOL__…`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "PATH", env = "SESSION_POOL_CONFIG")]
    config: Option<PathBuf>,
    /// Set one key, for example pool.max_sessions=5. Can be given more than once.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Same as --set server.listen=ADDRESS.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Same as --set state_dir=PATH.
    #[arg(long, value_name = "PATH")]
    state_dir: Option<String>,
    /// Same as --set cli.path=PATH.
    #[arg(long, value_name = "PATH")]
    cli_path: Option<String>,
    /// Same as --set log.format=FORMAT.
    #[arg(long, value_name = "pretty|json")]
    log_format: Option<String>,
    /// Same as --set log.level=FILTER.
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
}

impl ConfigArgs {
    /// The sources of the configuration, this process's environment among them.
    pub fn sources(self) -> Result<Sources, ConfigError> {
        let mut flags = self.set;
        let short_forms = [
            ("server.listen", self.listen),
            ("state_dir", self.state_dir),
            ("cli.path", self.cli_path),
            ("log.format", self.log_format),
            ("log.level", self.log_level),
        ];
        flags.extend(short_forms.into_iter().filter_map(|(key, value)| Some((key.into(), value?))));
        Sources::from_process(self.config, flags)
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err("must have the form KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_a_key_and_a_value() {
        assert_eq!(key_and_value("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert_eq!(key_and_value("a="), Ok(("a".into(), String::new())));
        assert!(key_and_value("a").is_err());
        assert!(key_and_value("=a").is_err());
    }
}
