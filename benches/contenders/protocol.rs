//! What a driver program is told and what it answers, a line of JSON each; docs/benchmarks.md has the table.
//! Python and TypeScript have the same in `driver.py` and `agent_sdk.mjs`.

use std::{
    error::Error,
    io::{BufRead as _, Write as _},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One command. What a driver does not know of it, it leaves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Command {
    #[serde(rename = "do")]
    pub what: String,
    pub sessions: Vec<String>,
    pub prompt: String,
    pub count: usize,
    pub partial: bool,
    /// No spare may be used.
    pub fresh: bool,
    pub model: Option<String>,
    /// `typed`, which is the default, or `json`.
    pub payload: String,
    /// The warm session of a storm.
    pub warm: String,
    /// The unary call that is made.
    pub call: String,
}

/// What came of one command.
#[derive(Debug, Default, Serialize)]
pub struct Answer {
    /// Until the first message of the CLI, for each turn, in seconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<f64>,
    /// Until the turn's end, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<f64>,
    /// What each session took for all its turns, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<f64>,
    pub messages: usize,
    /// From the command to its end.
    pub seconds: f64,
    /// How the last of the turns came by its process, where that is told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// The longest turn of the warm session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<f64>,
}

/// One turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    pub first: Duration,
    pub whole: Duration,
    pub messages: usize,
}

impl Answer {
    /// The answer to `turns` and `open`: what each session's turns took.
    pub fn of_turns(sessions: Vec<Vec<Turn>>, elapsed: Duration) -> Self {
        let total = |turns: &Vec<Turn>| turns.iter().map(|turn| turn.whole.as_secs_f64()).sum();
        let each = sessions.iter().map(total).collect();
        let turns: Vec<Turn> = sessions.into_iter().flatten().collect();
        Self {
            first: turns.iter().map(|turn| turn.first.as_secs_f64()).collect(),
            whole: turns.iter().map(|turn| turn.whole.as_secs_f64()).collect(),
            each,
            messages: turns.iter().map(|turn| turn.messages).sum(),
            seconds: elapsed.as_secs_f64(),
            ..Self::default()
        }
    }

    /// The answer to a command that only takes its time.
    pub fn after(elapsed: Duration) -> Self {
        Self { seconds: elapsed.as_secs_f64(), ..Self::default() }
    }
}

/// Runs `count` turns with each of these requests, one after the other in each, and all requests at once.
pub async fn at_once<R, F>(
    requests: Vec<R>,
    count: usize,
    turn: impl Fn(R) -> F + Clone + Send + 'static,
) -> Outcome<Vec<Vec<Turn>>>
where
    R: Clone + Send + 'static,
    F: Future<Output = Outcome<Turn>> + Send + 'static,
{
    let mut sessions = JoinSet::new();
    for request in requests {
        let turn = turn.clone();
        sessions.spawn(async move {
            let mut turns = Vec::with_capacity(count);
            for _ in 0..count {
                turns.push(turn(request.clone()).await?);
            }
            Outcome::Ok(turns)
        });
    }
    sessions.join_all().await.into_iter().collect()
}

/// What a driver says first.
#[derive(Debug, Serialize)]
pub struct Hello {
    pub version: String,
    /// The process whose time, memory and threads count, and which is killed where a host is.
    pub pid: u32,
    /// How long it took to be ready, in seconds.
    pub ready: f64,
    /// The commands that it carries out.
    pub can: &'static [&'static str],
}

/// A driver.
pub trait Driver {
    /// Does what a command says.
    fn carry_out(&mut self, command: Command) -> impl Future<Output = Outcome<Answer>>;
}

fn say(value: &impl Serialize) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

/// Answers commands until there are none.
pub async fn serve(hello: Hello, mut driver: impl Driver) -> Outcome<()> {
    say(&hello)?;
    let mut line = String::new();
    while std::io::stdin().lock().read_line(&mut line)? > 0 {
        let answered = match serde_json::from_str::<Command>(&line) {
            Ok(command) => driver.carry_out(command).await,
            Err(error) => Err(error.into()),
        };
        match answered {
            Ok(answer) => say(&answer)?,
            Err(error) => say(&serde_json::json!({"error": error.to_string()}))?,
        }
        line.clear();
    }
    Ok(())
}
