//! Variables of the CLI whose values are in files, such as a key that is rotated while the
//! service runs: read again for every process. Knows names and paths; nothing of what the
//! values are.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use crate::{os::regular, tasks::apart};

/// Bytes of a value: an environment has room for few that are larger.
const LONGEST_VALUE: u64 = 64 << 10;

/// Names, and the files that have the values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvFiles(pub Vec<(String, PathBuf)>);

/// A value that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cli.env_files: {name}: {}: {error}", path.display())]
pub struct Unreadable {
    name: String,
    path: PathBuf,
    error: io::Error,
}

impl EnvFiles {
    /// The values as they are now, without a line break at the end.
    pub async fn read(&self) -> Result<BTreeMap<String, String>, Unreadable> {
        let mut values = BTreeMap::new();
        for (name, path) in &self.0 {
            let value = read(path).await.map_err(|error| {
                let (name, path) = (name.clone(), path.clone());
                Unreadable { name, path, error }
            })?;
            values.insert(name.clone(), value);
        }
        Ok(values)
    }
}

async fn read(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let bounded = move || regular::read_bounded(regular::open(&path)?, LONGEST_VALUE);
    let value = apart(bounded).await??;
    let mut value = String::from_utf8(value).map_err(|_| io::Error::other("is not UTF-8"))?;
    value.truncate(value.trim_end_matches(['\r', '\n']).len());
    if value.is_empty() || value.contains('\0') {
        return Err(io::Error::other("is empty or has a NUL byte"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn d9_a_value_is_what_the_file_has_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let files = EnvFiles(vec![("KEY".to_owned(), path.clone())]);
        for (text, value) in [("one\n", "one"), ("two", "two"), (" three \r\n", " three ")] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(files.read().await.expect("read")["KEY"], value);
        }
        let too_long = "x".repeat(65_537);
        for bad in ["", "\n", "a\0b", too_long.as_str()] {
            std::fs::write(&path, bad).expect("written");
            let error = files.read().await.expect_err("no value").to_string();
            assert!(error.contains("cli.env_files: KEY: "), "{error}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(files.read().await.is_err());
    }
}
