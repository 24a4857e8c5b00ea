//! The stream of one who serves tools: calls out, answers in. One task for each, which owns the
//! backend and ends with the stream, however that ends: the backend is gone first, and then
//! whoever is still there is told why.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{
    decode::{self, Said},
    encode,
    status::{Rejection, Violation, deadline_passed, of_failure, of_rejection},
};
use crate::{
    domain::{failure::Cause, ids::TenantId},
    proto::{self, serve_tools_response::Message as Told},
    tasks::{at, spawn_owned},
    tenant::Share,
    tools::{Backend, Call, MAX_BACKENDS, MAX_TOOLS, Message, Refused, ToolServers},
};

/// How long the offer may take that a request begins with. Among its extensions.
#[derive(Debug, Clone, Copy)]
pub struct FirstMessage(pub Duration);

/// What a caller is told.
#[derive(Debug)]
pub struct ToolStream {
    responses: mpsc::Receiver<Result<proto::ServeToolsResponse, Status>>,
    task: JoinHandle<()>,
}

impl Drop for ToolStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for ToolStream {
    type Item = Result<proto::ServeToolsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.responses.poll_recv(cx)
    }
}

/// A stream that is to be served.
#[derive(Debug)]
pub struct Serving {
    /// Where the tools are offered.
    pub tools: ToolServers,
    /// To whose sessions.
    pub tenant: TenantId,
    /// When the first message has to be there.
    pub first: FirstMessage,
    /// When the caller's time is over.
    pub deadline: Option<Instant>,
    /// Its share of the tenant's streams.
    pub share: Share,
}

/// What goes to a caller.
type Outbox = mpsc::Sender<Result<proto::ServeToolsResponse, Status>>;

impl Serving {
    /// Serves the stream. Callers may wait for the beginning of the answer before they say
    /// anything, so this waits for nothing.
    pub fn begin(self, requests: Streaming<proto::ServeToolsRequest>) -> ToolStream {
        // What is not taken waits at the backend, where it can be taken back.
        let (outbox, responses) = mpsc::channel(1);
        ToolStream { responses, task: spawn_owned(self.run(requests, outbox)) }
    }

    async fn run(self, mut requests: Streaming<proto::ServeToolsRequest>, outbox: Outbox) {
        let deadline = self.deadline;
        let serving = self.serve(&mut requests, &outbox);
        let ended = tokio::select! {
            ended = serving => ended,
            () = at(deadline) => Err(deadline_passed()),
            () = outbox.closed() => return,
        };
        if let Err(status) = ended {
            outbox.send(Err(status)).await.ok();
        }
    }

    /// Ends with its caller, or with an error. The backend is gone then.
    async fn serve(
        self,
        requests: &mut Streaming<proto::ServeToolsRequest>,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let Self { tools, tenant, first: FirstMessage(limit), deadline: _, share: _share } = self;
        let late = |_| deadline_of_first(limit);
        let first = timeout(limit, requests.message()).await.map_err(late)??;
        let offer = decode::offer(first)?;
        let backend = tools.register(&tenant, offer).map_err(|refused| of_refused(&refused))?;
        let call_timeout = Some(encode::duration(tools.call_timeout()));
        let registered = Told::Registered(proto::ToolsRegistered { call_timeout });
        outbox.send(Ok(response(registered))).await.ok();
        loop {
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => match decode::said(request)? {
                        Said::Answer(id, answer) => backend.answer(id, answer),
                        Said::Progress(id, progress) => backend.progress(id, progress),
                    },
                    None => return Ok(()),
                },
                Some((permit, message)) = next(outbox, &backend) => {
                    permit.send(Ok(response(told(message))));
                }
                () = tools.closed() => return Err(of_failure(&Cause::ShuttingDown.into())),
            }
        }
    }
}

fn of_refused(refused: &Refused) -> Status {
    match refused {
        Refused::TooManyBackends => {
            let limit = format!("{MAX_BACKENDS} streams that offer tools");
            let retry = Duration::from_secs(1);
            of_failure(&Cause::TenantQuota { key: "register", limit, retry }.into())
        }
        Refused::TooManyTools(count) => {
            let description = format!(
                "must have at most {MAX_TOOLS} different tools with those that others offer for \
                 the server, has {count}"
            );
            let field = "register.tools".to_owned();
            of_rejection(&Rejection::Invalid(vec![Violation { field, description }]))
        }
    }
}

/// What a backend is to be told next, once there is room for it. Cancel safe.
async fn next<'a>(
    outbox: &'a Outbox,
    backend: &Backend,
) -> Option<(mpsc::Permit<'a, Result<proto::ServeToolsResponse, Status>>, Message)> {
    let permit = outbox.reserve().await.ok()?;
    Some((permit, backend.next().await))
}

fn deadline_of_first(limit: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "register did not arrive within {limit:?} (server.limits.body_timeout)"
    ))
}

fn response(message: Told) -> proto::ServeToolsResponse {
    proto::ServeToolsResponse { message: Some(message) }
}

fn told(message: Message) -> Told {
    match message {
        Message::Call(Call { id, session, turn, tool, arguments, deadline }) => {
            Told::Call(proto::ToolCall {
                call_id: id.to_string(),
                session_id: session.to_string(),
                turn_id: turn.map(|turn| turn.to_string()).unwrap_or_default(),
                tool,
                arguments_json: arguments,
                deadline: Some(timestamp(deadline)),
            })
        }
        Message::Cancel { id, reason } => {
            Told::Cancel(proto::CancelToolCall { call_id: id.to_string(), reason })
        }
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}
