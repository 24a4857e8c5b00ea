//! What a process needs on disk before it starts: its folders, and the transcript that it
//! takes up. Knows nothing of processes.
//!
//! A transcript is written, looked through and taken up piece by piece: an agent may have
//! made it as large as the disk takes. Each step is waited for on its own, so that a long
//! transcript is no disk that hangs.

use std::{io, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Conversation, Order, Said, folders, recheck};
use crate::{
    cli::{
        command::Folders,
        launch::ConversationOrigin,
        transcript::{self, Entries, Entry, Found, Restoration, Search},
    },
    domain::{failure::Cause, ids::CliSessionId},
    os::confined::Folder,
    policy::Policy,
    tasks::apart,
};

/// Does what waits for a disk, away from the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    apart(work).await.map_err(io::Error::other)?
}

/// What a process finds when it starts.
pub(super) struct Prepared {
    /// How its conversation begins.
    pub(super) origin: ConversationOrigin,
    /// The folders as they are, without links.
    pub(super) folders: Folders,
    /// The sum that is saved in the transcript, in US dollars.
    pub(super) saved_cost_usd: Option<f64>,
}

/// The disk, as long as somebody waits for it.
struct Disk {
    limit: Duration,
    given_up: CancellationToken,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.given_up.cancel();
    }
}

impl Disk {
    async fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Cause> {
        let limit = self.limit;
        let late = |_| Cause::Internal {
            detail: format!(
                "the session's folders were not ready in {limit:?} (pool.connect_timeout)"
            ),
        };
        timeout(limit, blocking(work)).await.map_err(late)?.map_err(not_made)
    }
}

/// Makes the folders, writes the transcript if there is one, and finds out whether there
/// is one to take up; what is in it is kept if it was not. Waits for the disk for `limit`
/// at each step. Writes nothing any more once this is dropped. `walls` says whether sessions are
/// kept from each other's files.
pub(super) async fn prepare(
    (policy, walls): (Arc<Policy>, bool),
    order: &Order,
    folders: Folders,
    limit: Duration,
) -> Result<Prepared, Cause> {
    let disk = Disk { limit, given_up: CancellationToken::new() };
    let conversation = order.conversation;
    let source = match conversation {
        Conversation::Own(id) | Conversation::Existing(id) => id,
        Conversation::CopyOf { from, .. } => from,
    };
    // A session's own transcript is where its processes work, or where the last of them
    // worked before the caller chose another folder, or took that choice back.
    let search = match conversation {
        Conversation::Own(_) if order.begins => Search::OwnFolder,
        Conversation::Own(_) => Search::Move,
        Conversation::Existing(_) | Conversation::CopyOf { .. } => Search::AllFolders,
    };
    // Asked before the disk is: where nothing is told, which is so of every new session, all that
    // the disk has to do is one step.
    let said = order.said.as_deref();
    let first = match said {
        Some(said) => said.next().await?,
        None => Vec::new(),
    };
    let known = !first.is_empty();
    let at_once = (!known).then_some((source, search));
    let (folders, config, mut found) =
        make_folders(&disk, (policy, walls), order, folders, at_once).await?;
    if let Some(said) = said.filter(|_| known) {
        restore(&disk, &config, &folders, order, (said, first), source).await?;
        let (at, work) = (Arc::clone(&config), folders.work.clone());
        found = disk.step(move || transcript::provide(&at, &work, source, search)).await?;
    }
    // A fork tells its whole copy itself.
    let is_copy = matches!(conversation, Conversation::CopyOf { .. });
    if let Some(said) = said
        && found.is_some()
        && !known
        && !is_copy
    {
        take_up(&disk, config, &folders, order, said, source).await?;
    }
    let origin = match conversation {
        Conversation::Own(id) if found.is_some() => ConversationOrigin::Resume(id),
        Conversation::Own(id) => ConversationOrigin::New(id),
        Conversation::Existing(id) if found.is_some() => ConversationOrigin::Resume(id),
        Conversation::CopyOf { from, to } if found.is_some() => {
            ConversationOrigin::Fork { from, to }
        }
        Conversation::Existing(_) | Conversation::CopyOf { .. } => {
            return Err(Cause::ConversationNotFound { resume: source.to_string() });
        }
    };
    let saved_cost_usd = found.and_then(|found| found.saved_cost_usd);
    Ok(Prepared { origin, folders, saved_cost_usd })
}

/// Makes the folders and opens that of transcripts; and `at_once` finds out whether there is one
/// to take up.
async fn make_folders(
    disk: &Disk,
    (policy, walls): (Arc<Policy>, bool),
    order: &Order,
    folders: Folders,
    at_once: Option<(CliSessionId, Search)>,
) -> Result<(Folders, Arc<Folder>, Option<Found>), Cause> {
    let (options, given_up) = (order.options.clone(), disk.given_up.clone());
    let made = disk.step(move || {
        if let Err(refused) = recheck::check(&policy, &options) {
            return Ok(Err(refused));
        }
        let mut folders = folders;
        if options.cwd.is_none() {
            folders.work = folders::resolve(&folders.work)?;
            folders::make(&mut folders.work)?;
        }
        folders::make_others(&mut folders, walls)?;
        let config = Folder::open(&folders.config)?.until(given_up);
        let found = match at_once {
            Some((id, search)) => transcript::provide(&config, &folders.work, id, search)?,
            None => None,
        };
        Ok(Ok((folders, Arc::new(config), found)))
    });
    made.await?
}

/// Writes what is kept of the conversation, of which the first piece was read.
async fn restore(
    disk: &Disk,
    config: &Arc<Folder>,
    folders: &Folders,
    order: &Order,
    (said, first): (&dyn Said, Vec<Entry>),
    source: CliSessionId,
) -> Result<(), Cause> {
    let mut entries = first;
    let mut restoration = Restoration::begin(Arc::clone(config), &folders.work, source);
    while !entries.is_empty() {
        still_wanted(order)?;
        let added = disk.step(move || {
            restoration.add(&entries)?;
            Ok(restoration)
        });
        restoration = added.await?;
        entries = said.next().await?;
    }
    disk.step(move || restoration.finish()).await
}

/// Has what is in the conversation's file kept.
async fn take_up(
    disk: &Disk,
    config: Arc<Folder>,
    folders: &Folders,
    order: &Order,
    said: &dyn Said,
    source: CliSessionId,
) -> Result<(), Cause> {
    let work = folders.work.clone();
    let opened = disk.step(move || Entries::of(&config, &work, source)).await?;
    let Some(mut file) = opened else { return Ok(()) };
    loop {
        still_wanted(order)?;
        let (rest, entries) = disk.step(move || file.read().map(|read| (file, read))).await?;
        if entries.is_empty() {
            return said.taken_up().await;
        }
        file = rest;
        said.take_up(entries).await?;
    }
}

/// Between two steps nothing is written: a start that is not wanted any more ends there.
fn still_wanted(order: &Order) -> Result<(), Cause> {
    match order.cancelled.is_cancelled() {
        true => Err(Cause::TurnInterrupted),
        false => Ok(()),
    }
}

fn not_made(error: io::Error) -> Cause {
    let detail = format!("the session's folders cannot be made: {error}");
    match is_of_the_disk(&error) {
        true => Cause::StoreUnavailable { detail },
        false => Cause::Internal { detail },
    }
}

/// Whether an error says that the disk takes nothing, which may pass: one without room may
/// have some again.
pub(super) fn is_of_the_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
