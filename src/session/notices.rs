//! What happens to the process outside of what it prints, told to those who follow the turn: it waits
//! for a limit, or was kept from a host.

use super::{state::Active, task::SessionTask};
use crate::{domain::notice::Notice, turn::event::Told as _};

impl SessionTask {
    /// Tells it as events of the turn. Its own beginning comes first.
    pub(super) fn tell_notices(active: &mut Active) {
        if active.turn.unanswered.is_some() {
            return;
        }
        for notice in active.process.lease.notices() {
            // Who waits for a limit is not stuck.
            active.turn.touch();
            active.turn.log.append([match notice {
                Notice::RateLimited(limit) => limit.event(),
                Notice::EgressRefused(refused) => refused.event(),
            }]);
        }
    }
}
