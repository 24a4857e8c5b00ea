//! What the project's own tests, benchmarks and fuzz targets reach of the private modules. It is
//! built with the feature `test-tools` alone, and no part of the library.

pub mod access {
    //! Callers.
    pub use crate::access::tokens;
}
pub mod budget {
    //! Bounds that many share.
    pub use crate::budget::{Bounds, Budget};
}
pub mod cli {
    //! The CLI's protocol and processes.
    pub use crate::cli::{
        binding, command, connection, env_files, frame, launch, lines, mirror, process, request,
        sandbox, snapshots, versions,
    };
}
pub mod cluster {
    //! Other nodes.
    pub use crate::cluster::{Later, Living, Member, Node, Place, Placement, Placing};
}
pub mod counters {
    //! What happened.
    pub use crate::counters::{Spent, Totals};
}
pub mod domain {
    //! Values.
    pub use crate::domain::{acquired, failure, ids, input, options, redacted};
}
pub mod os {
    //! The operating system.
    pub use crate::os::{clock, group_watch, lease_watch, limits, procfs, supervisor};
}
pub mod policy {
    //! What callers may ask for.
    pub use crate::policy::{Policy, variables};
}
pub mod pool {
    //! Which sessions there are.
    pub use crate::pool::contended;
}
pub mod rpc {
    //! The contract.
    pub use crate::rpc::{decode, encode};
}
pub mod store {
    //! What outlives a session.
    pub use crate::store::{
        Commit, Epoch, Opening, PostgresOpening, PostgresStore, Record, SqlStore, Store, StoreError,
    };
}
pub mod tasks {
    //! Tasks.
    pub use crate::tasks::{Tasks, spawn_owned};
}
pub mod traces {
    //! Traces.
    pub use crate::traces::TurnTrace;
}
pub mod turn {
    //! Turns.
    pub use crate::turn::{event, listener, log, storage};
}
