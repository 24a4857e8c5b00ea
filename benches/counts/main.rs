//! Does one part of the streaming path, or of each call, so that its instructions can be counted: `counts codec`. `tests/bench-quick`
//! runs it under callgrind and holds the counts against `recorded.json` beside this file. Times of the same
//! parts are told by `benches/micro`, which has them.

#[path = "../micro/work.rs"]
mod work;

/// So often that what is done once does not count.
const TIMES: usize = 5;

fn main() {
    let part = std::env::args().nth(1).unwrap_or_default();
    let runtime = work::runtime();
    let mut done = 0;
    match part.as_str() {
        "codec" => {
            let lines = work::lines();
            done += (0..TIMES).map(|_| work::codec(&runtime, &lines)).sum::<usize>();
        }
        "encode_typed" => {
            let events = work::events();
            done += (0..TIMES).map(|_| work::encode_typed(&events)).sum::<usize>();
        }
        "encode_json" => {
            let events = work::events();
            done += (0..TIMES).map(|_| work::encode_json(&events)).sum::<usize>();
        }
        "log" => {
            let (storage, frames) = (work::storage(), work::frames());
            done += (0..TIMES).map(|_| work::log(&runtime, &storage, &frames)).sum::<usize>();
        }
        "calls" => {
            let keys = work::keys(1_000);
            let registry = work::registry(&keys);
            done += (0..TIMES).map(|_| work::calls(&registry, &keys)).sum::<usize>();
        }
        // `cargo test --benches` and `cargo bench` run it without one of these.
        _ => {}
    }
    println!("{done}");
}
