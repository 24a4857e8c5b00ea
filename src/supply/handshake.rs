//! The first exchanges with a new process: whether it is up, and `initialize` with all
//! that is bound along with it. Knows the connection and the child, not where they come
//! from.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    cli::{
        binding,
        connection::{Connection, ConnectionError, ControlAnswer},
        process::Child,
        request::ControlRequest,
    },
    domain::{exit::Exit, failure::Cause},
};

/// How long a process that closed its output may take to end.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// Whether what a process is asked has to be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// It has to.
    Granted,
    /// An answer is all that is wanted.
    Any,
}

/// Tells a process what it is to be, in this order, and waits until it has granted
/// all of it. Frames that it prints before are of no turn and dropped.
pub async fn bind(
    connection: &mut Connection,
    child: &mut dyn Child,
    requests: Vec<ControlRequest>,
    limit: Duration,
) -> Result<(), Cause> {
    match timeout(limit, exchange(connection, child, requests, Answers::Granted)).await {
        Ok(done) => done,
        Err(_) => Err(failed(
            child,
            format!("the CLI did not initialise in {limit:?} (pool.connect_timeout)"),
            None,
        )),
    }
}

/// Waits until a process is up. It is told nothing that binds it.
pub async fn probe(
    connection: &mut Connection,
    child: &mut dyn Child,
    limit: Duration,
) -> Result<(), Cause> {
    match timeout(limit, exchange(connection, child, vec![binding::probe()], Answers::Any)).await {
        Ok(done) => done,
        Err(_) => Err(failed(
            child,
            format!("the CLI was not up in {limit:?} (pool.connect_timeout)"),
            None,
        )),
    }
}

/// Sends all requests at once and waits for every answer.
async fn exchange(
    connection: &mut Connection,
    child: &mut dyn Child,
    requests: Vec<ControlRequest>,
    answers: Answers,
) -> Result<(), Cause> {
    let mut awaited = Vec::with_capacity(requests.len());
    for request in requests {
        let answer = connection.request(request);
        awaited.push(answer.map_err(|blocked| failed(child, blocked.to_string(), None))?);
    }
    for answer in awaited {
        let answered = answer_of(answer, connection, child).await?;
        if let (Err(refusal), Answers::Granted) = (answered, answers) {
            return Err(failed(child, format!("initialize was refused: {refusal}"), None));
        }
    }
    Ok(())
}

/// Reads until an answer has come.
async fn answer_of(
    mut answer: ControlAnswer,
    connection: &mut Connection,
    child: &mut dyn Child,
) -> Result<Result<String, String>, Cause> {
    let mut dropped = Vec::new();
    loop {
        tokio::select! {
            biased;
            answered = &mut answer => return match answered {
                Ok(answered) => Ok(answered),
                Err(_) => Err(exited(child).await),
            },
            read = connection.read(&mut dropped) => match read {
                Ok(()) => dropped.clear(),
                Err(ConnectionError::Closed) => return Err(exited(child).await),
                Err(error) => return Err(failed(child, error.to_string(), None)),
            },
            _ = child.wait() => return Err(exited(child).await),
        }
    }
}

async fn exited(child: &mut dyn Child) -> Cause {
    match timeout(EXIT_WAIT, child.wait()).await {
        Ok(exit) => failed(child, format!("the CLI ended with {exit}"), Some(exit)),
        Err(_) => failed(child, "the CLI closed its output".to_owned(), None),
    }
}

fn failed(child: &dyn Child, detail: String, exit: Option<Exit>) -> Cause {
    if let Some(overrun) = child.overrun() {
        return Cause::HoldsTooMuch { overrun, tool_use_seen: false };
    }
    Cause::ConnectFailed { detail, exit, stderr_tail: child.stderr_tail() }
}
