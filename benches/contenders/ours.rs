//! The service, over gRPC, called from a process of its own: this one. The caller takes messages by their size and
//! decodes none, so that what is measured is not the caller.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use session_pool::proto::{
    CloseSessionRequest, GetSessionRequest, GetStatsRequest, InterruptRequest, ListSessionsRequest,
    Payload, QueryRequest, SessionOptions, SessionStatus, query_response::Item,
    session_pool_service_client::SessionPoolServiceClient as Client, turn_event::Kind,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use super::{
    caller::open,
    parked::SYSTEM_PROMPT,
    protocol::{Answer, Command, Driver, Hello, Outcome, Turn, at_once, serve},
    service::Running,
    stored,
};

/// Serves until there are no more commands. `fill` is how many stored sessions it begins with.
pub async fn drive(fill: Option<&str>) -> Outcome<()> {
    let state = PathBuf::from(std::env::var_os("BENCH_FOLDER").ok_or("no BENCH_FOLDER")?);
    let state = state.join("state");
    std::fs::create_dir_all(&state)?;
    if let Some(sessions) = fill {
        stored::fill(&state, sessions.parse()?).await?;
    }
    let began = Instant::now();
    let service = Running::start(&state, &[])?;
    let ready = began.elapsed();
    let channel = connected(&service.address).await?;
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: service.pid,
        ready: ready.as_secs_f64(),
        can: &[
            "open",
            "turns",
            "hang",
            "interrupt",
            "storm",
            "close",
            "prepare",
            "hibernate",
            "calls",
            "stall",
            "resume",
        ],
    };
    let ours = Ours { service, channel, hanging: HashMap::new(), stalled: None };
    serve(hello, ours).await
}

async fn connected(address: &str) -> Outcome<Channel> {
    Ok(Channel::from_shared(address.to_owned())?.connect().await?)
}

struct Ours {
    service: Running,
    channel: Channel,
    hanging: HashMap<String, tonic::Streaming<usize>>,
    /// A caller that does not read, on a connection of its own: its window would hold up others.
    stalled: Option<tonic::Streaming<usize>>,
}

impl Driver for Ours {
    async fn carry_out(&mut self, command: Command) -> Outcome<Answer> {
        let began = Instant::now();
        match command.what.as_str() {
            "open" => {
                let command = Command { count: 1, ..command };
                self.turns(&command, began, true).await
            }
            "turns" => self.turns(&command, began, false).await,
            "hang" => self.hang(&command).await,
            "interrupt" => self.interrupt(&command).await,
            "storm" => self.storm(&command).await,
            "stall" => self.stall(&command).await,
            "resume" => self.resume().await,
            "calls" => self.calls(&command).await,
            "prepare" => self.until_spare().await,
            "hibernate" => self.until_hibernated(&command).await,
            "close" => self.close(&command).await,
            other => Err(format!("cannot {other}").into()),
        }
    }
}

/// Whether the CLI is a real one.
fn is_real() -> bool {
    std::env::var_os("ANTHROPIC_BASE_URL").is_some()
}

fn request(command: &Command, session: &str, first: bool) -> QueryRequest {
    let payload = if command.payload == "json" { Payload::Json } else { Payload::Typed };
    let options = SessionOptions {
        include_partial_messages: command.partial.then_some(true),
        model: command.model.clone(),
        system_prompt: is_real().then(|| SYSTEM_PROMPT.to_owned()),
        // Only a process that was started for it has this.
        max_turns: command.fresh.then_some(100),
        ..SessionOptions::default()
    };
    QueryRequest {
        session_id: session.to_owned(),
        prompt: command.prompt.clone(),
        payload: payload.into(),
        // Partial messages are a choice of each call.
        options: (first || command.partial).then_some(options),
        ..QueryRequest::default()
    }
}

/// Runs a turn to its end.
async fn turn(channel: Channel, request: QueryRequest) -> Outcome<Turn> {
    let began = Instant::now();
    let mut stream = open(&channel, request).await?;
    // Event 1 is the service's own; what the CLI says first is event 2.
    stream.message().await?;
    stream.message().await?.ok_or("the turn ended at once")?;
    let first = began.elapsed();
    let mut messages = 1;
    while stream.message().await?.is_some() {
        messages += 1;
    }
    Ok(Turn { first, whole: began.elapsed(), messages })
}

/// The same of a real CLI, whose first message is its `system/init`. Returns also how it came by its process.
async fn real_turn(channel: &Channel, request: QueryRequest) -> Outcome<(Turn, String)> {
    let began = Instant::now();
    let mut events = Client::new(channel.clone()).query(request).await?.into_inner();
    let (mut first, mut origin, mut messages) = (None, String::new(), 0);
    while let Some(message) = events.message().await? {
        messages += 1;
        let Some(Item::Event(event)) = message.item else { continue };
        match event.kind {
            Some(Kind::Started(started)) => origin = started.origin().as_str_name().to_owned(),
            Some(Kind::System(system)) if system.init.is_some() => {
                first.get_or_insert_with(|| began.elapsed());
            }
            _ => {}
        }
    }
    let first = first.ok_or("no system/init")?;
    Ok((Turn { first, whole: began.elapsed(), messages }, origin))
}

impl Ours {
    async fn turns(&self, command: &Command, began: Instant, first: bool) -> Outcome<Answer> {
        if let ([session], true) = (&command.sessions[..], is_real()) {
            let (turn, origin) = real_turn(&self.channel, request(command, session, first)).await?;
            let answer = Answer::of_turns(vec![vec![turn]], began.elapsed());
            return Ok(Answer { origin, ..answer });
        }
        let requests = command.sessions.iter().map(|name| request(command, name, first)).collect();
        let channel = self.channel.clone();
        let turns = at_once(requests, command.count, move |request| turn(channel.clone(), request));
        let turns = turns.await?;
        Ok(Answer::of_turns(turns, began.elapsed()))
    }

    /// Begins turns that do not end, and waits until the CLIs have said something in each.
    async fn hang(&mut self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        for name in &command.sessions {
            let mut stream = open(&self.channel, request(command, name, false)).await?;
            for _ in 0..4 {
                stream.message().await?;
            }
            self.hanging.insert(name.clone(), stream);
        }
        Ok(Answer::after(began.elapsed()))
    }

    /// Interrupts them, each by a call of its own, and reads them to their ends.
    async fn interrupt(&mut self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        let mut calls = JoinSet::new();
        for name in &command.sessions {
            let mut client = Client::new(self.channel.clone());
            let request = InterruptRequest {
                session_id: name.clone(),
                keep_session: true,
                ..InterruptRequest::default()
            };
            calls.spawn(async move {
                client.interrupt(request).await?;
                Outcome::Ok(began.elapsed())
            });
        }
        let times = calls.join_all().await.into_iter().collect::<Outcome<Vec<Duration>>>()?;
        let elapsed = began.elapsed();
        for name in &command.sessions {
            let Some(mut stream) = self.hanging.remove(name) else { continue };
            // A turn whose CLI had to be ended has failed.
            while let Ok(Some(_)) = stream.message().await {}
        }
        let turn = |whole: Duration| vec![Turn { whole, ..Turn::default() }];
        Ok(Answer::of_turns(times.into_iter().map(turn).collect(), elapsed))
    }

    /// Starts many sessions at once while a warm one has its turns.
    async fn storm(&self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        let (channel, mut starts) = (self.channel.clone(), JoinSet::new());
        for name in &command.sessions {
            let (channel, request) = (channel.clone(), request(command, name, true));
            starts.spawn(turn(channel, request));
        }
        let warm = Command { prompt: "hi".into(), ..Command::default() };
        let mut worst = 0.0_f64;
        while began.elapsed() < Duration::from_millis(900) {
            let took = turn(channel.clone(), request(&warm, &command.warm, false)).await?;
            worst = worst.max(took.whole.as_secs_f64());
        }
        starts.join_all().await.into_iter().collect::<Outcome<Vec<_>>>()?;
        Ok(Answer { worst: Some(worst), ..Answer::after(began.elapsed()) })
    }

    async fn stall(&mut self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        let channel = connected(&self.service.address).await?;
        let name = command.sessions.first().ok_or("no session")?;
        let mut stream = open(&channel, request(command, name, false)).await?;
        stream.message().await?;
        self.stalled = Some(stream);
        Ok(Answer::after(began.elapsed()))
    }

    async fn resume(&mut self) -> Outcome<Answer> {
        let began = Instant::now();
        let mut stream = self.stalled.take().ok_or("nobody stalls")?;
        let mut messages = 0;
        while stream.message().await?.is_some() {
            messages += 1;
        }
        Ok(Answer { messages, ..Answer::after(began.elapsed()) })
    }

    /// Unary calls, one after the other.
    async fn calls(&self, command: &Command) -> Outcome<Answer> {
        let mut client = Client::new(self.channel.clone());
        let began = Instant::now();
        let mut turns = Vec::new();
        for _ in 0..command.count {
            let began = Instant::now();
            match command.call.as_str() {
                "GetStats" => drop(client.get_stats(GetStatsRequest::default()).await?),
                "ListSessions" => {
                    drop(client.list_sessions(ListSessionsRequest::default()).await?);
                }
                _ => {
                    let session_id = command.sessions.first().cloned().ok_or("no session")?;
                    drop(client.get_session(GetSessionRequest { session_id }).await?);
                }
            }
            turns.push(Turn { whole: began.elapsed(), ..Turn::default() });
        }
        Ok(Answer::of_turns(vec![turns], began.elapsed()))
    }

    async fn until_spare(&self) -> Outcome<Answer> {
        let began = Instant::now();
        let mut client = Client::new(self.channel.clone());
        loop {
            let stats = client.get_stats(GetStatsRequest::default()).await?.into_inner();
            if stats.spares == 1 && stats.spares_starting == 0 {
                // It is up; let the machine come to rest, as for the one parked by hand.
                sleep(Duration::from_millis(500)).await;
                return Ok(Answer::after(began.elapsed()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_hibernated(&self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        let mut client = Client::new(self.channel.clone());
        for session_id in &command.sessions {
            loop {
                let request = GetSessionRequest { session_id: session_id.clone() };
                let session = client.get_session(request).await?.into_inner().session;
                if session.unwrap_or_default().status() == SessionStatus::Hibernated {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(Answer::after(began.elapsed()))
    }

    async fn close(&self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        let mut client = Client::new(self.channel.clone());
        for session_id in &command.sessions {
            let session_id = session_id.clone();
            let request = CloseSessionRequest { session_id, ..CloseSessionRequest::default() };
            client.close_session(request).await?;
        }
        Ok(Answer::after(began.elapsed()))
    }
}
