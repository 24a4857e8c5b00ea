//! Where the CLI keeps the transcript of a conversation on disk: one file a
//! conversation, in a folder named after the working folder. Knows nothing of what
//! is in it.
//!
//! Source: observed on 2.1.197 and 2.1.330. The folder's name is the real path of
//! the working folder with every character outside `[A-Za-z0-9]` replaced by `-`;
//! past 200 characters a hash follows, which this module does not compute.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::ids::CliSessionId;

/// The file of a conversation whose process works in `work`.
pub fn path(config: &Path, work: &Path, id: CliSessionId) -> PathBuf {
    let real = work.canonicalize().unwrap_or_else(|_| work.to_owned());
    config.join("projects").join(folder_name(&real)).join(format!("{id}.jsonl"))
}

fn folder_name(work: &Path) -> String {
    let text = work.to_string_lossy();
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// Makes sure that the file of a conversation is where a process that works in
/// `work` looks for it (2.1.197 looks nowhere else). Returns whether there is one.
/// May read folders: not for a runtime's own threads.
pub fn provide(config: &Path, work: &Path, id: CliSessionId) -> io::Result<bool> {
    let wanted = path(config, work, id);
    if wanted.exists() {
        return Ok(true);
    }
    let Some(found) = find(config, id)? else { return Ok(false) };
    if let Some(folder) = wanted.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::copy(found, wanted)?;
    Ok(true)
}

/// Removes every file of a conversation. May read folders.
pub fn remove(config: &Path, id: CliSessionId) -> io::Result<()> {
    while let Some(found) = find(config, id)? {
        std::fs::remove_file(&found)?;
        // Subagents of the conversation have files in a folder of its name.
        match std::fs::remove_dir_all(found.with_extension("")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn find(config: &Path, id: CliSessionId) -> io::Result<Option<PathBuf>> {
    let folders = match std::fs::read_dir(config.join("projects")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        folders => folders?,
    };
    let name = format!("{id}.jsonl");
    for folder in folders {
        let file = folder?.path().join(&name);
        if file.is_file() {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_character_becomes_one_dash() {
        assert_eq!(folder_name(Path::new("/a b/é.x")), "-a-b---x");
    }

    #[test]
    fn a_transcript_of_another_folder_is_brought_over_and_can_be_removed() {
        let config = tempfile::tempdir().expect("a folder");
        let id = CliSessionId::fresh();
        let (old, new) = (Path::new("/old"), Path::new("/new"));
        assert!(!provide(config.path(), new, id).expect("no projects yet"));
        let file = path(config.path(), old, id);
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        std::fs::write(&file, "{}\n").expect("written");

        assert!(provide(config.path(), new, id).expect("copied"));
        assert!(path(config.path(), new, id).is_file());
        remove(config.path(), id).expect("removed");
        assert!(!provide(config.path(), new, id).expect("none"));
    }
}
