//! The start of one process: a place for it, its turn at starting, the process itself and the
//! first exchange with it; and what a start that failed is told as.

use std::{collections::BTreeMap, io, pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{
    Lease, Order, SpareUse, folders, handshake,
    passes::{brings_a_way, metered},
    prepare::{Prepared, is_of_the_disk, prepare},
    shared::{Shared, Starting},
    slots::ProcessSlot,
    turns::in_turn,
};
use crate::{
    cli::{
        command::Folders,
        connection::Connection,
        cost::Meter,
        launch::ConversationOrigin,
        process::{Process, StopGrace},
        request::Initialize,
        sandbox,
    },
    domain::{
        failure::{Cause, Failure},
        ids::{ClientId, TenantId},
        options::Options,
    },
    gateway::Pass,
};

/// What an error needs to reach its caller.
const LAST_WORD: Duration = Duration::from_millis(100);

/// When to give up waiting for a caller with a deadline: early enough for the reason to
/// reach it before its own clock cuts the call off.
fn last_moment(deadline: Instant) -> Instant {
    let margin = deadline.saturating_duration_since(Instant::now()) / 10;
    deadline - margin.min(LAST_WORD)
}

impl Shared {
    pub(super) async fn start(&self, order: &Order) -> Result<Lease, Failure> {
        let began = Instant::now();
        let _starting = Starting::new(&self.starting);
        let missed = match self.lease_spare(order, began).await {
            Ok(lease) => return Ok(lease),
            Err(missed) => missed,
        };
        let client_id = ClientId::fresh();
        let result = match self.wait_in_line(order, began).await {
            Ok((slot, turn)) => {
                let connecting = self.connect(order, client_id, began, slot);
                in_turn(&self.starts, &order.session.tenant, turn, connecting).await
            }
            Err(cause) => Err(cause),
        };
        let result = result.map(|lease| Lease { spare: missed, ..lease });
        result.map_err(|cause| {
            Failure::from(cause).concerning(Some(&order.session.session), None).on_client(client_id)
        })
    }

    /// A process slot, and a turn at starting.
    async fn wait_in_line(
        &self,
        order: &Order,
        began: Instant,
    ) -> Result<(ProcessSlot, ProcessSlot), Cause> {
        let tenant = &order.session.tenant;
        let waiting = async {
            let slot = self.slot(order, began).await?;
            Ok((slot, self.starts.take(tenant).await))
        };
        tokio::select! {
            waited = waiting => waited,
            () = order.cancelled.cancelled() => Err(Cause::TurnInterrupted),
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        }
    }

    async fn slot(&self, order: &Order, began: Instant) -> Result<ProcessSlot, Cause> {
        let tenant = &order.session.tenant;
        let limit = order.deadline.map_or(began + self.limits.connect_timeout, last_moment);
        let mut slot = pin!(self.slots.take(tenant));
        let free = tokio::select! {
            biased;
            slot = &mut slot => Some(slot),
            () = std::future::ready(()) => None,
        };
        if let Some(slot) = free {
            return Ok(slot);
        }
        self.make_room(tenant);
        timeout_at(limit, slot).await.map_err(|_| match self.limits.max_processes_of_a_tenant {
            Some(limit) if self.slots.held_by(tenant) >= limit => Cause::TenantQuota {
                key: "policy.tenant_max_processes",
                limit: limit.to_string(),
                retry: Duration::from_secs(1),
            },
            _ => {
                // How long it was to be waited, and not by how much the timer was late.
                let patience = limit.saturating_duration_since(began).as_millis();
                let waited = Duration::from_millis(patience.try_into().unwrap_or(u64::MAX));
                Cause::NoProcess { limit: self.limits.max_processes, waited }
            }
        })
    }

    async fn connect(
        &self,
        order: &Order,
        client_id: ClientId,
        began: Instant,
        slot: ProcessSlot,
    ) -> Result<Lease, Cause> {
        let mut folders = folders::of_session(&self.settings.state_dir, &order.session);
        if let Some(cwd) = &order.options.cwd {
            folders.work = cwd.into();
        }
        folders.extra = order.options.add_dirs.iter().map(Into::into).collect();
        let Prepared { origin, folders, saved_cost_usd } = self.prepared(order, folders).await?;
        let (process, connection, pass) =
            self.spawn(order.for_whom(), origin, &order.options, &folders, client_id).await?;
        let mut lease = Lease {
            client_id,
            cli_session_id: origin.cli_session_id(),
            resumed: !matches!(origin, ConversationOrigin::New(_)),
            spare: SpareUse::NotKept,
            connect_time: Duration::ZERO,
            connection,
            meter: metered(pass.as_ref()),
            outdated: false,
            child: Box::new(process),
            pass,
            slot: Some(slot),
        };
        order.serve(&mut lease.connection);
        let handshake = handshake::bind(
            &mut lease.connection,
            lease.child.as_mut(),
            order.told(vec![Initialize::of(&order.options).request()]),
            self.limits.connect_timeout,
        );
        let connected = tokio::select! {
            connected = handshake => connected,
            () = order.cancelled.cancelled() => Err(Cause::TurnInterrupted),
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        };
        if let Err(cause) = connected {
            debug!(%client_id, %cause, "cli_start_failed");
            drop(lease.end(StopGrace::FIRM).await);
            return Err(self.explained(cause));
        }
        // What is counted on its way begins with the process.
        if lease.resumed && !lease.pass.as_ref().is_some_and(Pass::counts) {
            lease.meter = Meter::of_resumed(&mut lease.connection, saved_cost_usd);
        }
        lease.connect_time = began.elapsed();
        debug!(%client_id, pid = lease.child.id(), elapsed_seconds = lease.connect_time.as_secs_f64(), "cli_started");
        Ok(lease)
    }

    /// Waits for each step of the disk as long as for a process. Cut short by the caller only
    /// between steps: what is written for this start must not come after what is written for
    /// the next. Given up, it writes nothing more.
    async fn prepared(&self, order: &Order, folders: Folders) -> Result<Prepared, Cause> {
        let limit = self.limits.connect_timeout;
        let rules = (Arc::clone(&self.policy), self.settings.sandbox.is_wall());
        tokio::select! {
            prepared = prepare(rules, order, folders, limit) => prepared,
            () = self.tasks.stopping().cancelled() => Err(Cause::ShuttingDown),
        }
    }

    /// Spawns a process, which is not up yet.
    pub(super) async fn spawn(
        &self,
        (tenant, variables): (&TenantId, &BTreeMap<String, String>),
        origin: ConversationOrigin,
        options: &Options,
        folders: &Folders,
        client_id: ClientId,
    ) -> Result<(Process, Connection, Option<Pass>), Cause> {
        let inherited = |name: &str| std::env::var(name).ok();
        let mut variables = variables.clone();
        variables.extend(self.variables().await?);
        let sandbox = &self.settings.sandbox;
        let gateway = self.gateway.as_ref();
        let pass = gateway.and_then(|it| it.pass(tenant, client_id, brings_a_way(options)));
        if let (Some(gateway), Some(pass)) = (gateway, &pass) {
            variables.extend(gateway.variables(pass, sandbox.has_own_network()));
        }
        let settings = self.settings.with_variables(variables);
        let command = settings.command(tenant, origin, options, folders, client_id, inherited);
        debug!(%client_id, args = ?command.shown_args(), "cli_starting");
        let started = Process::start(command, sandbox, self.limits.max_frame_bytes);
        let (mut process, connection) = started.await.map_err(|error| self.not_started(&error))?;
        if let (Some(gateway), Some(pass), Some(way_out)) = (gateway, &pass, process.take_way_out())
        {
            gateway.serve(way_out, pass);
        }
        let process = match &self.watch {
            Some(watch) => process.bounded_by(watch),
            None => process,
        };
        Ok((process, connection, pass))
    }

    fn not_started(&self, error: &io::Error) -> Cause {
        if cannot_be_run(error) {
            let path = self.settings.program.clone();
            return Cause::CliNotFound { path, detail: error.to_string() };
        }
        let detail = format!("the CLI could not be started: {error}");
        match is_of_the_disk(error) {
            true => Cause::StoreUnavailable { detail },
            false => Cause::ConnectFailed { detail, exit: None, stderr_tail: String::new() },
        }
    }

    /// What a failed start is told as. Inside a sandbox the CLI is started by the sandbox,
    /// which says on stderr what a start without one gives as an error.
    fn explained(&self, cause: Cause) -> Cause {
        let said = match &cause {
            Cause::ConnectFailed { stderr_tail, .. } => sandbox::cannot_run(stderr_tail),
            _ => None,
        };
        match said {
            Some(detail) => Cause::CliNotFound {
                path: self.settings.program.clone(),
                detail: detail.to_owned(),
            },
            None => cause,
        }
    }
}

/// Whether a program is not there, or is nothing that can be run here.
fn cannot_be_run(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    [
        Errno::NOENT,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOEXEC,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NAMETOOLONG,
    ]
    .iter()
    .any(|known| Some(*known) == errno)
}
