//! Bytes: 50 streams at the pace of a model, and one large answer and one large request as fast as they go.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use memchr::memmem;
use tokio::{task::JoinSet, time::Instant};

use super::{
    Outcome, at,
    bodies::{DIGITS, DUE, EVENT, PACE, Repeated, now},
    client::{Line, Way},
    gateway::{Gateway, straight},
    tell,
    upstream::{EVENTS, LARGE, LARGE_BYTES, PACED, PIECE, SHORT, Upstream},
};

const STREAMS: usize = 50;
/// Rounds of streams, and of large bodies.
const STREAMED: usize = 3;
const LARGE_ROUNDS: usize = 7;

/// Measures both ways.
pub async fn measure(upstream: &Upstream, gateway: &Gateway) -> Outcome<()> {
    let direct = straight(upstream);
    streams([direct.clone(), direct.clone()], gateway).await?;
    for (name, is_answer) in [("an answer", true), ("a request", false)] {
        let [direct, through] = &mut [Vec::new(), Vec::new()];
        let mut used = 0.0;
        for _ in 0..LARGE_ROUNDS {
            direct.push(large(&straight(upstream), is_answer).await?);
            let before = gateway.service.cpu()?;
            through.push(large(&gateway.ways[0], is_answer).await?);
            used += gateway.service.cpu()? - before;
        }
        let (fast, slow) = (at(direct, 50), at(through, 50));
        tell(&format!("{name} of 100 MB, direct"), fast, "MB/s");
        tell(&format!("{name} of 100 MB, through the gateway"), slow, "MB/s");
        tell(&format!("{name} of 100 MB, through the gateway"), slow / fast, "of direct");
        let gigabytes = (LARGE_BYTES * LARGE_ROUNDS) as f64 / 1e9;
        tell(&format!("{name} of 100 MB: CPU of the gateway"), used * 1e3 / gigabytes, "ms/GB");
    }
    Ok(())
}

/// What all streams of one way were like.
#[derive(Default)]
struct Streamed {
    bytes: usize,
    seconds: f64,
    /// How late events were, in milliseconds.
    late: Vec<f64>,
}

async fn streams(straight: [Way; 2], gateway: &Gateway) -> Outcome<()> {
    let [mut direct, mut through] = [Streamed::default(), Streamed::default()];
    let mut used = 0.0;
    for _ in 0..STREAMED {
        direct.round(&straight).await?;
        let before = gateway.service.cpu()?;
        through.round(&gateway.ways).await?;
        used += gateway.service.cpu()? - before;
    }
    let rate = |streamed: &Streamed| streamed.bytes as f64 / streamed.seconds / 1e3;
    let name = format!("{STREAMS} streams of 100 events a second");
    tell(&format!("{name}, direct"), rate(&direct), "kB/s");
    tell(&format!("{name}, through the gateway"), rate(&through), "kB/s");
    let part = rate(&through) / rate(&direct);
    tell(&format!("{name}, through the gateway"), part, "of direct");
    for (word, part) in [("p50", 50), ("p99", 99)] {
        let name = format!("{name}: events late");
        tell(&format!("{name}, direct, {word}"), at(&mut direct.late, part), "ms");
        tell(&format!("{name}, through the gateway, {word}"), at(&mut through.late, part), "ms");
    }
    let share = used / through.seconds * 100.0;
    tell(&format!("{name}: CPU of the gateway"), share, "% of a core");
    Ok(())
}

impl Streamed {
    /// All streams at once, as many by each of two ways. They begin one after the other within the
    /// time between two events, so that these do not come all at once.
    async fn round(&mut self, ways: &[Way; 2]) -> Outcome<()> {
        let mut lines = Vec::new();
        for number in 0..STREAMS {
            lines.push(Line::connect(&ways[number % 2]).await?);
        }
        let began = Instant::now();
        let mut readers = JoinSet::new();
        for (number, line) in lines.into_iter().enumerate() {
            let first = PACE.as_micros() as usize * number / STREAMS;
            readers.spawn(stream(line, format!("{PACED} {first}")));
        }
        for read in readers.join_all().await {
            let (bytes, late) = read?;
            if late.len() != EVENTS || bytes != EVENTS * EVENT {
                return Err(format!("{} events came, {bytes} bytes", late.len()).into());
            }
            self.bytes += bytes;
            self.late.extend(late);
        }
        self.seconds += began.elapsed().as_secs_f64();
        Ok(())
    }
}

/// Reads a stream to its end: its bytes, and how late each of its events was.
async fn stream(mut line: Line, wanted: String) -> Outcome<(usize, Vec<f64>)> {
    let body = Repeated::once(Bytes::from_static(b"{\"model\":\"claude-bench\"}"));
    let mut answer = line.ask(&wanted, body).await?.into_body();
    let (mut bytes, mut late, mut held) = (0, Vec::with_capacity(EVENTS), Vec::new());
    while let Some(frame) = answer.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        bytes += data.len();
        held.extend_from_slice(data);
        while let Some(end) = memmem::find(&held, b"\n\n") {
            let event: Vec<u8> = held.drain(..end + 2).collect();
            let at = memmem::find(&event, DUE).ok_or("an event without its time")? + DUE.len();
            let due: u64 = std::str::from_utf8(&event[at..at + DIGITS])?.parse()?;
            late.push(now().saturating_sub(due) as f64 / 1e6);
        }
    }
    Ok((bytes, late))
}

/// A large answer, or a large request, on a connection of its own: MB/s.
async fn large(way: &Way, is_answer: bool) -> Outcome<f64> {
    let mut line = Line::connect(way).await?;
    let small = || Repeated::once(Bytes::from_static(b"{\"model\":\"claude-bench\"}"));
    // The connection of the gateway to the upstream is there afterwards, too.
    line.whole(SHORT, small()).await?;
    let began = Instant::now();
    if is_answer {
        let bytes = line.whole(LARGE, small()).await?;
        if bytes != LARGE_BYTES {
            return Err(format!("{bytes} bytes came").into());
        }
    } else {
        let piece = format!("{{\"model\":\"claude-bench\",\"x\":\"{}", "x".repeat(PIECE));
        line.whole(SHORT, Repeated::new(piece.into(), LARGE_BYTES)).await?;
    }
    Ok(LARGE_BYTES as f64 / began.elapsed().as_secs_f64() / 1e6)
}
