//! The first exchange with a new process: `initialize` and its answer. Knows the
//! connection and the child, not where they come from.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    cli::{
        connection::{Connection, ConnectionError},
        process::{Child, Exit},
        request::Initialize,
    },
    failure::Cause,
};

/// How long a process that closed its output may take to end.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// Initialises a process. Frames that it prints before are of no turn and dropped.
pub async fn initialize(
    connection: &mut Connection,
    child: &mut dyn Child,
    initialize: &Initialize,
    limit: Duration,
) -> Result<(), Cause> {
    match timeout(limit, exchange(connection, child, initialize)).await {
        Ok(done) => done,
        Err(_) => Err(failed(
            child,
            format!("the CLI did not initialise in {limit:?} (pool.connect_timeout)"),
            None,
        )),
    }
}

async fn exchange(
    connection: &mut Connection,
    child: &mut dyn Child,
    initialize: &Initialize,
) -> Result<(), Cause> {
    let mut answer = connection
        .request(initialize.request())
        .map_err(|blocked| failed(child, blocked.to_string(), None))?;
    let mut dropped = Vec::new();
    loop {
        tokio::select! {
            biased;
            answered = &mut answer => return match answered {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(refusal)) => {
                    Err(failed(child, format!("initialize was refused: {refusal}"), None))
                }
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
    Cause::ConnectFailed { detail, exit, stderr_tail: child.stderr_tail() }
}
