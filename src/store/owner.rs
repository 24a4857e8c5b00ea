//! Whose a session's row is. Whoever goes on with a session claims the row, and from then on
//! nobody who claimed it before can write to it. The one place that says so is [`admit`]. A
//! commit asks it first, in its transaction: that has the lock which a claim needs too, so that
//! none slips in between.
//!
//! The number of a claim alone is not enough: after a restore of an older backup one can be
//! given twice. So the life of the service that claimed is compared as well.

use super::{
    Epoch, StoreError,
    statements::{Cells, Statements},
};
use crate::domain::ids::{CliSessionId, SessionKey};

/// Takes a session's row, whoever had it. There may be none yet.
pub(super) async fn claim(
    connection: &mut impl Statements,
    writer: &str,
    key: &SessionKey,
) -> Result<Epoch, StoreError> {
    let claimed = connection.row(
        "UPDATE sessions SET owner = $1, epoch = epoch + 1 WHERE tenant = $2 AND session_id = $3 \
         RETURNING epoch",
        &[writer.into(), key.tenant.as_str().into(), key.session.as_str().into()],
    );
    claimed.await?.map_or(Ok(Epoch::NONE), |row| row.number("epoch").map(Epoch))
}

/// Gives a row back, unless somebody else has it by now.
pub(super) async fn release(
    connection: &mut impl Statements,
    writer: &str,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let released = connection.run(
        "UPDATE sessions SET owner = '' WHERE tenant = $1 AND session_id = $2 AND owner = $3 \
         AND epoch = $4",
        &[
            key.tenant.as_str().into(),
            key.session.as_str().into(),
            writer.into(),
            epoch.kept().0.into(),
        ],
    );
    released.await?;
    Ok(())
}

/// What the database says before a session is written: whose its row is, and which sessions
/// have the conversation that it works in.
#[derive(Debug, Default)]
pub(super) struct Standing {
    row: Option<(String, Epoch)>,
    /// The sessions that have the conversation.
    pub(super) holders: Vec<String>,
}

impl Standing {
    /// Reads both at once: each statement costs a commit the way to SQLite's thread and back.
    pub(super) async fn read(
        connection: &mut impl Statements,
        key: &SessionKey,
        conversation: CliSessionId,
    ) -> Result<Self, StoreError> {
        let rows = connection.rows(
            "SELECT 1 AS is_session, owner AS name, epoch FROM sessions \
             WHERE tenant = $1 AND session_id = $2 \
             UNION ALL SELECT 0, session_id, 0 FROM conversations \
             WHERE tenant = $1 AND cli_session_id = $3",
            &[
                key.tenant.as_str().into(),
                key.session.as_str().into(),
                (&conversation.to_string()).into(),
            ],
        );
        let mut standing = Self::default();
        for row in &rows.await? {
            let name: String = row.text("name")?.to_owned();
            match row.number("is_session")? {
                0 => standing.holders.push(name),
                _ => standing.row = Some((name, Epoch(row.number("epoch")?))),
            }
        }
        Ok(standing)
    }

    /// Whether the row is the writer's in this epoch; the error says whose it is.
    pub(super) fn check(&self, writer: &str, epoch: Epoch) -> Result<(), StoreError> {
        let row = self.row.as_ref().map(|(owner, epoch)| (owner.as_str(), *epoch));
        admit(row, writer, epoch)
    }
}

/// Whether somebody may write to a row, or make it where there is none. The first commit of a
/// session makes it; one that is told again after an outcome that nobody knows finds its own.
pub(super) fn admit(
    row: Option<(&str, Epoch)>,
    writer: &str,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let is_own = match row {
        Some((owner, current)) => owner == writer && current == epoch.kept(),
        None => epoch == Epoch::NONE,
    };
    let owner = row.map(|(owner, _)| owner.to_owned()).unwrap_or_default();
    if is_own { Ok(()) } else { Err(StoreError::Fenced { owner }) }
}
