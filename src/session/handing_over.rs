//! A session that is to go on at another service because this one stops. It ends at the boundary of
//! its turn: its process is closed, what it said last is committed, and its claim is given back, so
//! that the next call for it, wherever that comes, goes on with it there. A turn that runs ends by
//! itself before, or when the service has waited long enough; what works behind the turns is left to
//! work for as long. Turns that have not begun are told so at once: elsewhere they begin sooner.

use super::{command::CloseReason, process::Process, state::Phase, task::SessionTask};
use crate::domain::failure::Cause;

impl SessionTask {
    /// The session ends once nothing runs in it.
    pub(super) fn hand_over_later(&mut self) {
        self.hands_over = true;
        self.fail_queue(&Cause::ShuttingDown);
        self.show();
    }

    /// Ends the session if it is to go on elsewhere and does nothing; what its process has printed
    /// is read before.
    pub(super) fn hand_over_at_rest(&mut self, process: Option<&Process>) {
        let all_read = process.is_none_or(|process| process.leftover.is_empty());
        if self.hands_over && self.leaving.is_none() && all_read && !self.works_behind(process) {
            self.leave(CloseReason::HandOver);
        }
    }

    /// The same where a phase begins.
    pub(super) fn hand_over_at(&mut self, next: &Phase) {
        match next {
            Phase::Detached | Phase::Idle(_) | Phase::Settling(_) => {
                self.hand_over_at_rest(next.process());
            }
            Phase::Connecting(_)
            | Phase::Active(_)
            | Phase::Interrupting(..)
            | Phase::Closing(..) => {}
        }
    }
}
