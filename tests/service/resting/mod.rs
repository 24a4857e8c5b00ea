//! More sessions than processes: idle ones let theirs go, and are resumed by their next
//! turn.

mod crowd;
mod hibernation;
mod ledger;
mod life;
mod pressure;
mod spending;
