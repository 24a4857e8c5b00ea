//! Calls for sessions that live at another node: they are forwarded there, in raw messages and
//! by one hop. Knows where a session lives by [`Placement`] alone, and of messages nothing but
//! the session that they name. Also the way by which a call about all sessions asks the other
//! nodes ([`asking`]).
//!
//! - `rpcs`: what is done with each rpc of the contract.
//! - `first`: the session that a request names, from the beginning of its first message.
//! - [`layer`]: forwards, refuses, or lets a call go on to the service here. It stands behind
//!   the authentication layer, which knows the caller, and before the meter: what is forwarded
//!   is never in memory as a whole.
//! - `copied`: a request that is served here, should the session be taken by another node just then.
//! - `links`: connections to other nodes. `metadata`: what goes along with a call. `outgoing` and
//!   `relay`: the bodies, in each direction.
//!
//! What always holds: a call is forwarded at most once, and run at most once; what cannot be
//! forwarded is told to be asked again (`SESSION_MOVED`), never tried again from here once it
//! may have begun. Each direction is read only as fast as the other side takes it.

pub mod asking;
mod copied;
mod first;
pub mod layer;
mod links;
mod metadata;
mod outgoing;
mod relay;
mod rpcs;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

pub use links::CALLS_ON_A_LINK;

pub use crate::rpc::others::{Later, Living, Member, Others};

use crate::domain::{failure::Cause, ids::SessionKey};

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// `HOST:PORT` at which it is reached; `None` if it does not say.
    pub address: Option<Arc<str>>,
}

/// Where a session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Here; or nowhere, and whoever is asked takes it.
    Here,
    /// At another node, which lives.
    At(Node),
}

/// An answer that is waited for.
pub type Placing<'a> = Pin<Box<dyn Future<Output = Result<Place, Cause>> + Send + 'a>>;

/// Knows where sessions live.
pub trait Placement: Send + Sync + fmt::Debug {
    /// The name of this node.
    fn own_name(&self) -> &str;

    /// This node, as others see it.
    fn own(&self) -> Member;

    /// The other nodes that live. Answered within a second.
    fn others(&self) -> Later<'_, Living>;

    /// Where a session lives. It is asked for every call that names one, so that a session which
    /// is at hand here is found without asking anybody else.
    fn place<'a>(&'a self, key: &'a SessionKey) -> Placing<'a>;
}
