//! Small requests, from their first byte to the last one of the answer: one after the other, and 16 at once.

use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{
    Outcome, at,
    bodies::Repeated,
    client::{Line, Way},
    gateway::{Gateway, straight},
    tell,
    upstream::{SHORT, Upstream},
};

/// Rounds in which each way has its turn.
const ROUNDS: usize = 40;
/// Requests of each connection in a round, where there is one of them.
const REQUESTS: usize = 64;
/// Bytes of a request.
const REQUEST: usize = 2_000;

/// A request as a CLI makes it.
fn request() -> Bytes {
    let (head, tail) = (
        "{\"model\":\"claude-bench\",\"max_tokens\":1024,\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"",
        "\"}]}",
    );
    format!("{head}{}{tail}", "x".repeat(REQUEST - head.len() - tail.len())).into()
}

/// Measures both ways.
pub async fn measure(upstream: &Upstream, gateway: &Gateway) -> Outcome<()> {
    for (name, at_once) in [("a small request", 1), ("16 small requests at once", 16)] {
        let mut direct = Side::connect(&straight(upstream), at_once).await?;
        let mut through = Side::connect(&gateway.ways[0], at_once).await?;
        for _ in 0..ROUNDS {
            direct.round(REQUESTS / at_once.min(4)).await?;
            through.round(REQUESTS / at_once.min(4)).await?;
        }
        for (word, part) in [("p50", 50), ("p99", 99)] {
            let (short, long) = (at(&mut direct.times, part), at(&mut through.times, part));
            tell(&format!("{name}, direct, {word}"), short, "µs");
            tell(&format!("{name}, through the gateway, {word}"), long, "µs");
            tell(&format!("{name}, what the gateway adds, {word}"), long - short, "µs");
        }
    }
    Ok(())
}

/// One way, with its connections and what requests took on them, in microseconds.
struct Side {
    lines: Vec<Line>,
    times: Vec<f64>,
}

impl Side {
    /// Connects, and has every connection used once.
    async fn connect(way: &Way, lines: usize) -> Outcome<Self> {
        let mut side = Self { lines: Vec::new(), times: Vec::new() };
        for _ in 0..lines {
            side.lines.push(Line::connect(way).await?);
        }
        side.round(10).await?;
        side.times.clear();
        Ok(side)
    }

    /// So many requests on each connection, one after the other, and on all connections at once.
    async fn round(&mut self, requests: usize) -> Outcome<()> {
        let mut callers = JoinSet::new();
        for mut line in self.lines.drain(..) {
            callers.spawn(async move {
                let (request, mut times) = (request(), Vec::with_capacity(requests));
                for _ in 0..requests {
                    let began = Instant::now();
                    line.whole(SHORT, Repeated::once(request.clone())).await?;
                    times.push(began.elapsed().as_secs_f64() * 1e6);
                }
                Outcome::Ok((line, times))
            });
        }
        for done in callers.join_all().await {
            let (line, times) = done?;
            self.lines.push(line);
            self.times.extend(times);
        }
        Ok(())
    }
}
