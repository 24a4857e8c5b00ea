//! Processes that are started ahead of the sessions that will have them.

mod misses;
mod taken;
mod upkeep;

use session_pool::config::Config;

use crate::support::{eventually, service::Service};

/// A service that keeps so many spares, each of which takes half a second to be up.
async fn with_spares(count: usize, change: impl FnOnce(&mut Config)) -> Service {
    let service = Service::start(|config| {
        config.pool.spares = count;
        config.cli.env.insert("FAKE_CLAUDE".into(), "boot=500".into());
        change(config);
    })
    .await;
    ready(&service, count).await;
    service
}

/// Waits until so many spares are ready.
async fn ready(service: &Service, count: usize) {
    eventually("spares", async || {
        let stats = service.stats().await;
        (stats.spares as usize == count && stats.spares_starting == 0).then_some(())
    })
    .await;
}
