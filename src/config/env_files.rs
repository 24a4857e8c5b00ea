//! The items of `cli.env_files`: `NAME=/path`.

use std::path::PathBuf;

use super::CliConfig;
use crate::policy::variables::is_name;

/// The name and the path of an item, or what is wrong with it.
pub(super) fn parse(item: &str) -> Result<(String, PathBuf), &'static str> {
    match item.split_once('=') {
        Some((name, path)) if is_name(name) && path.starts_with('/') && !path.contains('\0') => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("each item must be NAME=/path: a variable, and the absolute path of a file"),
    }
}

impl CliConfig {
    /// Variables whose values are in files, and those files.
    pub fn variables_in_files(&self) -> impl Iterator<Item = (String, PathBuf)> {
        // Others are refused before the configuration is in force.
        self.env_files.iter().filter_map(|item| parse(item).ok())
    }
}
