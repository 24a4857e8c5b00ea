//! A second process beside the service, which has the database open on its own: it sees
//! only what is committed, and can hold the database as a backup does. It is this test
//! program again, where the service has its mounts.

use std::{
    collections::HashMap,
    io::{BufRead as _, Write as _},
    path::Path,
    process::Stdio,
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// The variable that names the database to the second process.
const FILE: &str = "SESSION_POOL_TEST_DATABASE";
/// What its answers begin with; the test harness prints lines of its own.
const ANSWER: &str = "answer: ";

/// The way to it.
pub struct Second {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Second {
    /// Starts it in the mount namespace of this process.
    pub fn beside(pid: u32, file: &Path) -> Self {
        let program = std::env::current_exe().expect("a path");
        let users = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).expect("/proc");
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--mount"]);
        if users("self") != users(&pid.to_string()) {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
            .arg("--")
            .arg(program)
            .args(["--ignored", "--exact", "second::second_process", "--nocapture"])
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("started");
        let stdin = child.stdin.take().expect("a pipe");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { stdin, lines, _child: child }
    }

    async fn ask(&mut self, question: &str) -> String {
        self.stdin.write_all(format!("{question}\n").as_bytes()).await.expect("asked");
        loop {
            let line = self.lines.next_line().await.expect("text").expect("it lives");
            // The harness may have begun the line.
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.to_owned();
            }
        }
    }

    /// Whether the file holds what was said in a transcript.
    #[allow(dead_code, reason = "the soak waits for a disk")]
    pub async fn finds(&mut self, said: &str) -> bool {
        match self.looks_for(said).await {
            Ok(found) => found,
            Err(error) => panic!("the database cannot be read for {said}: {error}"),
        }
    }

    /// The same; an error is that it cannot be read just now.
    pub async fn looks_for(&mut self, said: &str) -> Result<bool, String> {
        self.how_often(said).await.map(|count| count > 0)
    }

    /// How many prompts say so.
    pub async fn how_often(&mut self, said: &str) -> Result<u64, String> {
        let answer = self.ask(&format!("find {said}")).await;
        answer.parse().map_err(|_| answer)
    }

    /// Keeps a connection from now on, by which it looks: one needs no room on the disk any
    /// more.
    #[allow(dead_code, reason = "the faults of the store outlive the disk's room")]
    pub async fn opens(&mut self) -> Result<(), String> {
        match self.ask("open").await {
            answer if answer == "done" => Ok(()),
            answer => Err(answer),
        }
    }

    /// Lets go of it.
    #[allow(dead_code, reason = "likewise")]
    pub async fn closes(&mut self) {
        assert_eq!(self.ask("close").await, "done");
    }

    /// How often each word with this beginning was said, in all conversations together.
    #[allow(dead_code, reason = "the faults of the store count what was said")]
    pub async fn counts(&mut self, beginning: &str) -> HashMap<String, u64> {
        let answer = self.ask(&format!("words {beginning}")).await;
        let mut counts = HashMap::new();
        for word in answer.split_whitespace() {
            assert!(word.starts_with(beginning), "the words cannot be read: {answer}");
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Takes the database as whoever writes does. Returns whether it has it.
    #[allow(dead_code, reason = "the soak holds the database")]
    pub async fn locks(&mut self) -> bool {
        self.ask("lock").await == "done"
    }

    /// Gives it back.
    #[allow(dead_code, reason = "likewise")]
    pub async fn unlocks(&mut self) {
        assert_eq!(self.ask("unlock").await, "done");
    }
}

async fn open(file: &str) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(false);
    options.journal_mode(SqliteJournalMode::Wal).connect().await
}

async fn find(connection: &mut SqliteConnection, said: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM entries WHERE line LIKE $1 AND json_extract(line, '$.type') = 'user'",
    )
    .bind(format!("%say {said}%"))
    .fetch_one(connection)
    .await
}

async fn hold(file: &str) -> sqlx::Result<SqliteConnection> {
    let mut connection = open(file).await?;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
    Ok(connection)
}

/// The words after `say` that begin so, as often as they are there.
async fn words(connection: &mut SqliteConnection, beginning: &str) -> sqlx::Result<String> {
    let said = format!("say {beginning}");
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT line FROM entries WHERE line LIKE $1 AND json_extract(line, '$.type') = 'user'",
    )
    .bind(format!("%{said}%"))
    .fetch_all(connection)
    .await?;
    let of_word = |character: char| character.is_ascii_alphanumeric() || character == '-';
    let words = lines.iter().flat_map(|line| line.split(&said).skip(1)).map(|rest| {
        let end = rest.find(|character| !of_word(character)).unwrap_or(rest.len());
        format!("{beginning}{}", &rest[..end])
    });
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// What it has open.
struct Open {
    file: String,
    looks: Option<SqliteConnection>,
    holds: Option<SqliteConnection>,
}

impl Open {
    async fn answer(&mut self, question: &str, about: &str) -> sqlx::Result<String> {
        let done = || "done".to_owned();
        match question {
            "find" | "words" => {
                let mut fresh = None;
                let connection = match &mut self.looks {
                    Some(connection) => connection,
                    None => fresh.insert(open(&self.file).await?),
                };
                match question {
                    "find" => find(connection, about).await.map(|count| count.to_string()),
                    _ => words(connection, about).await,
                }
            }
            "open" => {
                let mut connection = open(&self.file).await?;
                // The first read maps what later ones need.
                find(&mut connection, "").await?;
                self.looks = Some(connection);
                Ok(done())
            }
            "close" => match self.looks.take() {
                Some(connection) => connection.close().await.map(|()| done()),
                None => Ok(done()),
            },
            "lock" => {
                self.holds = Some(hold(&self.file).await?);
                Ok(done())
            }
            _ => match self.holds.take() {
                Some(mut connection) => {
                    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.map(|_| done())
                }
                None => Ok(done()),
            },
        }
    }
}

#[tokio::test]
#[ignore = "it is the second process of other tests"]
async fn second_process() {
    let Ok(file) = std::env::var(FILE) else { return };
    let mut open = Open { file, looks: None, holds: None };
    let stdin = std::io::stdin().lock();
    for question in stdin.lines() {
        let question = question.expect("text");
        let (question, about) = question.split_once(' ').unwrap_or((&question, ""));
        let answer = match open.answer(question, about).await {
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        };
        println!("\n{ANSWER}{answer}");
        std::io::stdout().flush().expect("printed");
    }
}
