//! The rpcs: each decodes, calls the pool, encodes.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span, error_span};

use super::{
    access::{caller, scope},
    deadline::Deadline,
    decode::{self, Policy},
    everywhere, figures,
    meter::Claim,
    others::Cluster,
    snapshot::{self, Facts},
    status::{Rejection, Violation, of_failure, of_rejection},
    stream::EventStream,
    tool_stream::{FirstMessage, Serving, ToolStream},
    watch_stream::{Following, WatchStream},
};
use crate::{
    access::Identity,
    audit::Note,
    domain::ids::{SessionId, SessionKey},
    pool::{PoolStats, Scope, SessionPool},
    proto::{self, session_pool_service_server::SessionPoolService},
    traces::Trace,
};

/// The metadata key that proxies route by.
pub const ROUTING_KEY: &str = "session-id";

/// What the service knows beside the pool.
pub trait Observe: Send + Sync + 'static {
    /// Facts for `GetStats`.
    fn facts(&self, scope: &Scope, stats: &PoolStats) -> impl Future<Output = Facts> + Send;
}

/// The service of the contract.
#[derive(Debug)]
pub struct Service<O> {
    pool: SessionPool,
    policy: Arc<Policy>,
    observe: O,
    cluster: Cluster,
}

impl<O: Observe> Service<O> {
    /// Serves `pool` under `policy`.
    pub fn new(pool: SessionPool, policy: Arc<Policy>, observe: O, cluster: Cluster) -> Self {
        Self { pool, policy, observe, cluster }
    }

    /// What of a cluster is asked about all sessions.
    fn everywhere(&self) -> (&SessionPool, &Cluster) {
        (&self.pool, &self.cluster)
    }
}

/// Takes note of the session that a call names, and checks its routing key: one that differs from
/// the message's id would lead to another node next time, and the session would be in two places.
fn check_session<T>(request: &Request<T>, session_id: &str) -> Result<(), Status> {
    if let (Some(note), Ok(id)) = (note(request), SessionId::parse(session_id)) {
        note.session(&id);
    }
    let Some(key) = request.metadata().get(ROUTING_KEY) else { return Ok(()) };
    if key.as_bytes() == session_id.as_bytes() {
        return Ok(());
    }
    let description = format!("must equal the metadata key {ROUTING_KEY}, is {session_id:?}");
    let violation = Violation { field: "session_id".to_owned(), description };
    Err(of_rejection(&Rejection::Invalid(vec![violation])))
}

/// Where to write what is learned of a call, if it is recorded.
fn note<T>(request: &Request<T>) -> Option<&Note> {
    request.extensions().get::<Note>()
}

/// The caller's deadline, which the edge has read.
fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    request.extensions().get::<Deadline>().and_then(|deadline| deadline.0)
}

/// What is claimed of the memory for a request, for as long as this is held.
fn claim<T>(request: &Request<T>) -> Claim {
    request.extensions().get::<Claim>().cloned().unwrap_or_default()
}

/// The call's place in its trace.
fn trace<T>(request: &Request<T>) -> Trace {
    request.extensions().get::<Trace>().cloned().unwrap_or_default()
}

fn session_span(caller: &Identity, session_id: Option<&SessionId>, trace: &Trace) -> Span {
    let Identity { tenant, name, admin: _ } = caller;
    // At the level that no filter leaves out: lines of every level need the ids.
    error_span!(
        "query",
        %tenant,
        caller = name.as_deref(),
        session_id = session_id.map(SessionId::as_str),
        trace_id = trace.trace_id().map(tracing::field::display),
        span_id = trace.span_id().map(tracing::field::display)
    )
}

#[tonic::async_trait]
impl<O: Observe> SessionPoolService for Service<O> {
    type QueryStream = EventStream<proto::QueryResponse>;
    type AttachStream = EventStream<proto::AttachResponse>;
    type ServeToolsStream = ToolStream;
    type WatchSessionStream = WatchStream;

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let deadline = deadline(&request);
        let caller = caller(&request)?;
        let tenant = caller.tenant.clone();
        check_session(&request, &request.get_ref().session_id)?;
        let (claim, trace) = (claim(&request), trace(&request));
        let mut query = decode::query(request.into_inner(), &self.policy).await?;
        query.request.deadline = deadline;
        query.request.held = claim.take().map(Arc::new);
        let span = session_span(&caller, query.session_id.as_ref(), &trace);
        (query.request.span, query.request.trace) = (span.clone(), trace);
        let session_id = query.session_id.clone();
        let share = self.pool.open_stream(&tenant).map_err(|failure| of_failure(&failure))?;
        let listener = self
            .pool
            .query(&tenant, query.session_id, query.request)
            .instrument(span)
            .await
            .map_err(|failure| of_failure(&failure))?;
        let stream = EventStream::new(listener, share, session_id, query.payload, deadline);
        Ok(Response::new(stream.with_heartbeat(query.heartbeat)))
    }

    async fn attach(
        &self,
        request: Request<proto::AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let deadline = deadline(&request);
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let decode::Attach { session_id, turn, from, partials, payload, heartbeat } =
            decode::attach(request.into_inner())?;
        let share = self.pool.open_stream(&tenant).map_err(|failure| of_failure(&failure))?;
        let key = SessionKey::new(tenant, session_id);
        let attached = self.pool.attach(&key, turn, from, partials).await;
        let listener = attached.map_err(|failure| of_failure(&failure))?;
        let stream = EventStream::new(listener, share, Some(key.session), payload, deadline);
        Ok(Response::new(stream.with_heartbeat(heartbeat)))
    }

    async fn watch_session(
        &self,
        request: Request<proto::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let deadline = deadline(&request);
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let decode::Watch { session_id, from, partials, payload, heartbeat } =
            decode::watch(request.into_inner())?;
        let share = self.pool.open_stream(&tenant).map_err(|failure| of_failure(&failure))?;
        let key = SessionKey::new(tenant, session_id);
        let watch = self.pool.watch(&key, from, partials).await;
        let watch = watch.map_err(|failure| of_failure(&failure))?;
        let node = self.cluster.name();
        Ok(Response::new(Following { watch, payload, heartbeat, deadline, share, node }.begin()))
    }

    async fn respond(
        &self,
        request: Request<proto::RespondRequest>,
    ) -> Result<Response<proto::RespondResponse>, Status> {
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let _claim = claim(&request);
        let (pool, owner) = (self.pool.clone(), tenant.clone());
        let own_folder =
            move |id: &SessionId| pool.work_folder(&SessionKey::new(owner, id.clone()));
        let note = note(&request).cloned();
        let answer = decode::respond(request.into_inner(), &self.policy, own_folder);
        let (id, prompt_id, decision) = answer.await?;
        note.inspect(|note| note.answer(&prompt_id, decision.name()));
        let answered = self.pool.respond(&SessionKey::new(tenant, id), prompt_id, decision).await;
        answered.map_err(|failure| of_failure(&failure))?;
        Ok(Response::new(proto::RespondResponse {}))
    }

    async fn interrupt(
        &self,
        request: Request<proto::InterruptRequest>,
    ) -> Result<Response<proto::InterruptResponse>, Status> {
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let decode::Interrupt { session_id, target, keep_session } =
            decode::interrupt(request.into_inner())?;
        let key = SessionKey::new(tenant, session_id);
        let report = self.pool.interrupt(&key, target, keep_session).await;
        let report = report.map_err(|failure| of_failure(&failure))?;
        Ok(Response::new(snapshot::interrupt(report)))
    }

    async fn stop_task(
        &self,
        request: Request<proto::StopTaskRequest>,
    ) -> Result<Response<proto::StopTaskResponse>, Status> {
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let (session_id, task_id) = decode::stop_task(request.into_inner())?;
        let stopped = self.pool.stop_task(&SessionKey::new(tenant, session_id), task_id).await;
        stopped.map_err(|failure| of_failure(&failure))?;
        Ok(Response::new(proto::StopTaskResponse {}))
    }

    async fn interrupt_all(
        &self,
        request: Request<proto::InterruptAllRequest>,
    ) -> Result<Response<proto::InterruptAllResponse>, Status> {
        let proto::InterruptAllRequest { all_tenants } = *request.get_ref();
        let caller = caller(&request)?;
        let scope = scope(&caller, all_tenants)?;
        if self.cluster.is_asked_by_another(&request) {
            let reports = self.pool.interrupt_all(&scope).await;
            return Ok(Response::new(snapshot::interrupt_all(&reports, &self.cluster.name())));
        }
        let (whom, deadline) = ((&caller, &scope), deadline(&request));
        Ok(Response::new(everywhere::interrupt_all(self.everywhere(), whom, deadline).await))
    }

    async fn get_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Result<Response<proto::GetStatsResponse>, Status> {
        let (all_tenants, of_all_nodes) = decode::stats(*request.get_ref())?;
        let caller = caller(&request)?;
        let scope = scope(&caller, all_tenants)?;
        let stats = self.pool.stats(&scope);
        let facts = self.observe.facts(&scope, &stats).await;
        let mut told = snapshot::stats(&stats, facts);
        if self.cluster.is_asked_by_another(&request) {
            let (own, counts_as) = (self.cluster.own(), self.pool.counts_as());
            told.nodes = vec![figures::own_row(&own, &stats, counts_as, &told)];
        } else if of_all_nodes {
            let own = (&stats, told);
            told = everywhere::stats(self.everywhere(), (&caller, &scope), own).await?;
        }
        Ok(Response::new(told))
    }

    async fn get_session(
        &self,
        request: Request<proto::GetSessionRequest>,
    ) -> Result<Response<proto::GetSessionResponse>, Status> {
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let proto::GetSessionRequest { session_id } = request.into_inner();
        let key = SessionKey::new(tenant, decode::session_id(&session_id)?);
        let status = self.pool.get(&key).await.map_err(|failure| of_failure(&failure))?;
        let session = Some(snapshot::session(&status, &self.cluster.name()));
        Ok(Response::new(proto::GetSessionResponse { session }))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        let caller = caller(&request)?;
        let is_asked_by_another = self.cluster.is_asked_by_another(&request);
        let wanted = decode::list(request.into_inner())?;
        Ok(Response::new(match is_asked_by_another {
            true => everywhere::list_here(self.everywhere(), &caller, wanted),
            false => everywhere::list(self.everywhere(), &caller, wanted).await?,
        }))
    }

    async fn update_session(
        &self,
        request: Request<proto::UpdateSessionRequest>,
    ) -> Result<Response<proto::UpdateSessionResponse>, Status> {
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let _claim = claim(&request);
        let (id, options) = decode::update(request.into_inner(), &self.policy).await?;
        let updated = self.pool.update(&SessionKey::new(tenant, id), options).await;
        let (status, report) = updated.map_err(|failure| of_failure(&failure))?;
        Ok(Response::new(proto::UpdateSessionResponse {
            session: Some(snapshot::session(&status, &self.cluster.name())),
            changed_options: report.changed.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn close_session(
        &self,
        request: Request<proto::CloseSessionRequest>,
    ) -> Result<Response<proto::CloseSessionResponse>, Status> {
        let tenant = caller(&request)?.tenant;
        check_session(&request, &request.get_ref().session_id)?;
        let proto::CloseSessionRequest { session_id, forget } = request.into_inner();
        let key = SessionKey::new(tenant, decode::session_id(&session_id)?);
        let report = self.pool.close(&key, forget).await.map_err(|failure| of_failure(&failure))?;
        Ok(Response::new(proto::CloseSessionResponse { had_active_turn: report.had_active_turn }))
    }

    async fn serve_tools(
        &self,
        request: Request<Streaming<proto::ServeToolsRequest>>,
    ) -> Result<Response<Self::ServeToolsStream>, Status> {
        let deadline = deadline(&request);
        let tenant = caller(&request)?.tenant;
        decode::may_serve_tools(&self.policy)?;
        let first = request.extensions().get::<FirstMessage>().copied();
        let first = first.ok_or_else(|| Status::internal("the edge was passed by"))?;
        let share = self.pool.open_stream(&tenant).map_err(|failure| of_failure(&failure))?;
        let tools = self.pool.tools().clone();
        let serving = Serving { tools, tenant, first, deadline, share };
        Ok(Response::new(serving.begin(request.into_inner())))
    }
}
