//! Times of the parts of the streaming path, and of what all calls share: `cargo bench --features test-tools --bench micro`. What the parts are
//! is in [`work`]; `benches/counts` counts the instructions of the same.

mod work;

use divan::{Bencher, black_box, counter::ItemsCount};

fn main() {
    divan::main();
}

#[divan::bench]
fn codec(bencher: Bencher<'_, '_>) {
    let (runtime, lines) = (work::runtime(), work::lines());
    let frames = work::codec(&runtime, &lines);
    let bencher = bencher.counter(ItemsCount::new(frames));
    bencher.bench_local(|| work::codec(&runtime, black_box(&lines)));
}

#[divan::bench]
fn encode_typed(bencher: Bencher<'_, '_>) {
    let events = work::events();
    let bencher = bencher.counter(ItemsCount::new(events.len()));
    bencher.bench_local(|| work::encode_typed(black_box(&events)));
}

#[divan::bench]
fn encode_json(bencher: Bencher<'_, '_>) {
    let events = work::events();
    let bencher = bencher.counter(ItemsCount::new(events.len()));
    bencher.bench_local(|| work::encode_json(black_box(&events)));
}

#[divan::bench]
fn log(bencher: Bencher<'_, '_>) {
    let (runtime, storage, frames) = (work::runtime(), work::storage(), work::frames());
    let bencher = bencher.counter(ItemsCount::new(frames.len()));
    bencher.bench_local(|| work::log(&runtime, &storage, black_box(&frames)));
}

/// Logs of as many turns as there are threads, which share their budgets and their order.
#[divan::bench(threads = [1, 2, 8])]
fn logs_at_once(bencher: Bencher<'_, '_>) {
    let (storage, frames) = (work::storage(), work::frames());
    let bencher = bencher.counter(ItemsCount::new(frames.len()));
    bencher.with_inputs(work::runtime).bench_values(|runtime| {
        let _entered = runtime.enter();
        work::log(&runtime, &storage, black_box(&frames))
    });
}

/// Calls that look for one of ten thousand sessions, all at once; one in sixteen is for a session that comes and goes.
#[divan::bench(threads = [1, 2, 8])]
fn registry(bencher: Bencher<'_, '_>) {
    let keys = work::keys(10_000);
    let registry = work::registry(&keys);
    let bencher = bencher.counter(ItemsCount::new(work::CALLS));
    bencher.bench(|| work::calls(&registry, black_box(&keys)));
}
