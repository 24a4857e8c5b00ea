//! `query` and `attach`: a turn, shown as it happens, and its prompts answered.

use std::{future::Future, path::Path, time::Duration};

use tonic::{Request, Streaming};

use super::{
    args::{AttachArgs, OnBackground, OnBusy, OnDisconnect, OnMismatch, QueryArgs, Show},
    assemble::{Assembler, Item},
    connect::Service,
    exit::{Exit, Failure, Outcome, read_file},
    output::is_screen,
    prompts::Prompts,
    terminal::Terminal,
    view::View,
};
use crate::proto::{
    AttachRequest, BackgroundPolicy, BusyPolicy, DisconnectPolicy, InputBlock, InputMedia,
    OptionsMismatchPolicy, QueryRequest, input_block::Block, turn_event::Kind,
};

/// Runs a turn.
pub async fn query(service: &mut Service, args: QueryArgs) -> Outcome {
    let (limit, show) = (args.timeout, args.show);
    let mut request = Request::new(query_request(args, is_screen())?);
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    within(limit, async {
        let stream = service.query(request).await?.into_inner();
        watch(service, stream, show).await
    })
    .await
}

/// Joins a turn.
pub async fn attach(service: &mut Service, args: AttachArgs) -> Outcome {
    let request = AttachRequest {
        session_id: args.session,
        turn_id: args.turn,
        from_sequence: args.from,
        include_partial_messages: args.show.partial(is_screen()),
        ..AttachRequest::default()
    };
    let stream = service.attach(request).await?.into_inner();
    watch(service, stream, args.show).await
}

fn query_request(args: QueryArgs, is_screen: bool) -> Result<QueryRequest, Failure> {
    let mut options = args.options.into_message();
    options.include_partial_messages = args.show.partial(is_screen).then_some(true);
    let prompt = args.prompt.unwrap_or_default();
    let mut request = QueryRequest {
        session_id: args.session,
        options: Some(options),
        turn_id: args.turn,
        new_conversation: args.new_conversation,
        on_busy: busy_policy(args.on_busy).into(),
        on_disconnect: disconnect_policy(args.on_disconnect).into(),
        on_background: background_policy(args.on_background).into(),
        on_options_mismatch: mismatch_policy(args.on_options_mismatch).into(),
        ..QueryRequest::default()
    };
    if args.image.is_empty() && args.document.is_empty() {
        request.prompt = prompt;
        return Ok(request);
    }
    let images = args.image.iter().map(|file| Ok(Block::Image(media("--image", file)?)));
    let documents =
        args.document.iter().map(|file| Ok(Block::Document(media("--document", file)?)));
    let text = std::iter::once(Ok(Block::Text(prompt)));
    let blocks = images.chain(documents).chain(text);
    let block =
        |block: Result<Block, Failure>| block.map(|block| InputBlock { block: Some(block) });
    request.content = blocks.map(block).collect::<Result<_, Failure>>()?;
    Ok(request)
}

/// A file, with the type that its name says.
fn media(option: &str, file: &Path) -> Result<InputMedia, Failure> {
    let extension = file.extension().and_then(|it| it.to_str()).unwrap_or_default();
    let media_type = match extension.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => "application/pdf",
        _ => "text/plain",
    };
    Ok(InputMedia { media_type: media_type.to_owned(), data: read_file(option, file)? })
}

fn busy_policy(on_busy: OnBusy) -> BusyPolicy {
    match on_busy {
        OnBusy::Queue => BusyPolicy::Queue,
        OnBusy::Reject => BusyPolicy::Reject,
        OnBusy::Interrupt => BusyPolicy::Interrupt,
        OnBusy::Steer => BusyPolicy::Steer,
    }
}

fn disconnect_policy(on_disconnect: OnDisconnect) -> DisconnectPolicy {
    match on_disconnect {
        OnDisconnect::Interrupt => DisconnectPolicy::Interrupt,
        OnDisconnect::Continue => DisconnectPolicy::Continue,
    }
}

fn background_policy(on_background: Option<OnBackground>) -> BackgroundPolicy {
    match on_background {
        None => BackgroundPolicy::Unspecified,
        Some(OnBackground::Keep) => BackgroundPolicy::Keep,
        Some(OnBackground::Wait) => BackgroundPolicy::Wait,
        Some(OnBackground::Stop) => BackgroundPolicy::Stop,
    }
}

fn mismatch_policy(on_mismatch: OnMismatch) -> OptionsMismatchPolicy {
    match on_mismatch {
        OnMismatch::Fail => OptionsMismatchPolicy::Fail,
        OnMismatch::Restart => OptionsMismatchPolicy::Restart,
    }
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

async fn watch<T: Item>(service: &Service, mut stream: Streaming<T>, show: Show) -> Outcome {
    let mut view = View::new(show);
    // A program that reads JSON answers by itself.
    let terminal = if show.form.json { None } else { Terminal::open() };
    let mut prompts = Prompts::new(service.clone(), terminal);
    let shown = follow(&mut stream, &mut view, &mut prompts).await;
    view.finish()?;
    shown
}

async fn follow<T: Item>(
    stream: &mut Streaming<T>,
    view: &mut View,
    prompts: &mut Prompts,
) -> Outcome {
    let mut assembler = Assembler::default();
    let mut exit = Exit::Other;
    loop {
        let item = tokio::select! {
            item = stream.message() => item?,
            answered = prompts.answer() => {
                answered?;
                continue;
            }
        };
        let Some(item) = item else { return Ok(exit) };
        // What only keeps the connection open is nothing to show, and nothing for a program.
        let event = assembler.take(item)?.filter(|it| !matches!(it.kind, Some(Kind::Heartbeat(_))));
        if let Some(event) = event {
            view.show(&event)?;
            prompts.note(&event);
            if let Some(Kind::Result(result)) = &event.kind {
                exit = match (result.interrupted, result.is_error) {
                    (true, _) => Exit::Interrupted,
                    (false, true) => Exit::TurnFailed,
                    (false, false) => Exit::Fine,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        client::args::{Arguments, Client, ClientCommand, Command},
        proto::SessionOptions,
    };

    fn request(words: &[&str]) -> QueryRequest {
        let words = [&["session-pool", "query"], words].concat();
        let Command::Client(command) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("not a client command")
        };
        let Client { command: ClientCommand::Query(args), .. } = command.into() else {
            panic!("not a query")
        };
        query_request(*args, false).expect("a request")
    }

    #[test]
    fn what_is_not_asked_for_stays_unset() {
        let request = request(&["hi"]);
        assert_eq!(request.prompt, "hi");
        assert_eq!(request.session_id, "");
        assert_eq!(request.options, Some(SessionOptions::default()));
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
            "--permission-mode=plan",
            "--on-disconnect=continue",
            "--env=A=b=c",
            "--tool=",
            "hi",
        ]);
        let options = request.options.clone().unwrap();
        assert_eq!(options.include_partial_messages, Some(true));
        assert_eq!(options.max_turns, Some(3));
        assert_eq!(options.allowed_tools, ["Bash"]);
        assert_eq!(options.permission_mode.as_deref(), Some("plan"));
        assert_eq!(options.env["A"], "b=c");
        assert_eq!(options.tools, [""]);
        assert_eq!(request.on_disconnect(), DisconnectPolicy::Continue);
        assert_eq!(request.on_busy(), BusyPolicy::Interrupt);
        assert!(request.new_conversation);
    }

    #[test]
    fn f2_pieces_are_for_terminals_unless_said_otherwise() {
        let show = |words: &[&str]| {
            let words = [&["session-pool", "query", "hi"], words].concat();
            let Command::Client(command) = Arguments::try_parse_from(words).unwrap().command else {
                panic!("not a client command")
            };
            let Client { command: ClientCommand::Query(args), .. } = command.into() else {
                panic!("not a query")
            };
            args.show
        };
        assert!(show(&[]).partial(true) && !show(&[]).partial(false));
        assert!(!show(&["--no-partial"]).partial(true));
        assert!(show(&["--partial"]).partial(false));
        assert!(!show(&["--json"]).partial(true) && show(&["--json", "--partial"]).partial(true));
    }

    #[test]
    fn f2_files_go_before_the_prompt_with_the_type_of_their_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.PNG");
        std::fs::write(&file, b"bytes").expect("written");
        let request = request(&[&format!("--image={}", file.display()), "what is it?"]);
        let blocks: Vec<_> = request.content.into_iter().filter_map(|block| block.block).collect();
        let image = InputMedia { media_type: "image/png".into(), data: b"bytes".to_vec() };
        assert_eq!(blocks, [Block::Image(image), Block::Text("what is it?".into())]);
        assert_eq!(request.prompt, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_takes_too_long_times_out() {
        let limit = Some(Duration::from_secs(5));
        let outcome = within(limit, std::future::pending()).await;
        assert!(matches!(outcome, Err(Failure::TimedOut(_))));
        assert!(matches!(within(limit, async { Ok(Exit::Fine) }).await, Ok(Exit::Fine)));
    }
}
