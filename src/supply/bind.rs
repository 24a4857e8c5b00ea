//! A session begins on a spare: whether it can, its folder, and what the spare is told.
//! Whatever goes wrong costs a start, never the turn: the spare has seen no prompt yet.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::debug;

use super::{
    Lease, Miss, Order, SpareUse, folders, handshake,
    passes::{brings_a_way, metered},
    prepare::blocking,
    recheck,
    shared::Shared,
    spares::spare::Spare,
};
use crate::cli::{binding, process::Child as _};

/// What a spare may take to answer, a hundred times what it needs: one that hangs is given
/// up for a start that the caller can still wait for.
const BIND_LIMIT: Duration = Duration::from_secs(5);

impl Shared {
    /// A spare as the process of a session, or why there is none.
    pub(super) async fn lease_spare(
        &self,
        order: &Order,
        began: Instant,
    ) -> Result<Lease, SpareUse> {
        if !self.spares.is_kept() {
            return Err(SpareUse::NotKept);
        }
        self.take_spare(order, began).await.map_err(SpareUse::Missed)
    }

    async fn take_spare(&self, order: &Order, began: Instant) -> Result<Lease, Miss> {
        if !order.begins {
            return Err(Miss::Conversation);
        }
        // A spare has a pass of its own, and goes by it.
        if self.gateway.is_some() && brings_a_way(&order.options) {
            return Err(Miss::Options);
        }
        self.check_folder(order).await?;
        let mut spare = self.spares.take(&order.session.tenant, &order.options).await?;
        match self.bind(order, &mut spare).await {
            Ok(()) => Ok(leased(spare, began)),
            Err(miss) => {
                spare.end().await;
                Err(miss)
            }
        }
    }

    /// A session that has a folder keeps it.
    async fn check_folder(&self, order: &Order) -> Result<(), Miss> {
        let work = folders::of_session(&self.settings.state_dir, &order.session).work;
        let (policy, options) = (Arc::clone(&self.policy), order.options.clone());
        let checked = blocking(move || {
            // Who refuses says why when the session is started.
            let allowed = recheck::check(&policy, &options).map_err(|_| Miss::Options);
            Ok(allowed.and_then(|()| match work.symlink_metadata() {
                Ok(_) => Err(Miss::Folder),
                Err(_) => Ok(()),
            }))
        });
        checked.await.unwrap_or(Err(Miss::Folder))
    }

    /// Makes a spare the session's: its folder, and what it is told.
    async fn bind(&self, order: &Order, spare: &mut Spare) -> Result<(), Miss> {
        let session = folders::of_session(&self.settings.state_dir, &order.session).work;
        let spare_work = spare.work.clone();
        let name = session.clone();
        blocking(move || folders::link(&name, &spare_work)).await.map_err(|_| Miss::Folder)?;
        // They may have changed since the spare was started.
        let mut variables = order.variables.clone();
        variables.extend(self.variables().await.map_err(|_| Miss::Failed)?);
        let mut options = order.options.clone();
        variables.append(&mut options.env.0);
        options.env.0 = variables;
        order.serve(&mut spare.connection);
        let told = handshake::bind(
            &mut spare.connection,
            &mut spare.process,
            order.told(binding::binding(&options)),
            BIND_LIMIT.min(self.limits.connect_timeout),
        );
        let told = tokio::select! {
            told = told => told.map_err(|cause| cause.to_string()),
            () = order.cancelled.cancelled() => Err("nobody waits for it".to_owned()),
            () = self.tasks.stopping().cancelled() => Err("the service stops".to_owned()),
        };
        let Err(reason) = told else { return Ok(()) };
        debug!(client_id = %spare.client_id, reason, "spare_not_bound");
        // The spare's own folder goes with the spare.
        drop(blocking(move || std::fs::remove_file(session)).await);
        Err(Miss::Failed)
    }
}

fn leased(spare: Spare, began: Instant) -> Lease {
    let Spare { client_id, cli_session_id, connection, process, pass, slot, work: _ } = spare;
    debug!(%client_id, pid = process.id(), elapsed_seconds = began.elapsed().as_secs_f64(), "spare_taken");
    Lease {
        client_id,
        cli_session_id,
        resumed: false,
        spare: SpareUse::Taken,
        connect_time: began.elapsed(),
        connection,
        meter: metered(pass.as_ref()),
        outdated: false,
        child: Box::new(process),
        pass,
        slot: Some(slot),
    }
}
