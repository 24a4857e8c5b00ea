//! `respond`: answers a prompt from anywhere, by its name.

use super::{
    args::{Answer, RespondArgs},
    assemble::Assembler,
    connect::Service,
    exit::{Exit, Failure, Outcome},
    hooks,
    output::print,
    prompts::from_now_on,
    proto_json,
    values::one_line,
};
use crate::proto::{
    AttachRequest, GetSessionRequest, PromptAllow, PromptAnswers, PromptDeny, PromptEvent,
    RespondRequest, respond_request::Decision, turn_event::Kind,
};

/// `respond`
pub async fn respond(service: &mut Service, args: RespondArgs) -> Outcome {
    let RespondArgs { session, prompt_id, decision, response_json, .. } = args;
    let hook_event = match decision {
        Some(_) => hook_event(service, &session, &prompt_id).await?,
        None => None,
    };
    let decision = match (decision, response_json) {
        (Some(answer), _) if hook_event.is_some() || !args.context.is_empty() => {
            let Some(event) = hook_event else {
                return Err(Failure::Usage("--context goes with an answer to a hook".to_owned()));
            };
            let words =
                hooks::Words { message: args.message, input: args.input, context: args.context };
            let said = hooks::decision(&event, answer, words).filter(|_| !args.interrupt);
            let usage = "a hook is answered yes or no, without --interrupt";
            Decision::Hook(said.ok_or_else(|| Failure::Usage(usage.to_owned()))?)
        }
        (None, None) if !args.answer.is_empty() => {
            Decision::Answers(PromptAnswers { answers: args.answer.into_iter().collect() })
        }
        (None, json) => Decision::ResponseJson(json.unwrap_or_default()),
        (Some(Answer::No), _) => {
            Decision::Deny(PromptDeny { message: args.message, interrupt: args.interrupt })
        }
        (Some(answer), _) => {
            let mut allow = PromptAllow { updated_input_json: args.input, ..Default::default() };
            if answer == Answer::Always {
                let prompt = find(service, &session, &prompt_id).await?;
                allow.updated_permissions_json = from_now_on(&prompt);
            }
            Decision::Allow(allow)
        }
    };
    let request =
        RespondRequest { session_id: session.clone(), prompt_id, decision: Some(decision) };
    let answered = service.respond(request).await?.into_inner();
    print(&if args.form.json {
        proto_json::line("RespondResponse", &answered)?
    } else {
        format!("{}: answered\n", one_line(&session))
    })?;
    Ok(Exit::Fine)
}

/// The event of a hook that is called, if the prompt is a call of one. Whether there is such a
/// prompt at all its answer will tell.
async fn hook_event(
    service: &mut Service,
    session: &str,
    id: &str,
) -> Result<Option<String>, Failure> {
    let request = GetSessionRequest { session_id: session.to_owned() };
    let session = service.get_session(request).await?.into_inner().session.unwrap_or_default();
    let mut hooks = session.open_prompts.into_iter().filter(|prompt| prompt.prompt_id == id);
    Ok(hooks.next().map(|prompt| prompt.hook_event).filter(|event| !event.is_empty()))
}

/// A prompt of the running turn, or of the last.
pub async fn find(service: &mut Service, session: &str, id: &str) -> Result<PromptEvent, Failure> {
    let request = AttachRequest { session_id: session.to_owned(), ..AttachRequest::default() };
    let mut stream = service.attach(request).await?.into_inner();
    let mut assembler = Assembler::default();
    while let Some(item) = stream.message().await? {
        match assembler.take(item)?.and_then(|event| event.kind) {
            Some(Kind::Prompt(prompt)) if prompt.prompt_id == id => return Ok(prompt),
            _ => {}
        }
    }
    Err(tonic::Status::not_found(format!("no prompt {id:?} waits for an answer")).into())
}
