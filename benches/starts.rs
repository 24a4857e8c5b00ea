//! How soon a session answers, on the real CLI: started for it, from a spare, resumed, warm.
//! Beside them the floor of the same run: a process parked by hand that is sent
//! `initialize` and the prompt in one write. And how soon the service is there again with
//! ten thousand sessions in its ledger.
//!
//! `cargo bench --features test-tools --bench starts`, with the CLIs that `.ci/fetch-cli`
//! fetches. Medians of rounds in which all take turns; the first message is the CLI's
//! `system/init`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use session_pool::{
    cli::{
        binding,
        env_files::EnvFiles,
        launch::{ConversationOrigin, Folders, LaunchSettings},
        request::{Initialize, user_message},
        sandbox::Sandbox,
        versions::Installed,
    },
    counters::{Spent, Totals},
    domain::{
        acquired::Acquired,
        ids::{CliSessionId, ClientId, SessionId, SessionKey, TenantId},
        input::Input,
        options::Options,
    },
    proto::{
        GetSessionRequest, GetStatsRequest, QueryRequest, SessionOptions, SessionStatus,
        TurnOrigin, session_pool_service_client::SessionPoolServiceClient as Client,
        turn_event::Kind,
    },
    store::{Commit, Epoch, Opening, Record, SqlStore, Store as _},
    tasks::Tasks,
};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

const SERVICE: &str = env!("CARGO_BIN_EXE_session-pool");
const STAND_IN: &str = env!("CARGO_BIN_EXE_messages-stand-in");
const VERSIONS: [&str; 2] = ["2.1.197", "2.1.332"];
const ROUNDS: usize = 7;
const SYSTEM_PROMPT: &str = "You are brief.";
const LEDGER: usize = 10_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    // `cargo test --benches` passes `--test`; there is nothing to test here.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Outcome<()> {
    println!("{:<44} {:>14} {:>14} {:>8}", "", "first message", "result", "x floor");
    for version in VERSIONS {
        let folder = std::env::var_os("SESSION_POOL_CLAUDE_DIR")
            .map_or_else(|| PathBuf::from("target/claude"), PathBuf::from);
        let program = std::path::absolute(folder.join(version).join("claude"))?;
        if !program.is_file() {
            let program = program.display();
            return Err(
                format!("Claude CLI {version} is not at {program}: run .ci/fetch-cli").into()
            );
        }
        sessions(version, &program).await?;
    }
    ledger().await
}

/// Until the first message, and until the result.
type Times = (Duration, Duration);

async fn sessions(version: &str, program: &Path) -> Outcome<()> {
    let api = StandIn::start()?;
    let state = TempDir::new()?;
    let service = Service::start(state.path(), Some((program, &api.url)))?;
    let mut client = Client::connect(service.address.clone()).await?;
    let [mut floor, mut cold, mut spare, mut resumed, mut warm] =
        [const { Vec::<Times>::new() }; 5];
    for round in 0..ROUNDS {
        until_spare(&mut client).await?;
        floor.push(parked_by_hand(program, &api.url).await?);
        let name = format!("spare-{round}");
        spare.push(turn(&mut client, &name, None, TurnOrigin::CreatedFromSpare).await?);
        warm.push(turn(&mut client, &name, None, TurnOrigin::Reused).await?);
        until_hibernated(&mut client, &name).await?;
        until_spare(&mut client).await?;
        resumed.push(turn(&mut client, &name, None, TurnOrigin::Resumed).await?);
        let name = format!("cold-{round}");
        cold.push(turn(&mut client, &name, Some(100), TurnOrigin::Created).await?);
        until_hibernated(&mut client, &name).await?;
    }
    drop(service);
    let base = median(&floor).0;
    for (what, times) in [
        ("parked by hand (floor)", floor),
        ("new session, from a spare", spare),
        ("new session, cold", cold),
        ("hibernated session, resumed", resumed),
        ("second turn, warm", warm),
    ] {
        let (first, result) = median(&times);
        let ratio = first.as_secs_f64() / base.as_secs_f64();
        println!(
            "{:<44} {:>11.1} ms {:>11.1} ms {ratio:>8.2}",
            format!("{version}: {what}"),
            first.as_secs_f64() * 1e3,
            result.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}

fn median(times: &[Times]) -> Times {
    let of = |part: fn(&Times) -> Duration| {
        let mut part: Vec<Duration> = times.iter().map(part).collect();
        part.sort_unstable();
        part[part.len() / 2]
    };
    (of(|times| times.0), of(|times| times.1))
}

async fn turn(
    client: &mut Client<Channel>,
    session: &str,
    max_turns: Option<u32>,
    origin: TurnOrigin,
) -> Outcome<Times> {
    let request = QueryRequest {
        session_id: session.into(),
        prompt: "hello".into(),
        options: Some(SessionOptions {
            system_prompt: Some(SYSTEM_PROMPT.into()),
            max_turns,
            ..SessionOptions::default()
        }),
        ..QueryRequest::default()
    };
    let began = Instant::now();
    let mut events = client.query(request).await?.into_inner();
    let mut first = None;
    while let Some(message) = events.message().await? {
        let event = match message.item {
            Some(session_pool::proto::query_response::Item::Event(event)) => event.kind,
            _ => None,
        };
        match event {
            Some(Kind::Started(started)) if started.origin() != origin => {
                return Err(format!("{session}: {:?}, not {origin:?}", started.origin()).into());
            }
            Some(Kind::System(system)) if system.init.is_some() => {
                first.get_or_insert(began.elapsed());
            }
            _ => {}
        }
    }
    Ok((first.ok_or("no system/init")?, began.elapsed()))
}

async fn until_spare(client: &mut Client<Channel>) -> Outcome<()> {
    loop {
        let stats = client.get_stats(GetStatsRequest::default()).await?.into_inner();
        if stats.spares == 1 && stats.spares_starting == 0 {
            // It is up; let the machine come to rest, as for the one parked by hand.
            sleep(Duration::from_millis(500)).await;
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_hibernated(client: &mut Client<Channel>, session: &str) -> Outcome<()> {
    loop {
        let request = GetSessionRequest { session_id: session.into() };
        let shown = client.get_session(request).await?.into_inner().session.unwrap_or_default();
        if shown.status() == SessionStatus::Hibernated {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The same process, started two seconds before it is needed and read line by line.
async fn parked_by_hand(program: &Path, api: &str) -> Outcome<Times> {
    let place = TempDir::new()?;
    let folder = |name: &str| place.path().join(name);
    let folders = Folders {
        work: folder("work"),
        config: folder("claude"),
        home: folder("home"),
        extra: Vec::new(),
    };
    for folder in [&folders.work, &folders.config, &folders.home] {
        std::fs::create_dir(folder)?;
    }
    let settings = LaunchSettings {
        program: program.to_owned(),
        extra_args: Vec::new(),
        env: environment(api).into_iter().collect(),
        env_files: EnvFiles::default(),
        env_passthrough: Vec::new(),
        state_dir: place.path().to_owned(),
        sandbox: Sandbox::ProcessTree(SERVICE.into()),
        installed: Installed::default(),
    };
    let options = Options { system_prompt: Some(SYSTEM_PROMPT.into()), ..Options::default() };
    let origin = ConversationOrigin::New(CliSessionId::fresh());
    let inherited = |name: &str| std::env::var(name).ok();
    let command =
        settings.command(origin, &Options::default(), &folders, ClientId::fresh(), inherited);
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .envs(&command.env)
        .current_dir(&command.cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().ok_or("piped")?;
    let mut output = BufReader::new(child.stdout.take().ok_or("piped")?).lines();
    input.write_all(&binding::probe().line)?;
    sleep(Duration::from_secs(2)).await;
    let timed = tokio::task::spawn_blocking(move || -> std::io::Result<Times> {
        let prompt = user_message(&Input::Text("hello".into()), uuid::Uuid::new_v4());
        let lines = [Initialize::of(&options).request().line, prompt].concat();
        let began = Instant::now();
        input.write_all(&lines)?;
        let mut first = None;
        for line in output.by_ref() {
            let line = line?;
            if line.contains(r#""subtype":"init""#) {
                first.get_or_insert(began.elapsed());
            } else if line.contains(r#""type":"result""#) {
                break;
            }
        }
        Ok((first.unwrap_or_default(), began.elapsed()))
    });
    let times = timed.await??;
    child.kill()?;
    child.wait()?;
    Ok(times)
}

fn environment(api: &str) -> [(String, String); 3] {
    [
        ("ANTHROPIC_BASE_URL", api),
        ("ANTHROPIC_API_KEY", "sk-ant-dummy"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// What the CLIs take for the API.
struct StandIn {
    child: Child,
    url: String,
}

impl StandIn {
    fn start() -> Outcome<Self> {
        let mut child = Command::new(STAND_IN).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("piped")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening ").ok_or("it does not listen")?.to_owned();
        Ok(Self { child, url })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A service with a process of its own.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    /// Starts it, and waits until it listens.
    fn start(state: &Path, cli: Option<(&Path, &str)>) -> Outcome<Self> {
        let mut command = Command::new(SERVICE);
        command
            .arg("serve")
            .env("SESSION_POOL__SERVER__LISTEN", "127.0.0.1:0")
            .env("SESSION_POOL__STATE_DIR", state)
            .env("SESSION_POOL__LOG__FORMAT", "json")
            .env("SESSION_POOL__CLI__SANDBOX", "process-tree")
            .env("SESSION_POOL__POOL__MAX_SESSIONS", "20000")
            .env("SESSION_POOL__POOL__MAX_PROCESSES", "8")
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        if let Some((program, api)) = cli {
            command
                .env("SESSION_POOL__CLI__PATH", program)
                .env("SESSION_POOL__POOL__SPARES", "1")
                .env("SESSION_POOL__POOL__HIBERNATE_AFTER", "500ms");
            for (name, value) in environment(api) {
                command.env(format!("SESSION_POOL__CLI__ENV__{name}"), value);
            }
        }
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("piped")?).lines();
        let address = loop {
            let line = lines.next().ok_or("the service ended")??;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["message"] == "listening" {
                break format!("http://{}", event["address"].as_str().ok_or("no address")?);
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    fn resident_kb(&self) -> f64 {
        // The keeper's only child is the service.
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let pid = children.unwrap_or_default().split_whitespace().next().map(str::to_owned);
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.unwrap_or_default()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}

async fn ledger() -> Outcome<()> {
    let (empty, full) = (TempDir::new()?, TempDir::new()?);
    fill(full.path()).await?;
    let (mut without, mut with, mut each) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let small = Service::start(empty.path(), None)?;
        without.push((began.elapsed(), Duration::ZERO));
        let began = Instant::now();
        let large = Service::start(full.path(), None)?;
        with.push((began.elapsed(), Duration::ZERO));
        each.push((large.resident_kb() - small.resident_kb()) * 1024.0 / LEDGER as f64);
    }
    each.sort_by(f64::total_cmp);
    let milliseconds = |times: &[Times]| median(times).0.as_secs_f64() * 1e3;
    println!(
        "service listens: {:.0} ms with an empty ledger, {:.0} ms with {LEDGER} sessions, {:.0} bytes each",
        milliseconds(&without),
        milliseconds(&with),
        each[each.len() / 2]
    );
    Ok(())
}

async fn fill(state: &Path) -> Outcome<()> {
    let tasks = Tasks::default();
    let store = std::sync::Arc::new(
        SqlStore::open(&state.join("session-pool.db"), Opening::default(), &tasks).await?,
    );
    let mut commits = JoinSet::new();
    for number in 0..LEDGER {
        let store = std::sync::Arc::clone(&store);
        let session = SessionId::parse(&format!("session-{number:05}"))?;
        let record = Record {
            cli_session_id: CliSessionId::fresh(),
            options: Options { system_prompt: Some(SYSTEM_PROMPT.into()), ..Options::default() },
            acquired: Acquired::default(),
            create_time: SystemTime::now(),
            last_used_time: SystemTime::now(),
            age: std::time::Duration::ZERO,
            unused_for: std::time::Duration::ZERO,
            message_count: 1,
            error_count: 0,
            spent: Spent::default(),
            reported_cost_usd: 0.0,
            in_pool: true,
        };
        let key = SessionKey::new(TenantId::default(), session);
        let lines = std::sync::Arc::default();
        let (epoch, releases, totals) = (Epoch::NONE, false, Totals::default());
        let commit = Commit { key, epoch, releases, record, turn: None, lines, totals };
        commits.spawn(async move { store.commit(commit).await });
    }
    for committed in commits.join_all().await {
        committed?;
    }
    drop(store);
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
