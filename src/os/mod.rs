//! What the service asks of the operating system directly, for the modules above it.
//!
//! - [`procfs`] looks at processes.
//! - [`looks`] are looks at all of them, for those who ask often.
//! - [`clock`] has clocks that the standard library does not have.
//! - [`confined`] opens and removes files below a folder that somebody else may write to.
//! - [`regular`] reads files that an operator has named.
//! - [`pem`] takes certificates and keys out of such files.
//! - [`supervisor`] is the process that holds the service, and another one each CLI: it outlives
//!   its child for a moment, and ends what that has left behind.
//! - [`cgroup`] are the groups that the kernel bounds and kills as wholes.
//! - [`group_watch`] is a process that kills what the service has enclosed, and was about to
//!   enclose, when that is gone.
//! - [`handed_socket`] listens in another network than the one that it is served from.
//! - [`killing`] kills many processes, also those that fork meanwhile.
//! - [`launch`] starts a program without copying this process.
//! - [`lease_watch`] is a process that ends what the service has started when that does not
//!   prove in time that it still may.
//! - [`limits`] are those that the kernel holds a program and its descendants to.
//! - [`unlinked`] are files that are open and have no name any more.
//! - [`descriptors`] raises the limit of file descriptors, and says what it is enough for and
//!   who inherits them.

pub mod cgroup;
pub mod clock;
pub mod confined;
pub mod descriptors;
pub mod group_watch;
pub mod handed_socket;
pub mod killing;
pub mod launch;
pub mod lease_watch;
pub mod limits;
pub mod looks;
pub mod pem;
pub mod procfs;
pub mod regular;
pub mod supervisor;
pub mod unlinked;
