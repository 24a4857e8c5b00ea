//! For how long this service may serve the sessions that it has claimed. A store that several
//! services share sets an end to that: a service that others may take for dead must have stopped
//! its processes before they do. Which of the services that is, is the store's to know; those who
//! serve sessions only hear that it is over.

use tokio::sync::watch;

/// A time in which claims hold. A session keeps the one that it began in: a service that has come
/// back begins another.
#[derive(Debug, Clone, Default)]
pub struct Tenure(Option<watch::Receiver<bool>>);

impl Tenure {
    /// One that ends when the sender says so, or is gone.
    pub fn until(over: watch::Receiver<bool>) -> Self {
        Self(Some(over))
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        let Self(Some(over)) = self else { return false };
        *over.borrow() || over.has_changed().is_err()
    }

    /// Waits for its end; for ever if there is none. Cancel safe.
    pub async fn over(&mut self) {
        match &mut self.0 {
            // An error says that the sender is gone.
            Some(over) => drop(over.wait_for(|over| *over).await),
            None => std::future::pending().await,
        }
    }
}
