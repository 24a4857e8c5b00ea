//! The first exchanges with a new process: whether it is up, and `initialize` with all
//! that is bound along with it. Knows the connection and the child, not where they come
//! from.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{
    cli::{
        binding,
        connection::{CallError, Connection, ConnectionError, Meanwhile},
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
    let late = format!("the CLI did not initialise in {limit:?} (pool.connect_timeout)");
    exchange(connection, child, requests, Answers::Granted, (limit, late)).await
}

/// Waits until a process is up. It is told nothing that binds it.
pub async fn probe(
    connection: &mut Connection,
    child: &mut dyn Child,
    limit: Duration,
) -> Result<(), Cause> {
    let late = format!("the CLI was not up in {limit:?} (pool.connect_timeout)");
    exchange(connection, child, vec![binding::probe()], Answers::Any, (limit, late)).await
}

/// Sends all requests at once and waits for every answer, for so long and no longer.
async fn exchange(
    connection: &mut Connection,
    child: &mut dyn Child,
    requests: Vec<ControlRequest>,
    answers: Answers,
    (limit, late): (Duration, String),
) -> Result<(), Cause> {
    let deadline = Instant::now() + limit;
    let mut awaited = Vec::with_capacity(requests.len());
    for request in requests {
        let answer = connection.request(request);
        awaited.push(answer.map_err(|blocked| failed(child, blocked.to_string(), None))?);
    }
    for answer in awaited {
        let answered = tokio::select! {
            biased;
            answered = connection.answer(answer, deadline, Meanwhile::Drop) => answered,
            _ = child.wait() => return Err(exited(child).await),
        };
        match answered {
            Ok(Err(refusal)) if answers == Answers::Granted => {
                return Err(failed(child, format!("initialize was refused: {refusal}"), None));
            }
            Ok(_) => {}
            Err(CallError::Broken(ConnectionError::Closed)) => return Err(exited(child).await),
            Err(CallError::Late) => return Err(failed(child, late, None)),
            Err(error) => return Err(failed(child, error.to_string(), None)),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, pending},
        pin::Pin,
    };

    use serde_json::{Value, json};
    use tokio::io::{
        AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex, split,
    };

    use super::*;

    /// A child that lives for ever.
    #[derive(Debug)]
    struct Living;

    impl Child for Living {
        fn id(&self) -> u32 {
            0
        }

        fn wait(&mut self) -> Pin<Box<dyn Future<Output = Exit> + Send + '_>> {
            Box::pin(pending())
        }

        fn terminate(&mut self) {}

        fn kill(&mut self) {}

        fn sweep(&mut self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>> {
            Box::pin(async { 0 })
        }

        fn stderr_tail(&self) -> String {
            String::new()
        }
    }

    /// A CLI that asks something itself, and answers nothing before it is answered.
    async fn asks_first(cli: DuplexStream) -> Value {
        let (input, mut output) = split(cli);
        let mut lines = BufReader::new(input).lines();
        let asked = json!({"type": "control_request", "request_id": "mine",
            "request": {"subtype": "mcp_message", "server_name": "x", "message": {}}});
        output.write_all(format!("{asked}\n").as_bytes()).await.expect("written");
        let (mut ids, mut answer) = (Vec::new(), Value::Null);
        while ids.is_empty() || answer.is_null() {
            let line = lines.next_line().await.expect("open").expect("a line");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            if line["type"] == "control_response" {
                answer = line["response"].clone();
            } else {
                ids.push(line["request_id"].clone());
            }
        }
        for id in ids {
            let granted = json!({"type": "control_response",
                "response": {"subtype": "success", "request_id": id, "response": {}}});
            output.write_all(format!("{granted}\n").as_bytes()).await.expect("written");
        }
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_cli_that_asks_while_it_starts_is_refused_and_starts() {
        let (ours, cli) = duplex(1 << 16);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1 << 16);
        let (limit, mut child) = (Duration::from_secs(1), Living);
        let (up, answer) =
            tokio::join!(probe(&mut connection, &mut child, limit), asks_first(cli),);
        assert_eq!(up, Ok(()));
        assert_eq!((&answer["request_id"], &answer["subtype"]), (&json!("mine"), &json!("error")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cli_that_does_not_answer_is_given_up_and_the_limit_is_named() {
        let (ours, _cli) = duplex(1 << 16);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1 << 16);
        let up = probe(&mut connection, &mut Living, Duration::from_secs(7)).await;
        let Err(Cause::ConnectFailed { detail, .. }) = up else { panic!("{up:?}") };
        assert_eq!(detail, "the CLI was not up in 7s (pool.connect_timeout)");
    }
}
