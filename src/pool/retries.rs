//! A turn that its caller named runs once. Asked for again it is joined while the session
//! has its events, and afterwards answered with the result that the store kept with it,
//! also when the session is closed or the service has started anew.
//!
//! What is not in the store was not told: such a turn, which died with its process or with
//! the service, may run again under its name.

use std::{sync::Arc, time::Duration};

use tracing::debug;

use super::SessionPool;
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::SessionKey,
    },
    session::{TurnRequest, store_failed},
    store::{KeptEnding, KeptTurn},
    traces::TurnTrace,
    turn::{
        event::{Class, ProcessOrigin, Started},
        listener::Listener,
    },
};

impl SessionPool {
    /// The turn that is asked for, if it has ended and its caller was told the result.
    pub(super) async fn told_before(
        &self,
        key: &SessionKey,
        request: &TurnRequest,
    ) -> Result<Option<Listener>, Failure> {
        let Some(turn) = &request.turn_id else { return Ok(None) };
        let store = &self.shared().parts.store;
        let Some(kept) = store.turn(key, turn).await.map_err(store_failed)? else {
            return Ok(None);
        };
        if let Some(handle) = self.find(key) {
            // All of its events, if they are still there.
            if let Ok(listener) = handle.attach(Some(turn.clone()), 1, request.partials).await {
                return Ok(Some(listener));
            }
        }
        debug!(session_id = %key.session, turn_id = %turn, "turn_told_again");
        self.tell_again(key, request, kept).map(Some)
    }

    /// A turn of `started` and the result.
    fn tell_again(
        &self,
        key: &SessionKey,
        request: &TurnRequest,
        kept: KeptTurn,
    ) -> Result<Listener, Failure> {
        if kept.result.is_empty() {
            return Err(Failure::from(Cause::EventsExpired { first_kept: 3 })
                .concerning(Some(&key.session), Some(&kept.turn_id)));
        }
        let logs = &self.shared().parts.logs;
        let accounts = logs.accounts(&key.tenant);
        let span = request.span.clone();
        let log =
            logs.log(kept.turn_id.clone(), &accounts, Arc::default(), span, TurnTrace::default());
        log.start(Started {
            session_id: key.session.clone(),
            turn_id: kept.turn_id,
            client_id: kept.client_id,
            cli_session_id: kept.cli_session_id,
            origin: ProcessOrigin::Reused,
            queued_for: Duration::ZERO,
            connect_time: Duration::ZERO,
            start_time: kept.start_time,
            background: false,
        });
        let class = match kept.ending {
            KeptEnding::Complete => Class::Result,
            KeptEnding::Interrupted => Class::InterruptedResult,
            KeptEnding::Unstructured => Class::UnstructuredResult,
        };
        // Listens first: what nobody reads may give way.
        let listener = log.listen(1, request.partials)?;
        log.append([(class, kept.result.as_bytes().to_vec().into())]);
        log.end(Ok(()));
        Ok(listener)
    }
}
