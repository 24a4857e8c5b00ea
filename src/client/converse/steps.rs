//! What a conversation does about a line, about what comes of the session, and about Ctrl-C.

use std::{io, time::Duration};

use serde_json::{Map, Value};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout},
};

use super::{
    editor,
    keyboard::Line,
    outbox::Sent,
    talk::{Conversation, Ends, Next},
    typed::{self, Said},
};
use crate::{
    client::{
        exit::Failure, following::Followed, output::remark, prompts::open_prompt, respond::find,
        values::one_line,
    },
    proto::{
        InterruptRequest, PromptAllow, PromptKind, Session, TurnEvent, TurnOrigin, TurnStarted,
        WatchPhase, WatchSessionResponse, respond_request::Decision, turn_event::Kind,
        watch_session_response::Item,
    },
};

/// Within this time a second Ctrl-C is for this program.
const SECOND: Duration = Duration::from_secs(2);

/// How long is looked for a prompt that was open before.
const FIND_LIMIT: Duration = Duration::from_secs(5);

impl Conversation {
    /// Ctrl-C: for the turn at first. It never waits for the service.
    pub fn interrupt(&mut self) -> Next {
        remark("\n");
        let now = Instant::now();
        let is_second = self.interrupted_at.is_some_and(|first| now - first < SECOND);
        let is_away = !self.is_reachable() || self.outbox.is_stuck();
        if is_second || (is_away && self.outbox.is_empty()) {
            return Next::Leave;
        }
        if is_away {
            for outgoing in self.outbox.drain() {
                remark(&format!("not sent: {}\n", outgoing.in_short()));
            }
            remark("Ctrl-C again leaves\n");
            self.interrupted_at = Some(now);
            return Next::GoOn;
        }
        let turn_id = match self.outbox.under_way() {
            _ if self.is_running => String::new(),
            Some(turn_id) => turn_id.to_owned(),
            None => return Next::Leave,
        };
        self.interrupted_at = Some(now);
        remark("interrupting the turn; Ctrl-C again leaves\n");
        let session_id = self.session_id.clone();
        let request = InterruptRequest {
            session_id,
            turn_id,
            keep_session: true,
            ..InterruptRequest::default()
        };
        let mut service = self.service.clone();
        self.interrupts.spawn(async move { Ok(service.interrupt(request).await?.into_inner()) });
        Next::GoOn
    }

    /// A line: the answer to what is asked, else a prompt or a part of one.
    pub async fn line(&mut self, line: Line) -> Next {
        // Whoever goes on does not mean to leave: the next Ctrl-C is a first one.
        self.interrupted_at = None;
        if line.is_cut {
            remark("not taken: a terminal cuts lines of more than 4094 bytes; :edit takes more\n");
            return Next::GoOn;
        }
        if let Some(asked) = self.shown.prompts.asked() {
            let word = line.text.trim().to_ascii_lowercase();
            if asked.kind() == PromptKind::ToolPermission && ["e", "edit"].contains(&&*word) {
                return Next::EditInput;
            }
            // Where the service does not answer, Ctrl-C is for this program.
            return tokio::select! {
                () = self.shown.prompts.take(&line.text) => Next::GoOn,
                _ = self.signals.interrupt.recv() => Next::Leave,
            };
        }
        match self.typed.take(&line.text) {
            Said::Prompt(text) => self.add(text),
            Said::Edit(text) => return Next::EditPrompt(text),
            Said::Nothing => {}
        }
        Next::GoOn
    }

    fn add(&mut self, text: String) {
        if !self.is_reachable() {
            remark("kept until the service is there\n");
        } else if self.is_running || !self.outbox.is_empty() {
            remark("queued\n");
        }
        let turn_id = self.outbox.add(text);
        self.shown.own.insert(turn_id);
    }

    /// A prompt that is longer than a line.
    pub async fn edit_prompt(&mut self, text: &str) -> Result<(), Failure> {
        match self.edit(text, ".md").await?.map(|text| typed::prompt(&text)) {
            Ok(Said::Prompt(text)) => self.add(text),
            Ok(Said::Edit(_) | Said::Nothing) => remark("nothing to send\n"),
            Err(error) => remark(&format!("not sent: {error}\n")),
        }
        Ok(())
    }

    /// Another input of the tool that is asked about. Left as it was, it is no answer: whoever
    /// leaves an editor in a hurry has not allowed anything.
    pub async fn edit_input(&mut self) -> Result<(), Failure> {
        let Some(asked) = self.shown.prompts.asked() else { return Ok(()) };
        let input: Value = serde_json::from_str(&asked.input_json).unwrap_or_default();
        let before = format!("{input:#}\n");
        let changed = match self.edit(&before, ".json").await? {
            Ok(after) => match serde_json::from_str::<Map<String, Value>>(&after) {
                Ok(after) if Value::Object(after.clone()) == input => Err("not changed".to_owned()),
                Ok(after) => Ok(Value::Object(after).to_string()),
                Err(error) => Err(format!("not a JSON object: {error}")),
            },
            Err(error) => Err(error.to_string()),
        };
        match changed {
            Ok(updated_input_json) => {
                let allow = PromptAllow { updated_input_json, ..PromptAllow::default() };
                tokio::select! {
                    () = self.shown.prompts.give(Decision::Allow(allow)) => {}
                    _ = self.signals.interrupt.recv() => {}
                }
            }
            Err(problem) => {
                remark(&format!("{problem}\n"));
                self.shown.prompts.ask();
            }
        }
        Ok(())
    }

    async fn edit(&mut self, text: &str, suffix: &str) -> Result<io::Result<String>, Failure> {
        let edited = editor::edit(text, suffix).await;
        // Ctrl-C was the editor's.
        self.signals.interrupt = signal(SignalKind::interrupt())?;
        Ok(edited)
    }

    /// What became of a prompt.
    pub fn sent(&mut self, sent: Sent) {
        match sent {
            Sent::Begun(started) => {
                if self.followed.is_none() {
                    self.tell_origin(started.as_deref());
                    self.follow(true);
                }
            }
            Sent::Waits(true) => {
                remark("the service is away; the prompt is sent when it is back\n")
            }
            Sent::Waits(false) => {}
            Sent::Refused(outgoing, failure) => {
                if self.told.insert(outgoing.turn_id.clone()) {
                    remark(&format!("not run: {}: {failure}\n", outgoing.in_short()));
                }
            }
        }
    }

    /// Of a session that was thought to be known it is worth a word that it was not.
    fn tell_origin(&self, started: Option<&TurnStarted>) {
        if self.ends != Ends::Stays {
            return;
        }
        match started.map(TurnStarted::origin) {
            Some(TurnOrigin::Created | TurnOrigin::CreatedFromSpare) => {
                remark("a new conversation\n");
            }
            Some(TurnOrigin::Resumed) => remark("its conversation goes on\n"),
            Some(TurnOrigin::Reused | TurnOrigin::Unspecified) | None => {}
        }
    }

    /// What comes of the session.
    pub async fn followed(
        &mut self,
        followed: Result<Option<Followed>, Failure>,
    ) -> Result<Next, Failure> {
        match followed {
            Ok(Some(Followed::Item(response))) => self.item(*response).await,
            Ok(Some(broken)) => {
                (self.is_live, self.is_first_picture, self.is_running) = (false, true, false);
                self.shown.take(broken)?;
                Ok(Next::GoOn)
            }
            Ok(None) => {
                remark("\nthe session has been closed\n");
                Ok(Next::Gone)
            }
            Err(Failure::Call(status)) if status.code() == tonic::Code::NotFound => {
                (self.followed, self.is_running) = (None, false);
                self.shown.leave_turn()?;
                remark(&format!(
                    "session {} is not in the pool: the next prompt goes on with its conversation, \
                     or begins one\n",
                    one_line(&self.session_id)
                ));
                Ok(Next::GoOn)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn item(&mut self, response: WatchSessionResponse) -> Result<Next, Failure> {
        match &response.item {
            Some(Item::Phase(phase)) if *phase == i32::from(WatchPhase::Live) => {
                self.is_live = true;
            }
            Some(Item::Event(watched)) if !watched.turn_id.is_empty() => {
                let kind = watched.event.as_ref().and_then(|event| event.kind.as_ref());
                self.is_running = !matches!(kind, Some(Kind::Result(_)));
            }
            Some(Item::Failure(failure)) => {
                self.is_running = false;
                // Its own call may have told.
                if !self.told.insert(failure.turn_id.clone()) {
                    self.shown.leave_turn()?;
                    return Ok(Next::GoOn);
                }
            }
            Some(Item::Session(picture)) => {
                self.is_running = !picture.running_turn_id.is_empty();
                if std::mem::replace(&mut self.is_first_picture, false) {
                    return Ok(self.first_picture(picture).await);
                }
            }
            _ => {}
        }
        self.shown.take(Followed::Item(response.into()))?;
        Ok(Next::GoOn)
    }

    /// The session as it is found: what it asks may have been asked before.
    async fn first_picture(&mut self, picture: &Session) -> Next {
        if self.is_running && !self.shown.own.contains(&picture.running_turn_id) {
            remark(&format!("turn {} is running\n", one_line(&picture.running_turn_id)));
        }
        for id in self.shown.prompts.reconcile(&picture.open_prompts) {
            let mut service = self.service.clone();
            let found = timeout(FIND_LIMIT, find(&mut service, &self.session_id, &id));
            let found = tokio::select! {
                found = found => found,
                _ = self.signals.interrupt.recv() => return Next::Leave,
            };
            let open = picture.open_prompts.iter().find(|open| open.prompt_id == id);
            match (found, open) {
                (Ok(Ok(prompt)), _) => {
                    let kind = Some(Kind::Prompt(prompt));
                    self.shown.prompts.note(&TurnEvent { kind, ..TurnEvent::default() });
                }
                (_, Some(open)) => remark(&open_prompt(&self.session_id, open)),
                (_, None) => {}
            }
        }
        Next::GoOn
    }
}
