//! What the way through the API gateway costs, measured beside the straight one in rounds that take turns: how
//! much later a small request is answered, what of a stream's rate is left, and what a session's start takes longer.
//!
//! `tests/bench` runs it, as the row `gateway`, and reads what it prints: a line of JSON for each figure. The
//! client, the gateway and the API's place ([`upstream`]) are processes of their own, on loopback and without TLS.

mod bodies;
mod client;
mod gateway;
mod latency;
#[path = "../contenders/service.rs"]
mod service;
mod starts;
mod throughput;
mod upstream;

use std::error::Error;

use gateway::Gateway;
use upstream::Upstream;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` passes `--test`; there is nothing to test here.
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        if arguments.first().is_some_and(|argument| argument == upstream::ARGUMENT) {
            return upstream::serve().await;
        }
        let upstream = Upstream::start()?;
        let gateway = Gateway::start(&upstream).await?;
        latency::measure(&upstream, &gateway).await?;
        throughput::measure(&upstream, &gateway).await?;
        drop(gateway);
        starts::measure(&upstream).await
    })
}

/// Tells a figure.
fn tell(figure: &str, value: f64, unit: &str) {
    println!("{}", serde_json::json!({"figure": figure, "value": value, "unit": unit}));
}

/// What so many hundredths of these are at most.
fn at(values: &mut [f64], part: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * part / 100).copied().unwrap_or(f64::NAN)
}
