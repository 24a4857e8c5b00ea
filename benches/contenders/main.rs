//! The driver programs in Rust of `make bench`: `floor`, `tonic` and `ours`. Each is one contender, in a process
//! of its own, which does what lines on its standard input say ([`protocol`]); the benchmark itself is
//! `tests/bench`, and docs/benchmarks.md says how another contender is added.

mod caller;
mod floor;
mod ours;
mod parked;
mod protocol;
mod service;
mod stored;
mod tonic_alone;

use protocol::Outcome;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    // What is blocked by reading standard input is one of these.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match argument(0) {
            Some("floor") => floor::drive().await,
            Some("tonic") => tonic_alone::drive().await,
            Some("tonic-server") => tonic_alone::serve().await,
            Some("ours") => ours::drive(argument(1)).await,
            // `cargo test --benches` and `cargo bench` run it without one of these.
            _ => {
                println!("contenders: floor, tonic or ours; `make bench` runs them");
                Ok(())
            }
        }
    })
}
