//! Which incarnation a node had last, in a file of its state folder. A service that finds it there
//! knows that this incarnation has ended, processes and all, and takes its sessions at once instead
//! of waiting for the end of its lease.
//!
//! Invariant: whoever reads the file is the only one who uses the state folder, and has ended what
//! earlier services left there. That holds for one boot of one machine, so the file says which: a
//! folder that has been moved to another machine says nothing of processes here.

use std::path::{Path, PathBuf};

use tokio::fs;
use tracing::warn;

use super::{
    nodes::{self, Identity, Registration},
    transaction::Database,
};
use crate::store::StoreError;

/// What the kernel calls this boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The file.
#[derive(Debug, Clone)]
pub struct LastLife(pub PathBuf);

impl LastLife {
    /// The incarnation that has ended; `None` if nothing is known of it.
    pub async fn ended(&self) -> Option<String> {
        let text = fs::read_to_string(&self.0).await.ok()?;
        of_boot(&text, &boot().await?)
    }

    /// This incarnation begins. Without a file the next service waits for the end of the lease.
    pub async fn begins(&self, incarnation: &str) {
        let Some(boot) = boot().await else { return };
        if let Err(error) = fs::write(&self.0, format!("{incarnation} {boot}\n")).await {
            let file = Path::display(&self.0);
            warn!(%file, %error, "incarnation_not_noted");
        }
    }
}

/// Registers a node, whose life before has ended if it is noted that it was here.
pub async fn register(
    database: &Database,
    me: &Identity,
    last_life: Option<&LastLife>,
    slots: usize,
) -> Result<Registration, StoreError> {
    let Some(last_life) = last_life else {
        return nodes::register(database, me, None, slots).await;
    };
    let ended = last_life.ended().await;
    let registered = nodes::register(database, me, ended.as_deref(), slots).await?;
    last_life.begins(&me.incarnation).await;
    Ok(registered)
}

async fn boot() -> Option<String> {
    Some(fs::read_to_string(BOOT).await.ok()?.trim().to_owned())
}

fn of_boot(text: &str, boot: &str) -> Option<String> {
    let (incarnation, of) = text.trim_end().split_once(' ')?;
    (of == boot && !incarnation.is_empty()).then(|| incarnation.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_incarnation_of_this_boot_is_known_to_have_ended() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let file = LastLife(folder.path().join("incarnation"));
        assert_eq!(file.ended().await, None);
        file.begins("a").await;
        file.begins("b").await;
        assert_eq!(file.ended().await.as_deref(), Some("b"));
    }

    #[test]
    fn what_another_boot_or_a_full_disk_has_left_says_nothing() {
        for text in ["", "a", "a ", " here", "a there", "a here and there"] {
            assert_eq!(of_boot(text, "here"), None, "{text:?}");
        }
        assert_eq!(of_boot("a here\n", "here").as_deref(), Some("a"));
    }
}
