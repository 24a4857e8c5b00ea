//! Looks at all processes that those who ask have in common. A look reads a file of each process
//! of the machine, so what it costs grows with the number of sessions, and nobody who asks again
//! and again may be made to wait for it: they are told what a look of a moment ago has seen.
//! Knows nothing of what the processes are.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::procfs::Look;

/// How old a look may be for whoever is content with a recent one.
const OLDEST: Duration = Duration::from_secs(1);

/// A look that lacks somebody is taken anew after so many times of what it took: looking must not
/// become a load itself.
const REST: u32 = 4;

/// The last look, for all who ask.
#[derive(Debug, Default)]
pub struct Looks {
    last: Mutex<Option<Taken>>,
    /// Held by whoever takes one for others as well.
    taking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Taken {
    look: Arc<Look>,
    began: Instant,
    took: Duration,
}

impl Looks {
    /// Looks now. Reads `/proc`: not for a runtime's own threads.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn take(&self) -> io::Result<Arc<Look>> {
        let began = Instant::now();
        let look = Arc::new(Look::take()?);
        let taken = Taken { look: Arc::clone(&look), began, took: began.elapsed() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        Ok(look)
    }

    /// A look that is at most a second old. One that lacks a process of `wanted` is taken anew,
    /// unless the last one was only just taken. What cannot be looked at is seen as nothing.
    pub async fn recent(self: &Arc<Self>, wanted: &[u32]) -> Arc<Look> {
        if let Some(look) = self.at_hand(wanted) {
            return look;
        }
        let _alone = self.taking.lock().await;
        // Whoever was before us has looked for us, too.
        if let Some(look) = self.at_hand(wanted) {
            return look;
        }
        let looks = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || looks.take()).await;
        taken.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn at_hand(&self, wanted: &[u32]) -> Option<Arc<Look>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age = last.began.elapsed();
        let has_all = || wanted.iter().all(|pid| last.look.lives(*pid));
        let is_recent = age <= last.took * (1 + REST) || age <= OLDEST && has_all();
        is_recent.then_some(last.look)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_at_once_have_one_look_in_common() {
        let looks = Arc::new(Looks::default());
        let own = [std::process::id()];
        let (one, other) = tokio::join!(looks.recent(&own), looks.recent(&own));
        assert!(Arc::ptr_eq(&one, &other) && one.lives(own[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_came_since_is_looked_for_and_whoever_is_seen_is_not() {
        let looks = Arc::new(Looks::default());
        let own = [std::process::id()];
        let first = looks.recent(&own).await;
        let mut child = Command::new("sleep").arg("100").spawn().expect("started");
        tokio::time::advance(OLDEST / 4).await;
        assert!(Arc::ptr_eq(&first, &looks.recent(&own).await));
        let second = looks.recent(&[own[0], child.id()]).await;
        assert!(!Arc::ptr_eq(&first, &second) && second.lives(child.id()));
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
