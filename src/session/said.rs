//! What was said in a session's conversation before its process starts: told to whoever
//! writes it to disk, and kept where it is found there, piece by piece. What a piece takes
//! counts for the tenant's budget of memory.

use std::{mem, sync::Arc};

use tokio::sync::Mutex;
use tracing::warn;

use super::commits::failed;
use crate::{
    budget::{Account, Reservation},
    cli::{mirror, transcript::Entry},
    domain::{
        failure::Cause,
        ids::{CliSessionId, SessionKey},
    },
    store::{Import, Line, Part, Place, Store},
    supply::{Said, Saying},
};

/// What a piece takes while it is worked on: its entries, and the text or the lines that are
/// made of them.
const COPIES: u64 = 2;

/// What the store has of a conversation, and what is added to it.
#[derive(Debug)]
pub struct Kept {
    store: Arc<dyn Store>,
    key: SessionKey,
    conversation: CliSessionId,
    /// Whether the store keeps what is found on disk.
    keeps: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The first piece, which was read when the session asked.
    read: Vec<Entry>,
    next: Option<Place>,
    begun: bool,
    claim: Reservation,
}

impl Kept {
    /// Nothing was said in this conversation, as long as nobody asks.
    pub fn new(
        store: Arc<dyn Store>,
        key: SessionKey,
        conversation: CliSessionId,
        keeps: bool,
        memory: &Account,
    ) -> Self {
        let state = State { read: Vec::new(), next: None, begun: false, claim: memory.open() };
        Self { store, key, conversation, keeps, state: Mutex::new(state) }
    }

    /// Asks the store. The first piece is read at once: most conversations have no other,
    /// and a store that fails is told before anything is started.
    pub async fn ask(&self) -> Result<(), Cause> {
        let mut state = self.state.lock().await;
        state.read = self.read(None, &mut state).await?;
        Ok(())
    }

    async fn read(&self, from: Option<Place>, state: &mut State) -> Result<Vec<Entry>, Cause> {
        let piece = self.store.piece(&self.key.tenant, self.conversation, from).await;
        let piece = piece.map_err(failed)?;
        state.next = piece.next;
        let entry = |Line { subpath, json, .. }| Entry { subpath, json };
        let entries: Vec<Entry> = piece.lines.into_iter().map(entry).collect();
        claim(&mut state.claim, &entries);
        Ok(entries)
    }

    async fn import(&self, part: Part) -> Result<(), Cause> {
        let (key, conversation) = (self.key.clone(), self.conversation);
        self.store.import(Import { key, conversation, part }).await.map_err(failed)
    }
}

/// Claims what these entries take. They are there already: others are refused meanwhile, and
/// not a conversation that has one long line.
fn claim(claim: &mut Reservation, entries: &[Entry]) {
    let bytes: usize = entries.iter().map(|entry| entry.json.len()).sum();
    claim.set(u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(COPIES));
}

impl Said for Kept {
    fn next(&self) -> Saying<'_, Vec<Entry>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            if !state.read.is_empty() {
                return Ok(mem::take(&mut state.read));
            }
            match state.next.take() {
                Some(next) => self.read(Some(next), &mut state).await,
                None => {
                    claim(&mut state.claim, &[]);
                    Ok(Vec::new())
                }
            }
        })
    }

    fn take_up(&self, entries: Vec<Entry>) -> Saying<'_, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            if !self.keeps {
                return Ok(());
            }
            claim(&mut state.claim, &entries);
            if !state.begun {
                // The session holds the conversation: what is left is of a start of its own
                // that came to nothing.
                let tenant = &self.key.tenant;
                self.store.give_up_import(tenant, self.conversation).await.map_err(failed)?;
                self.import(Part::Begin).await?;
                state.begun = true;
            }
            let line = |Entry { subpath, json }: Entry| {
                let uuid = mirror::uuid_of(&json);
                Line { conversation: self.conversation, subpath, uuid, json }
            };
            self.import(Part::Lines(entries.into_iter().map(line).collect())).await
        })
    }

    fn taken_up(&self) -> Saying<'_, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            claim(&mut state.claim, &[]);
            match state.begun {
                true => self.import(Part::End).await,
                false => Ok(()),
            }
        })
    }

    fn give_up(&self) -> Saying<'_, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            if !mem::take(&mut state.begun) {
                return Ok(());
            }
            let given_up = self.store.give_up_import(&self.key.tenant, self.conversation).await;
            given_up.map_err(|error| {
                // Nobody sees it, and the next start removes it.
                warn!(session_id = %self.key.session, %error, "transcript_not_given_up");
                failed(error)
            })
        })
    }
}
