//! What a process needs on disk before it starts: its folders, and the transcript that it
//! takes up. Knows nothing of processes.

use std::io;

use tokio_util::sync::CancellationToken;

use super::{Conversation, Order, Permit, folders};
use crate::{
    cli::{
        launch::{Folders, Origin},
        transcript::{self, Entry, Search},
    },
    confined::Folder,
    failure::Cause,
};

/// Does what waits for a disk, away from the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// What a process finds when it starts.
pub(super) struct Prepared {
    /// How its conversation begins.
    pub(super) origin: Origin,
    /// What was said in the conversation, if the order did not say.
    pub(super) taken_up: Vec<Entry>,
    /// The folders as they are, without links.
    pub(super) folders: Folders,
}

/// Makes the folders, writes the transcript if there is one, and finds out whether there
/// is one to take up; what is in it if it was not known. Writes nothing any more once
/// this is dropped.
pub(super) async fn prepare(
    permit: Permit,
    order: &Order,
    folders: Folders,
) -> Result<Prepared, Cause> {
    let given_up = CancellationToken::new();
    let _drop = given_up.clone().drop_guard();
    let conversation = order.conversation;
    let source = match conversation {
        Conversation::Own(id) | Conversation::Existing(id) => id,
        Conversation::CopyOf { from, .. } => from,
    };
    let (options, known) = (order.options.clone(), order.transcript.clone());
    let prepared = blocking(move || {
        if let Err(refused) = permit.check(&options) {
            return Ok(Err(refused));
        }
        let mut folders = folders;
        if options.cwd.is_none() {
            folders.work = folders::resolve(&folders.work)?;
            folders::make(&mut folders.work)?;
        }
        folders::make_tenants(&mut folders)?;
        // A session's own transcript is where its processes work, and where the last of
        // them worked before the caller chose another folder.
        let search = match conversation {
            Conversation::Own(_) if options.cwd.is_some() => Search::Move,
            Conversation::Own(_) => Search::OwnFolder,
            Conversation::Existing(_) | Conversation::CopyOf { .. } => Search::AllFolders,
        };
        let config = Folder::open(&folders.config)?.until(given_up);
        if !known.is_empty() {
            transcript::restore(&config, &folders.work, source, &known)?;
        }
        let found = transcript::provide(&config, &folders.work, source, search)?;
        // A fork tells its whole copy itself.
        let is_copy = matches!(conversation, Conversation::CopyOf { .. });
        let taken_up = if found && known.is_empty() && !is_copy {
            transcript::entries(&config, &folders.work, source)?
        } else {
            Vec::new()
        };
        Ok(Ok((found, taken_up, folders)))
    });
    let (found, taken_up, folders) = prepared.await.map_err(not_made)??;
    let origin = match conversation {
        Conversation::Own(id) if found => Origin::Resume(id),
        Conversation::Own(id) => Origin::New(id),
        Conversation::Existing(id) if found => Origin::Resume(id),
        Conversation::CopyOf { from, to } if found => Origin::Fork { from, to },
        Conversation::Existing(_) | Conversation::CopyOf { .. } => {
            return Err(Cause::ConversationNotFound { resume: source.to_string() });
        }
    };
    Ok(Prepared { origin, taken_up, folders })
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
