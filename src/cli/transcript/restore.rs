//! Writes the files of a conversation from what is kept of it, piece by piece.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::warn;

use super::{Entry, path};
use crate::{
    domain::ids::CliSessionId,
    os::confined::{Draft, Folder},
};

/// The files of a conversation while they are written. What is there now stays until
/// [`Restoration::finish`], and for good if this is dropped before.
#[derive(Debug)]
pub struct Restoration {
    config: Arc<Folder>,
    own: PathBuf,
    /// A subagent's file that cannot be written has none.
    drafts: BTreeMap<PathBuf, Option<Draft>>,
}

impl Restoration {
    /// Begins to write the conversation of this id, whose process is to work in `work`.
    pub fn begin(config: Arc<Folder>, work: &Path, id: CliSessionId) -> Self {
        Self { config, own: path(work, id), drafts: BTreeMap::new() }
    }

    /// Adds entries behind those that were added before. A subagent's file that cannot be
    /// written is left out: the conversation goes on without it.
    pub fn add(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
        for Entry { subpath, json } in entries {
            let file = match &**subpath {
                "" => self.own.clone(),
                below => self.own.with_extension("").join(below),
            };
            if file != self.own
                && let Some(metadata) = metadata_of(json)
            {
                // The CLI keeps it beside the subagent's transcript; the last one counts.
                let beside = file.with_extension("meta.json");
                let replaced = self.config.replace(&beside, metadata.as_bytes());
                self.unless_of_a_subagent(&beside, replaced)?;
                continue;
            }
            let text = texts.entry(file).or_default();
            text.push_str(json);
            text.push('\n');
        }
        for (file, text) in texts {
            let added = self.add_to(&file, text.as_bytes());
            if self.unless_of_a_subagent(&file, added)?.is_none()
                && let Some(Some(draft)) = self.drafts.insert(file, None)
            {
                self.config.abandon(&draft);
            }
        }
        Ok(())
    }

    fn add_to(&mut self, file: &Path, text: &[u8]) -> io::Result<()> {
        if !self.drafts.contains_key(file) {
            self.drafts.insert(file.to_owned(), Some(self.config.draft(file)?));
        }
        match self.drafts.get(file) {
            Some(Some(draft)) => self.config.add(draft, text),
            _ => Ok(()),
        }
    }

    fn unless_of_a_subagent<T>(
        &self,
        file: &Path,
        outcome: io::Result<T>,
    ) -> io::Result<Option<T>> {
        match outcome {
            Err(error) if file != self.own && error.kind() != io::ErrorKind::Interrupted => {
                warn!(%error, "transcript_of_a_subagent_not_restored");
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }

    /// Puts the files in their places, whatever is there. No process may be writing to them.
    pub fn finish(mut self) -> io::Result<()> {
        while let Some((file, draft)) = self.drafts.pop_last() {
            let Some(draft) = draft else { continue };
            let finished = self.config.finish(&draft);
            if finished.is_err() {
                self.config.abandon(&draft);
            }
            self.unless_of_a_subagent(&file, finished)?;
        }
        Ok(())
    }
}

impl Drop for Restoration {
    fn drop(&mut self) {
        for draft in self.drafts.values().flatten() {
            self.config.abandon(draft);
        }
    }
}

/// The metadata of a subagent, without what marks it among entries.
fn metadata_of(json: &str) -> Option<String> {
    let mut value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    (value.remove("type")? == "agent_metadata")
        .then(|| serde_json::Value::Object(value).to_string())
}
