//! A caller in Rust: runs one turn and prints its text as whole messages come, then what it cost.
//!
//! ```sh
//! cargo run --example query -- demo "What can you do?"
//! ```
//!
//! `SESSION_POOL_SERVER` is the service's address (default `http://127.0.0.1:50051`). Programs
//! outside this repository generate the types from `proto/` with tonic-prost-build.

use std::{env, process::ExitCode};

use prost::Message as _;
use session_pool::proto::{
    QueryRequest, QueryResponse, TurnEvent, content_block::Block, query_response::Item,
    session_pool_service_client::SessionPoolServiceClient, turn_event::Kind,
};
use tonic::Status;
use tonic_types::StatusExt as _;

/// Joins events that come in parts because they are larger than 3 MiB.
#[derive(Default)]
struct Parts(Vec<u8>);

impl Parts {
    /// Takes a message of the stream; gives an event when one is whole.
    fn take(&mut self, response: QueryResponse) -> Result<Option<TurnEvent>, prost::DecodeError> {
        match response.item {
            Some(Item::Event(event)) => Ok(Some(*event)),
            Some(Item::Part(part)) => {
                self.0.extend(part.data);
                let whole = part.last.then(|| std::mem::take(&mut self.0));
                whole.map(|bytes| TurnEvent::decode(&bytes[..])).transpose()
            }
            // Of a newer service.
            None => Ok(None),
        }
    }
}

fn show(event: TurnEvent) {
    match event.kind {
        Some(Kind::Assistant(message)) => {
            for block in message.content {
                if let Some(Block::Text(text)) = block.block {
                    println!("{}", text.text);
                }
            }
        }
        Some(Kind::Result(result)) => println!("({:.4} US dollars)", result.total_cost_usd),
        _ => {}
    }
}

/// What a program decides by: the reason, and whether and when to try again.
fn explain(status: &Status) -> String {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("UNKNOWN", |info| info.reason.as_str());
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    let advice = retry.map(|delay| format!("; retry in {delay:?}")).unwrap_or_default();
    format!("{reason}: {}{advice}", status.message())
}

async fn query(session: String, prompt: String) -> Result<(), Box<dyn std::error::Error>> {
    let server = env::var("SESSION_POOL_SERVER");
    let server = server.unwrap_or_else(|_| "http://127.0.0.1:50051".to_owned());
    let mut client = SessionPoolServiceClient::connect(server).await?;
    let request = QueryRequest { session_id: session, prompt, ..QueryRequest::default() };
    let mut stream = client.query(request).await?.into_inner();
    let mut parts = Parts::default();
    // A turn that went well ends with its result and status OK.
    while let Some(response) = stream.message().await? {
        if let Some(event) = parts.take(response)? {
            show(event);
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(session), Some(prompt)) = (arguments.next(), arguments.next()) else {
        eprintln!("query: two arguments are needed: a session id and a prompt");
        return ExitCode::from(2);
    };
    let Err(error) = query(session, prompt).await else { return ExitCode::SUCCESS };
    match error.downcast_ref::<Status>() {
        Some(status) => eprintln!("query: {}", explain(status)),
        None => eprintln!("query: {error}"),
    }
    ExitCode::FAILURE
}
