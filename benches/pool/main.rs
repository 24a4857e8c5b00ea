//! What the service costs, measured on the scripted fake CLI in one run, beside the
//! floor: the same CLI read over a pipe by a program that only counts lines.
//!
//! `cargo bench --features test-tools --bench pool`. Figures are ratios to compare, not
//! bounds to pass: machines are noisy. The service is a process of its own, so that its
//! CPU time is its own; the caller takes messages as bytes and does not decode them.

mod caller;
mod floor;
mod service;

use std::time::Duration;

use session_pool::proto::{
    GetStatsRequest, InterruptRequest, Payload, QueryRequest,
    session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::Instant;
use tonic::{Status, transport::Channel};

use caller::{open, run_turn};
use floor::Floor;
use service::Running;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` passes `--test`; there is nothing to test here.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let service = Running::start(&[])?;
    let channel = Channel::from_shared(service.address.clone())?.connect().await?;
    println!("{:<58} {:>12} {:>12}", "", "service", "floor");
    latency(&channel).await?;
    throughput(&service, &channel).await?;
    many_sessions(&service, &channel).await?;
    let stuck = slow_reader(&service).await?;
    boot_storm(&channel).await?;
    read_on(stuck).await?;
    interrupts(&channel).await?;
    memory(&service, &channel).await?;
    Ok(())
}

fn row(name: &str, ours: String, floor: String) {
    println!("{name:<58} {ours:>12} {floor:>12}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

fn script(lines: &str) -> String {
    format!("#!fake\n{lines}")
}

fn query(session: &str, prompt: String) -> QueryRequest {
    QueryRequest { session_id: session.into(), prompt, ..QueryRequest::default() }
}

/// Warm and cold turns: time to the first event and to the end.
async fn latency(channel: &Channel) -> Result<(), Status> {
    let mut cold = Vec::new();
    for n in 0..20 {
        let began = Instant::now();
        run_turn(channel, query(&format!("cold-{n}"), "hi".into())).await?;
        cold.push(began.elapsed());
    }
    let floor_cold = median((0..20).map(|_| Floor::start().turn("hi", true)).collect());
    row("new session, whole turn", micros(median(cold)), micros(floor_cold));

    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        let began = Instant::now();
        let mut stream = open(channel, query("warm", "hi".into())).await?;
        // Event 1 is the service's own; what the CLI says first is event 2.
        stream.message().await?;
        stream.message().await?;
        first.push(began.elapsed());
        while stream.message().await?.is_some() {}
        whole.push(began.elapsed());
    }
    let mut floor = Floor::start();
    floor.turn("hi", true);
    let floor_warm = median((0..2000).map(|_| floor.turn("hi", false)).collect());
    row("warm turn, the CLI's first frame", micros(median(first)), String::new());
    row("warm turn, whole", micros(median(whole)), micros(floor_warm));
    let mut unary = Vec::new();
    let mut client = Client::new(channel.clone());
    for _ in 0..1000 {
        let began = Instant::now();
        client
            .get_session(session_pool::proto::GetSessionRequest { session_id: "warm".into() })
            .await?;
        unary.push(began.elapsed());
    }
    row("one unary call, for comparison", micros(median(unary)), String::new());
    Ok(())
}

/// Frames a second of one session, and the service's CPU time for them.
async fn throughput(service: &Running, channel: &Channel) -> Result<(), Status> {
    for (name, lines, payload, frames) in [
        ("frames of 300 bytes, typed", "frames 1000000 300", Payload::Typed, 1e6),
        ("frames of 300 bytes, JSON", "frames 1000000 300", Payload::Json, 1e6),
        ("partial messages, typed", "partial 500000 20", Payload::Typed, 5e5),
        ("frames of 100 kB, JSON", "frames 5000 100000", Payload::Json, 5e3),
    ] {
        let mut request = query("stream", script(lines));
        request.payload = payload.into();
        if lines.starts_with("partial") {
            request.session_id = "partial".into();
            request.options = Some(session_pool::proto::SessionOptions {
                include_partial_messages: Some(true),
                ..Default::default()
            });
        }
        // The process is started by a turn that does not count.
        let mut warm_up = request.clone();
        warm_up.prompt = "hi".into();
        run_turn(channel, warm_up).await?;
        let cpu = service.cpu_seconds();
        let began = Instant::now();
        run_turn(channel, request).await?;
        let elapsed = began.elapsed().as_secs_f64();
        let cpu = service.cpu_seconds() - cpu;
        let floor = Floor::start().frames(lines);
        let bytes = if name.contains("kB") { 1e5 } else { 0.0 };
        let rate = |seconds: f64| match bytes {
            0.0 => format!("{:.0} k/s", frames / seconds / 1e3),
            _ => format!("{:.0} MB/s", frames * bytes / seconds / 1e6),
        };
        row(name, rate(elapsed), rate(floor.as_secs_f64()));
        if bytes == 0.0 {
            row(
                "  CPU seconds of the service per million",
                format!("{:.2}", cpu / frames * 1e6),
                String::new(),
            );
        }
    }
    Ok(())
}

/// 50 sessions that all stream at once.
async fn many_sessions(service: &Running, channel: &Channel) -> Result<(), Status> {
    let ids: Vec<String> = (0..50).map(|n| format!("many-{n}")).collect();
    for id in &ids {
        run_turn(channel, query(id, "hi".into())).await?;
    }
    let began = Instant::now();
    let cpu = service.cpu_seconds();
    let mut turns = tokio::task::JoinSet::new();
    for id in ids {
        let channel = channel.clone();
        turns.spawn(async move {
            let began = Instant::now();
            let mut stream = open(&channel, query(&id, script("frames 2000 300"))).await?;
            stream.message().await?;
            stream.message().await?;
            let first = began.elapsed();
            while stream.message().await?.is_some() {}
            Ok::<_, Status>(first)
        });
    }
    let mut firsts: Vec<Duration> =
        turns.join_all().await.into_iter().collect::<Result<_, Status>>()?;
    let elapsed = began.elapsed().as_secs_f64();
    firsts.sort_unstable();
    row(
        "50 sessions x 2,000 frames at once",
        format!("{:.0} k/s", 1e5 / elapsed / 1e3),
        String::new(),
    );
    row(
        "  first frame, p50 / p99",
        format!("{} / {}", micros(firsts[25]), micros(firsts[49])),
        String::new(),
    );
    row(
        "  CPU seconds of the service",
        format!("{:.2}", service.cpu_seconds() - cpu),
        String::new(),
    );
    Ok(())
}

/// A caller that stops reading a 200 MB answer. It stays stuck until [`read_on`].
async fn slow_reader(
    service: &Running,
) -> Result<tonic::Streaming<usize>, Box<dyn std::error::Error>> {
    // A connection of its own: its window would hold up the other callers' streams.
    let channel = Channel::from_shared(service.address.clone())?.connect().await?;
    run_turn(&channel, query("stuck", "hi".into())).await?;
    let before = service.resident_kb();
    let stream = open(&channel, query("stuck", script("frames 200000 1000"))).await?;
    let mut client = Client::new(channel);
    let request = session_pool::proto::GetSessionRequest { session_id: "stuck".into() };
    let mut most = before;
    loop {
        most = most.max(service.resident_kb());
        let session = client.get_session(request.clone()).await?.into_inner().session;
        if session.is_none_or(|session| session.running_turn_id.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    row(
        "memory growth while nobody reads a 200 MB answer",
        format!("{:.1} MB", (most - before) / 1024.0),
        String::new(),
    );
    Ok(stream)
}

/// The stuck caller reads after all: every event is still there.
async fn read_on(mut stream: tonic::Streaming<usize>) -> Result<(), Status> {
    let began = Instant::now();
    let mut events = 0;
    while stream.message().await?.is_some() {
        events += 1;
    }
    row(
        &format!("  {events} events read after that, in"),
        format!("{:.2} s", began.elapsed().as_secs_f64()),
        String::new(),
    );
    Ok(())
}

/// 16 sessions whose CLI takes a second to start, and a warm session meanwhile.
async fn boot_storm(channel: &Channel) -> Result<(), Status> {
    let began = Instant::now();
    let mut starts = tokio::task::JoinSet::new();
    for n in 0..16 {
        let channel = channel.clone();
        let mut request = query(&format!("boot-{n}"), "hi".into());
        request.options = Some(session_pool::proto::SessionOptions {
            model: Some("fake:boot=1000".into()),
            ..Default::default()
        });
        starts.spawn(async move { run_turn(&channel, request).await });
    }
    let mut worst = Duration::ZERO;
    while began.elapsed() < Duration::from_millis(900) {
        let turn = Instant::now();
        run_turn(channel, query("warm", "hi".into())).await?;
        worst = worst.max(turn.elapsed());
    }
    starts.join_all().await.into_iter().collect::<Result<(), Status>>()?;
    let all = format!("{:.2} s", began.elapsed().as_secs_f64());
    row("16 new sessions at once, 1 s boot each", all, "1.00 s".into());
    row("  worst turn of a warm session meanwhile", micros(worst), String::new());
    Ok(())
}

/// Interrupts of hanging turns: one, and 50 at once.
async fn interrupts(channel: &Channel) -> Result<(), Status> {
    let mut client = Client::new(channel.clone());
    let request = InterruptRequest {
        session_id: "warm".into(),
        keep_session: true,
        ..InterruptRequest::default()
    };
    let mut times = Vec::new();
    for _ in 0..100 {
        let mut stream = open(channel, query("warm", script("say x\nhang"))).await?;
        for _ in 0..4 {
            stream.message().await?;
        }
        let began = Instant::now();
        client.interrupt(request.clone()).await?;
        times.push(began.elapsed());
        // The next turn begins when this one has ended.
        while stream.message().await?.is_some() {}
    }
    let most = times.iter().max().copied().unwrap_or_default();
    row("interrupt of one hanging turn", micros(median(times)), String::new());
    row("  the longest of 100", micros(most), String::new());
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        client.interrupt(request.clone()).await?;
        times.push(began.elapsed());
    }
    let most = times.iter().max().copied().unwrap_or_default();
    row("interrupt of a session without a turn", micros(median(times)), String::new());
    row("  the longest of 100", micros(most), String::new());
    let mut streams = Vec::new();
    for n in 0..50 {
        let mut stream = open(channel, query(&format!("many-{n}"), script("say x\nhang"))).await?;
        for _ in 0..4 {
            stream.message().await?;
        }
        streams.push(stream);
    }
    let began = Instant::now();
    let report = client
        .interrupt_all(session_pool::proto::InterruptAllRequest::default())
        .await?
        .into_inner();
    let interrupted = report.results.iter().filter(|result| result.had_active_turn).count();
    row(
        &format!("interrupt of {interrupted} hanging turns at once"),
        micros(began.elapsed()),
        String::new(),
    );
    Ok(())
}

/// What an idle session holds in the service.
async fn memory(service: &Running, channel: &Channel) -> Result<(), Status> {
    let before = service.resident_kb();
    for n in 0..200 {
        run_turn(channel, query(&format!("idle-{n}"), "hi".into())).await?;
    }
    let after = service.resident_kb();
    row(
        "memory of 200 idle sessions, each",
        format!("{:.0} kB", (after - before) / 200.0),
        String::new(),
    );
    row("threads of the service", service.threads().to_string(), String::new());
    let stats =
        Client::new(channel.clone()).get_stats(GetStatsRequest::default()).await?.into_inner();
    row("sessions in all", stats.total_sessions.to_string(), String::new());
    Ok(())
}
