//! A second process beside the service, which has the database open on its own: it sees
//! only what is committed, and can hold the database as a backup does. It is this test
//! program again, where the service has its mounts.

use std::{
    io::{BufRead as _, Write as _},
    path::Path,
    process::Stdio,
};

use sqlx::{
    ConnectOptions as _, SqliteConnection,
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
        let answer = self.ask(&format!("find {said}")).await;
        answer.parse::<u64>().map(|count| count > 0).map_err(|_| answer)
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

async fn find(file: &str, said: &str) -> sqlx::Result<i64> {
    let mut connection = open(file).await?;
    sqlx::query_scalar("SELECT count(*) FROM entries WHERE line LIKE $1")
        .bind(format!("%say {said}%"))
        .fetch_one(&mut connection)
        .await
}

async fn hold(file: &str) -> sqlx::Result<SqliteConnection> {
    let mut connection = open(file).await?;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
    Ok(connection)
}

#[tokio::test]
#[ignore = "it is the second process of other tests"]
async fn second_process() {
    let Ok(file) = std::env::var(FILE) else { return };
    let mut lock: Option<SqliteConnection> = None;
    let stdin = std::io::stdin().lock();
    for question in stdin.lines() {
        let question = question.expect("text");
        let answer = match question.split_once(' ').unwrap_or((&question, "")) {
            ("find", said) => match find(&file, said).await {
                Ok(count) => count.to_string(),
                Err(error) => error.to_string(),
            },
            ("lock", _) => match hold(&file).await {
                Ok(connection) => {
                    lock = Some(connection);
                    "done".to_owned()
                }
                Err(error) => error.to_string(),
            },
            _ => match lock.take() {
                Some(mut connection) => {
                    match sqlx::raw_sql("ROLLBACK").execute(&mut connection).await {
                        Ok(_) => "done".to_owned(),
                        Err(error) => error.to_string(),
                    }
                }
                None => "done".to_owned(),
            },
        };
        println!("\n{ANSWER}{answer}");
        std::io::stdout().flush().expect("printed");
    }
}
