//! The floor: the same CLI over pipes, read by a program that counts lines and does nothing else.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
};

use memchr::memmem::Finder;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    parked::{self, Parked},
    protocol::{Answer, Command, Driver, Hello, Outcome, Turn, serve},
};

/// The end of a turn is told in so many bytes at the beginning or at the end of its line: what is between
/// may be an answer of megabytes, and is not looked into.
const ENDS: usize = 8 * 1024;
const INITIALIZE: &str =
    r#"{"type":"control_request","request_id":"i","request":{"subtype":"initialize"}}"#;
const INTERRUPT: &str =
    r#"{"type":"control_request","request_id":"stop","request":{"subtype":"interrupt"}}"#;

pub async fn drive() -> Outcome<()> {
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ready: 0.0,
        can: &["open", "turns", "hang", "interrupt", "storm", "close", "prepare"],
    };
    serve(hello, Floor::default()).await
}

#[derive(Default)]
struct Floor {
    sessions: HashMap<String, Session>,
    parked: Option<Parked>,
}

/// A CLI and its pipes.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    line: Vec<u8>,
    /// Its folders, where it has some of its own.
    pub place: Option<TempDir>,
}

impl Driver for Floor {
    async fn carry_out(&mut self, command: Command) -> Outcome<Answer> {
        let began = Instant::now();
        match command.what.as_str() {
            "open" => self.open(&command),
            "turns" => self.together(&command, began, move |session, command| {
                (0..command.count).map(|_| session.turn(&command.prompt)).collect()
            }),
            "hang" => self.together(&command, began, |session, command| {
                session.prompt(&command.prompt)?;
                session.until(br#""type":"assistant""#)?;
                Ok(Vec::new())
            }),
            "interrupt" => {
                let mut answer = self.together(&command, began, |session, _| {
                    writeln!(session.input, "{INTERRUPT}")?;
                    session.until(br#""type":"control_response""#)?;
                    let whole = began.elapsed();
                    session.until_idle()?;
                    Ok(vec![Turn { whole, ..Turn::default() }])
                })?;
                answer.seconds = answer.whole.iter().copied().fold(0.0, f64::max);
                Ok(answer)
            }
            "storm" => {
                self.open(&command)?;
                Ok(Answer::after(began.elapsed()))
            }
            "prepare" => {
                self.parked = Some(Parked::start().await?);
                Ok(Answer::after(began.elapsed()))
            }
            "close" => {
                command.sessions.iter().for_each(|name| drop(self.sessions.remove(name)));
                Ok(Answer::after(began.elapsed()))
            }
            other => Err(format!("cannot {other}").into()),
        }
    }
}

impl Floor {
    fn open(&mut self, command: &Command) -> Outcome<Answer> {
        let began = Instant::now();
        let parked = &mut self.parked;
        let mut opened = Vec::new();
        for name in &command.sessions {
            let parked = parked.take().filter(|_| !command.fresh);
            let session = match parked {
                Some(parked) => parked.open()?,
                None => Session::start(command)?,
            };
            opened.push((name.clone(), session));
        }
        let mut turns = Vec::new();
        for (name, mut session) in opened {
            // All of them have begun; what is waited for is the longest.
            let first = session.until(br#""subtype":"init""#)?;
            turns.push(session.end_of_turn(began, Some(first - began))?);
            self.sessions.insert(name, session);
        }
        let turns = turns.into_iter().map(|turn| vec![turn]).collect();
        Ok(Answer::of_turns(turns, began.elapsed()))
    }

    /// Has something done with all the sessions at once.
    fn together(
        &mut self,
        command: &Command,
        began: Instant,
        work: impl Fn(&mut Session, &Command) -> Outcome<Vec<Turn>> + Sync,
    ) -> Outcome<Answer> {
        let named =
            |name: &String| self.sessions.remove(name).ok_or_else(|| format!("no session {name}"));
        let mut taken: Vec<Session> =
            command.sessions.iter().map(named).collect::<Result<_, _>>()?;
        let work = &work;
        let turns = std::thread::scope(|scope| {
            let threads: Vec<_> = taken
                .iter_mut()
                .map(|session| scope.spawn(move || work(session, command)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
            };
            threads.into_iter().map(join).collect::<Outcome<Vec<_>>>()
        });
        self.sessions.extend(command.sessions.iter().cloned().zip(taken));
        Ok(Answer::of_turns(turns?, began.elapsed()))
    }
}

impl Session {
    /// Starts the CLI and asks for a first turn.
    fn start(command: &Command) -> Outcome<Self> {
        let program = PathBuf::from(std::env::var_os("BENCH_CLI").ok_or("no BENCH_CLI")?);
        if std::env::var_os("ANTHROPIC_BASE_URL").is_some() {
            return parked::real(&program)?.open();
        }
        let mut process = Process::new(program);
        process
            .args(["--input-format=stream-json", "--output-format=stream-json", "--verbose"])
            .env("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1");
        if command.partial {
            process.arg("--include-partial-messages");
        }
        if let Some(model) = &command.model {
            process.arg(format!("--model={model}"));
        }
        let mut session = Self::of(process)?;
        writeln!(session.input, "{INITIALIZE}")?;
        session.prompt("hi")?;
        Ok(session)
    }

    /// A CLI that is told everything by its command line.
    pub fn of(mut process: Process) -> Outcome<Self> {
        let mut child =
            process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take().ok_or("piped")?;
        let output = BufReader::with_capacity(65_536, child.stdout.take().ok_or("piped")?);
        Ok(Self { child, input, output, line: Vec::new(), place: None })
    }

    pub fn write(&mut self, lines: &[u8]) -> Outcome<()> {
        Ok(self.input.write_all(lines)?)
    }

    fn prompt(&mut self, prompt: &str) -> Outcome<()> {
        let uuid = uuid::Uuid::new_v4();
        let message = serde_json::json!({"type": "user", "uuid": uuid.to_string(),
            "message": {"role": "user", "content": prompt}});
        Ok(writeln!(self.input, "{message}")?)
    }

    fn turn(&mut self, prompt: &str) -> Outcome<Turn> {
        let began = Instant::now();
        self.prompt(prompt)?;
        self.end_of_turn(began, None)
    }

    /// Reads on to the end of the turn; what comes behind its result takes no part in its time.
    fn end_of_turn(&mut self, began: Instant, first: Option<std::time::Duration>) -> Outcome<Turn> {
        self.read()?;
        let first = first.unwrap_or_else(|| began.elapsed());
        let result = Finder::new(br#""type":"result""#);
        let mut messages = 1;
        while !self.has_at_its_ends(&result) {
            self.read()?;
            messages += 1;
        }
        let whole = began.elapsed();
        self.until_idle()?;
        Ok(Turn { first, whole, messages })
    }

    fn has_at_its_ends(&self, text: &Finder<'_>) -> bool {
        let (head, rest) = self.line.split_at(self.line.len().min(ENDS));
        let tail = &rest[rest.len().saturating_sub(ENDS)..];
        text.find(head).is_some() || text.find(tail).is_some()
    }

    fn until_idle(&mut self) -> Outcome<()> {
        self.until(br#""state":"idle""#).map(drop)
    }

    /// Reads on to a line with this in it. Returns when it came.
    fn until(&mut self, text: &[u8]) -> Outcome<Instant> {
        let finder = Finder::new(text);
        loop {
            self.read()?;
            if finder.find(&self.line).is_some() {
                return Ok(Instant::now());
            }
        }
    }

    fn read(&mut self) -> Outcome<()> {
        self.line.clear();
        if self.output.read_until(b'\n', &mut self.line)? == 0 {
            return Err("the CLI ended".into());
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
