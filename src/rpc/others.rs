//! The other nodes, for the rpcs that are about the sessions of all of them: these are asked
//! once, all at once, and each answers for itself. Knows that there are nodes and what they
//! are asked; how they are reached is the business of whoever implements [`Others`].
//!
//! A node that does not answer in time is named, and keeps nobody waiting for the others.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Status, body::Body};
use tower_service::Service;

use crate::{
    access::{Identity, nodes::ForwardedBy},
    proto::{self, session_pool_service_client::SessionPoolServiceClient},
};

/// Bytes of the largest answer of a node: a page of sessions, or what became of very many.
const LARGEST_ANSWER: usize = 64 << 20;

/// A node, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: Arc<str>,
    /// `HOST:PORT` at which it is reached; `None` if it does not say.
    pub address: Option<Arc<str>>,
    /// Its life; empty where nobody tells lives apart.
    pub incarnation: String,
    /// Whether it takes no new sessions.
    pub draining: bool,
}

/// The other nodes that live.
#[derive(Debug, Clone, Default)]
pub struct Living {
    /// They.
    pub others: Vec<Member>,
    /// Why that is not known now, if it is not: then they are those that lived when it was.
    pub problem: Option<String>,
}

/// What comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Knows the other nodes, and the way to them.
pub trait Others: Send + Sync + fmt::Debug {
    /// This node, as others see it.
    fn own(&self) -> Member;

    /// The others that live. Answered within a second.
    fn living(&self) -> Later<'_, Living>;

    /// Sends a call to a node, for a caller. It is not passed on from there.
    fn send(
        &self,
        to: &Member,
        caller: &Identity,
        request: Request<Body>,
    ) -> Later<'static, Result<Response<Body>, Status>>;
}

/// This node and the others.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// This node, where it is the only one.
    pub alone: Member,
    /// The others, where there may be some.
    pub others: Option<Arc<dyn Others>>,
}

/// The way to one node for one caller.
#[derive(Debug, Clone)]
struct Way {
    others: Arc<dyn Others>,
    to: Member,
    caller: Identity,
}

/// Asks one node.
#[derive(Debug)]
pub struct Asking(SessionPoolServiceClient<Way>, Duration);

/// What became of asking the other nodes.
#[derive(Debug)]
pub struct Asked<T> {
    /// What each has answered, or why it has not; by name.
    pub answers: Vec<(Member, Result<T, String>)>,
    /// Why it is not known which nodes there are, if it is not.
    pub problem: Option<String>,
}

impl Cluster {
    /// This node, as others see it.
    pub fn own(&self) -> Member {
        self.others.as_ref().map_or_else(|| self.alone.clone(), |others| others.own())
    }

    /// The name of this node where there may be others, and else nothing.
    pub fn name(&self) -> Arc<str> {
        self.others.as_ref().map_or_else(Arc::default, |others| others.own().name)
    }

    /// Whether another node asks, which asks all others itself.
    pub fn is_asked_by_another<T>(&self, request: &tonic::Request<T>) -> bool {
        self.others.is_some() && request.extensions().get::<ForwardedBy>().is_some()
    }

    /// Asks all other nodes at once for a caller, each for so long.
    pub async fn ask<T, F>(
        &self,
        caller: &Identity,
        limit: Duration,
        ask: impl Fn(Asking) -> F,
    ) -> Asked<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let Some(others) = &self.others else {
            return Asked { answers: Vec::new(), problem: None };
        };
        let Living { others: living, problem } = others.living().await;
        let mut asked = JoinSet::new();
        for to in living {
            let way = Way { others: Arc::clone(others), to: to.clone(), caller: caller.clone() };
            let client = SessionPoolServiceClient::new(way);
            let client = client.max_decoding_message_size(LARGEST_ANSWER);
            let answered = timeout(limit, ask(Asking(client, limit)));
            asked.spawn(async move {
                let answer = match answered.await {
                    Ok(answer) => answer.map_err(|status| status.message().to_owned()),
                    Err(_) => Err(format!("no answer within {:.1} s", limit.as_secs_f64())),
                };
                (to, answer)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        Asked { answers, problem }
    }
}

impl Asking {
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        // Who asks does not wait any longer: then nobody is to work for it.
        request.set_timeout(self.1);
        request
    }

    /// Its figures.
    pub async fn stats(
        mut self,
        request: proto::GetStatsRequest,
    ) -> Result<proto::GetStatsResponse, Status> {
        Ok(self.0.get_stats(self.request(request)).await?.into_inner())
    }

    /// Stops the turns of its sessions.
    pub async fn interrupt_all(
        mut self,
        request: proto::InterruptAllRequest,
    ) -> Result<proto::InterruptAllResponse, Status> {
        Ok(self.0.interrupt_all(self.request(request)).await?.into_inner())
    }

    /// A page of its sessions.
    pub async fn sessions(
        mut self,
        request: proto::ListSessionsRequest,
    ) -> Result<proto::ListSessionsResponse, Status> {
        Ok(self.0.list_sessions(self.request(request)).await?.into_inner())
    }
}

impl<T> Asked<T> {
    /// The nodes that have not answered, as callers are told.
    pub fn unreached(&self) -> Vec<proto::UnreachedNode> {
        let unknown = self.problem.iter().map(|problem| proto::UnreachedNode {
            name: String::new(),
            reason: format!("which nodes there are is not known: {problem}"),
        });
        let silent = self.answers.iter().filter_map(|(node, answer)| {
            let reason = answer.as_ref().err()?.clone();
            Some(proto::UnreachedNode { name: node.name.to_string(), reason })
        });
        unknown.chain(silent).collect()
    }
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Later<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.others.send(&self.to, &self.caller, request)
    }
}
