//! How soon a session answers, on the real CLI: started for it, from a spare, resumed, warm.
//! Beside them the floor of the same run: a process parked by hand that is sent
//! `initialize` and the prompt in one write. And how soon the service is there again with
//! ten thousand sessions in its ledger.
//!
//! `cargo bench --features test-tools --bench starts`, with the CLIs that `.ci/fetch-cli`
//! fetches. Medians of rounds in which all take turns; the first message is the CLI's
//! `system/init`.

mod ledger;
mod processes;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use session_pool::{
    internals::{
        cli::{
            binding,
            command::Folders,
            env_files::EnvFiles,
            launch::{ConversationOrigin, LaunchSettings},
            request::{Initialize, user_message},
            sandbox::Sandbox,
            versions::Installed,
        },
        domain::{
            ids::{CliSessionId, ClientId, TenantId},
            input::Input,
            options::Options,
        },
    },
    proto::{
        GetSessionRequest, GetStatsRequest, QueryRequest, SessionOptions, SessionStatus,
        TurnOrigin, session_pool_service_client::SessionPoolServiceClient as Client,
        turn_event::Kind,
    },
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use ledger::ledger;
use processes::{Service, StandIn, environment};

const SERVICE: &str = env!("CARGO_BIN_EXE_session-pool");
const VERSIONS: [&str; 2] = ["2.1.197", "2.1.332"];
const ROUNDS: usize = 7;
const SYSTEM_PROMPT: &str = "You are brief.";

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
        rules: Vec::new(),
    };
    let options = Options { system_prompt: Some(SYSTEM_PROMPT.into()), ..Options::default() };
    let origin = ConversationOrigin::New(CliSessionId::fresh());
    let inherited = |name: &str| std::env::var(name).ok();
    let (tenant, mark) = (TenantId::default(), ClientId::fresh());
    let command = settings.command(&tenant, origin, &Options::default(), &folders, mark, inherited);
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
