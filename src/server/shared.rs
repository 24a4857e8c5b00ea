//! An answer that all who ask at the same time have in common: many who ask cost no more than two.

use axum::body::Bytes;
use tokio::{sync::Mutex, time::Instant};

/// What is told to all who ask at the same time: it was put together once, and never before one of
/// them had asked.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Option<(Instant, Bytes)>>);

impl Shared {
    /// What was told to somebody else meanwhile, or what is made now.
    pub async fn get<E>(&self, make: impl AsyncFnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((_, text)) = last.as_ref().filter(|(begun, _)| *begun >= asked) {
            return Ok(text.clone());
        }
        let begun = Instant::now();
        let text = make().await?;
        *last = Some((begun, text.clone()));
        Ok(text)
    }
}
