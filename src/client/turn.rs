//! `query` and `attach`: a turn, shown as it happens.

use std::{future::Future, time::Duration};

use tonic::{Request, Streaming};

use super::{
    args::{AttachArgs, OnBusy, QueryArgs},
    assemble::{Assembler, Item},
    connect::Service,
    exit::{Failure, Outcome},
    frames,
    output::{is_screen, print, remark, screen_width},
    render::{Renderer, Screen},
};
use crate::proto::{AttachRequest, BusyPolicy, Payload, QueryRequest, SessionOptions, TurnEvent};

/// Runs a turn.
pub async fn query(service: &mut Service, args: QueryArgs) -> Outcome {
    let (limit, json) = (args.timeout, args.json);
    let mut request = Request::new(query_request(args));
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    within(limit, async {
        let stream = service.query(request).await?.into_inner();
        show(stream, json).await
    })
    .await
}

/// Joins a turn.
pub async fn attach(service: &mut Service, args: AttachArgs) -> Outcome {
    let request = AttachRequest {
        session_id: args.session,
        turn_id: args.turn,
        from_sequence: args.from,
        payload: payload(args.json).into(),
        include_partial_messages: false,
    };
    let stream = service.attach(request).await?.into_inner();
    show(stream, args.json).await
}

fn query_request(args: QueryArgs) -> QueryRequest {
    let options = SessionOptions {
        model: args.model,
        system_prompt: args.system_prompt,
        permission_mode: args.permission_mode,
        allowed_tools: args.allow,
        max_turns: args.max_turns,
        include_partial_messages: args.partial.then_some(true),
        ..SessionOptions::default()
    };
    QueryRequest {
        session_id: args.session,
        prompt: args.prompt,
        options: Some(options),
        new_conversation: args.new_conversation,
        on_busy: busy_policy(args.on_busy).into(),
        payload: payload(args.json).into(),
        ..QueryRequest::default()
    }
}

fn busy_policy(on_busy: OnBusy) -> BusyPolicy {
    match on_busy {
        OnBusy::Queue => BusyPolicy::Queue,
        OnBusy::Reject => BusyPolicy::Reject,
        OnBusy::Interrupt => BusyPolicy::Interrupt,
    }
}

fn payload(json: bool) -> Payload {
    if json { Payload::Json } else { Payload::Typed }
}

/// The service keeps the deadline too, but a caller's own time does not depend on it.
async fn within(limit: Option<Duration>, turn: impl Future<Output = Outcome>) -> Outcome {
    match limit {
        Some(limit) => {
            tokio::time::timeout(limit, turn).await.unwrap_or(Err(Failure::TimedOut(limit)))
        }
        None => turn.await,
    }
}

async fn show<T: Item>(mut stream: Streaming<T>, json: bool) -> Outcome {
    let mut view = View::new(json);
    let shown = follow(&mut stream, &mut view).await;
    view.finish()?;
    shown
}

async fn follow<T: Item>(stream: &mut Streaming<T>, view: &mut View) -> Outcome {
    let mut assembler = Assembler::default();
    let mut last = TurnEvent::default();
    while let Some(item) = stream.message().await? {
        if let Some(event) = assembler.take(item)? {
            view.show(&event)?;
            last = event;
        }
    }
    Ok(frames::exit_of(&last))
}

/// How events are shown.
enum View {
    People(Renderer),
    Programs,
}

impl View {
    fn new(json: bool) -> Self {
        if json {
            return Self::Programs;
        }
        Self::People(Renderer::new(Screen { is_screen: is_screen(), width: screen_width() }))
    }

    fn show(&mut self, event: &TurnEvent) -> Result<(), Failure> {
        match self {
            Self::People(renderer) => {
                let rendered = renderer.render(event);
                if !rendered.answer.is_empty() {
                    print(&rendered.answer)?;
                }
                if !rendered.remarks.is_empty() {
                    remark(&rendered.remarks);
                }
            }
            Self::Programs => {
                if let Some(line) = frames::line(event) {
                    print(&format!("{line}\n"))?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if let Self::People(renderer) = self {
            print(&renderer.finish())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::{
        args::{Arguments, Client, ClientCommand, Command},
        exit::Exit,
    };

    fn request(words: &[&str]) -> QueryRequest {
        let words = [&["session-pool", "query"], words].concat();
        let Command::Client(command) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("not a client command")
        };
        let Client { command: ClientCommand::Query(args), .. } = command.into() else {
            panic!("not a query")
        };
        query_request(args)
    }

    #[test]
    fn what_is_not_asked_for_stays_unset() {
        let request = request(&["hi"]);
        assert_eq!(request.prompt, "hi");
        assert_eq!(request.session_id, "");
        assert_eq!(request.options, Some(SessionOptions::default()));
        assert_eq!(request.payload(), Payload::Typed);
    }

    #[test]
    fn options_reach_the_request() {
        let request = request(&[
            "--session=s",
            "--partial",
            "--max-turns=3",
            "--allow=Bash",
            "--new-conversation",
            "--on-busy=interrupt",
            "--json",
            "--permission-mode=plan",
            "hi",
        ]);
        let options = request.options.clone().unwrap();
        assert_eq!(options.include_partial_messages, Some(true));
        assert_eq!(options.max_turns, Some(3));
        assert_eq!(options.allowed_tools, ["Bash"]);
        assert_eq!(options.permission_mode.as_deref(), Some("plan"));
        assert_eq!(request.on_busy(), BusyPolicy::Interrupt);
        assert_eq!(request.payload(), Payload::Json);
        assert!(request.new_conversation);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_takes_too_long_times_out() {
        let limit = Some(Duration::from_secs(5));
        let outcome = within(limit, std::future::pending()).await;
        assert!(matches!(outcome, Err(Failure::TimedOut(_))));
        assert!(matches!(within(limit, async { Ok(Exit::Fine) }).await, Ok(Exit::Fine)));
    }
}
