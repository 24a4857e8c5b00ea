//! Callers who wait beyond the end of their turn for what it has begun in the background
//! (`on_background` WAIT). Each turn that the CLI begins by itself meanwhile is passed on to them.
//! One has all of it when its tasks have ended and the CLI has nothing to say about that any
//! more; when that takes too long, or the process ends before, they are told so.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    cli::{
        background::{Background, TASK_ECHO},
        traits::CliTraits,
    },
    domain::failure::{Cause, Failure},
    turn::{
        event::Partials,
        listener::{Following, MOST_TURNS_NAMED},
        log::TurnLog,
    },
};

/// How long after the end of the last task the turn that it begins is waited for where the CLI
/// says that it is idle; where it does not, [`TASK_ECHO`].
const IDLE_GRACE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Follower {
    /// What is waited for, and all that it begins (`Background::families`).
    families: HashSet<u64>,
    partials: Partials,
    /// Who waits.
    following: Following,
    until: Instant,
    /// Counted by whoever waits for turns to end.
    _counted: TaskTrackerToken,
}

/// Those who wait.
#[derive(Debug, Default)]
pub struct Followers {
    all: Vec<Follower>,
    /// Since when no turn runs.
    rests: Option<Instant>,
}

impl Followers {
    /// Somebody waits for these tasks from here on.
    pub fn add(
        &mut self,
        following: Following,
        partials: Partials,
        families: HashSet<u64>,
        until: Instant,
        counted: TaskTrackerToken,
    ) {
        self.all.push(Follower { families, partials, following, until, _counted: counted });
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A turn begins. What the CLI has to say about tasks that end meanwhile comes behind it.
    pub fn turn_begins(&mut self) {
        self.rests = None;
    }

    /// The CLI has begun a turn by itself.
    pub fn begin(&mut self, turn: &TurnLog) {
        self.turn_begins();
        // Who is that far behind is let go, and told so behind all that is there to be read.
        self.all.retain(|it| {
            let told = it.following.send(turn.listen(1, it.partials));
            if !told {
                let (first_kept, bound) = (1, MOST_TURNS_NAMED);
                it.following.send(Err(Cause::ListenerTooSlow { first_kept, bound }.into()));
            }
            told
        });
    }

    /// Those who have left need nothing any more.
    pub fn let_go(&mut self) {
        self.all.retain(|follower| !follower.following.is_abandoned());
    }

    /// A turn that the CLI had begun by itself has left these tasks behind.
    pub fn extend(&mut self, families: &HashSet<u64>) {
        for follower in &mut self.all {
            follower.families.extend(families);
        }
    }

    /// No turn runs. Lets those go who have all that they wait for, and those who have left.
    pub fn rest(&mut self, traits: &CliTraits) {
        let (rests, now) = (*self.rests.get_or_insert_with(Instant::now), Instant::now());
        let background = &traits.background;
        let is_quiet = quiet_at(traits, rests) <= now;
        self.all.retain(|follower| {
            let done = is_quiet && !background.has_family(&follower.families);
            !done && !follower.following.is_abandoned()
        });
    }

    /// When to look again, as far as no frame says so; `None` if nobody waits.
    pub fn due(&self, traits: &CliTraits) -> Option<Instant> {
        let rests = self.rests?;
        let background = &traits.background;
        let any_done = self.all.iter().any(|it| !background.has_family(&it.families));
        let quiet = any_done.then(|| quiet_at(traits, rests));
        quiet.into_iter().chain(self.until()).min()
    }

    /// Until when the first of them waits.
    pub fn until(&self) -> Option<Instant> {
        self.all.iter().map(|follower| follower.until).min()
    }

    /// Those who have waited for too long are told so.
    pub fn expire(&mut self, failure: impl Fn() -> Failure) {
        let now = Instant::now();
        for late in self.all.extract_if(.., |follower| follower.until <= now) {
            late.following.send(Err(failure()));
        }
    }

    /// Nobody gets what they wait for.
    pub fn fail(&mut self, failure: impl Fn() -> Failure) {
        for follower in self.all.drain(..) {
            follower.following.send(Err(failure()));
        }
    }
}

/// From when on the CLI has nothing to say about tasks that have ended.
fn quiet_at(traits: &CliTraits, rests: Instant) -> Instant {
    let ended = traits.background.last_end().unwrap_or(rests);
    if traits.is_idle() { ended + IDLE_GRACE } else { ended.max(rests) + TASK_ECHO }
}

/// Whether a turn that began then and ends now leaves nothing behind that its caller could wait
/// for: of a task that has ended in it the CLI may have to say something.
pub fn leaves_nothing(background: &Background, tasks: &[String], began: Instant) -> bool {
    tasks.is_empty() && background.last_end().is_none_or(|ended| ended < began)
}

#[cfg(test)]
mod tests;
