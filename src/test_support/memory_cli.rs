//! A CLI that is a task: it speaks the protocol over a pipe in memory and does what
//! each prompt tells it.
//!
//! A prompt is words: `ok` (two messages and a result), `slow MS` (the same with a pause
//! before each), `tool MS` (a tool call that takes so long), `late MS` (silent before its
//! first frame), `hang` (one message, then silence), `silent` (nothing at all), `retry
//! MS` (one retry every MS, for ever), `die`, `rubbish`, `deaf` (as `hang`, and interrupts
//! are not heard), `lose N` (as `hang`, and N interrupts are lost), `mute-end` (idle
//! without a result), `background` (as `ok`, and then a turn that nobody asked for), `behind-own`
//! (such a turn first, as if it had begun just before, and then as `slow`),
//! `move` (as `ok`, and it goes on in another conversation), `ask` (as `ok`, and it asks `p`
//! whether a tool may run, and `q`, a question of an unknown kind, and waits for neither), `hook` (the same, where `p` is a hook that nobody has
//! registered), `ask-behind` (as `ok`, and then it asks `p` outside of a turn),
//! `untaken` (it is not even taken up), `shut MS` (it asks `p`, says one message, closes its output
//! and ends so much later), `much N` (N large entries of its transcript, one
//! after the other, and then as `ok`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, WriteHalf, split},
    sync::{mpsc, watch},
    time::sleep,
};

use crate::domain::{exit::Exit, ids::CliSessionId};

/// Bytes of a large entry: a little less than a frame may have.
const LARGE: usize = 900_000;

/// How long the child of a CLI is silent, and then holds the output open.
const ORPHAN_SILENT: Duration = Duration::from_millis(50);
const ORPHAN_LIVES: Duration = Duration::from_secs(1);

/// Only the first end counts.
pub(super) fn end_with(end: &watch::Sender<Option<Exit>>, exit: Exit) {
    end.send_if_modified(|current| current.replace(current.unwrap_or(exit)).is_none());
}

/// A CLI and what it shares with the supply that it comes from.
pub(super) struct MemoryCli {
    pub id: CliSessionId,
    /// It is in every message, so that a test sees which process answered.
    pub system_prompt: String,
    pub heard: Arc<Mutex<HashMap<CliSessionId, Vec<String>>>>,
    pub die_at_prompt: Arc<AtomicUsize>,
    /// What it was answered.
    pub answers: Arc<Mutex<Vec<Value>>>,
    /// Whether it ends only when it is killed.
    pub stubborn: Arc<AtomicBool>,
    /// What a child of its own prints that holds its output open when it has ended.
    pub orphan: Arc<Mutex<Option<Vec<Value>>>>,
    pub end: watch::Sender<Option<Exit>>,
}

/// How a turn of the CLI ended.
enum TurnEnd {
    Result,
    Aborted,
    Mute,
    Dead,
    Shut(Duration),
}

type Output = WriteHalf<DuplexStream>;

async fn print(output: &mut Output, frame: &Value) {
    // Who does not read any more does not miss it.
    output.write_all(format!("{frame}\n").as_bytes()).await.ok();
}

/// A request of the CLI.
fn asks(id: &str, subtype: &str) -> Value {
    let request = json!({"subtype": subtype, "tool_name": "Bash", "input": {"command": "x"},
        "callback_id": "0 PreToolUse 5000 Bash"});
    json!({"type": "control_request", "request_id": id, "request": request})
}

impl MemoryCli {
    /// Lives until its input ends or something ends it.
    pub async fn live(self, pipe: DuplexStream) {
        let (input, mut output) = split(pipe);
        let (inbox, mut lines) = mpsc::channel::<Value>(64);
        let reader = async move {
            let mut input = BufReader::new(input).lines();
            while let Ok(Some(line)) = input.next_line().await {
                let line = serde_json::from_str(&line).expect("the pool writes JSON");
                if inbox.send(line).await.is_err() {
                    break;
                }
            }
        };
        let mut ended = self.end.subscribe();
        tokio::select! {
            () = async {
                tokio::join!(reader, self.serve(&mut lines, &mut output));
                if self.stubborn.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
            } => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
        let orphan = self.orphan.lock().expect("no panic").clone();
        if let Some(frames) = orphan {
            sleep(ORPHAN_SILENT).await;
            for frame in &frames {
                print(&mut output, frame).await;
            }
            sleep(ORPHAN_LIVES).await;
        }
        end_with(&self.end, Exit::Code(0));
    }

    async fn serve(&self, lines: &mut mpsc::Receiver<Value>, output: &mut Output) {
        while let Some(line) = lines.recv().await {
            if line["type"] == "control_request" {
                self.answer(&line, output).await;
                continue;
            }
            if line["type"] == "control_response" {
                self.hear_answer(&line, output).await;
                continue;
            }
            let prompt = line["message"]["content"].as_str().unwrap_or_default().to_owned();
            let one_less = |count: usize| count.checked_sub(1);
            let count = &self.die_at_prompt;
            if count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                end_with(&self.end, Exit::Signal(9));
                return;
            }
            if prompt.ends_with("untaken") {
                std::future::pending::<()>().await;
            }
            let uuid = line["uuid"].as_str().unwrap_or_default().to_owned();
            let mut heard =
                self.heard.lock().expect("no panic").remove(&self.id).unwrap_or_default();
            heard.push(prompt.clone());
            self.heard.lock().expect("no panic").insert(self.id, heard);
            if prompt.ends_with("behind-own") {
                self.unasked(output).await;
            }
            self.turn(&prompt, &uuid, lines, output).await;
            if prompt.ends_with("background") {
                self.unasked(output).await;
            }
            if prompt.ends_with("ask-behind") {
                sleep(Duration::from_millis(5)).await;
                print(output, &asks("p", "can_use_tool")).await;
            }
        }
    }

    /// A model called `mute` gets no answer, one called `fatal` ends it, a permission mode called
    /// `refused` an error, and one called `refused-late` the same after three seconds.
    async fn answer(&self, request: &Value, output: &mut Output) {
        let id = &request["request_id"];
        let body = match (&request["request"]["model"], &request["request"]["mode"]) {
            (model, _) if model == "mute" => return,
            (model, _) if model == "fatal" => return end_with(&self.end, Exit::Signal(9)),
            (_, mode) if mode == "refused" || mode == "refused-late" => {
                if mode == "refused-late" {
                    sleep(Duration::from_secs(3)).await;
                }
                json!({"subtype": "error", "request_id": id, "error": "no such mode"})
            }
            _ => json!({"subtype": "success", "request_id": id, "response": {}}),
        };
        print(output, &json!({"type": "control_response", "response": body})).await;
    }

    /// Takes note of the answer to what it asked. One that is `{"cancel":true}` makes it withdraw
    /// `p`.
    async fn hear_answer(&self, answer: &Value, output: &mut Output) {
        let answer = answer["response"].clone();
        if answer["response"]["cancel"] == true {
            print(output, &json!({"type": "control_cancel_request", "request_id": "p"})).await;
        }
        self.answers.lock().expect("no panic").push(answer);
    }

    async fn state(&self, state: &str, output: &mut Output) {
        let frame = json!({"type": "system", "subtype": "session_state_changed", "state": state});
        print(output, &frame).await;
    }

    async fn turn(
        &self,
        prompt: &str,
        uuid: &str,
        lines: &mut mpsc::Receiver<Value>,
        output: &mut Output,
    ) {
        let started =
            json!({"type": "command_lifecycle", "command_uuid": uuid, "state": "started"});
        print(output, &started).await;
        let mut lost = match prompt.split_once("lose ") {
            Some((_, count)) => count.parse().unwrap_or(0),
            None if prompt.contains("deaf") => usize::MAX,
            None => 0,
        };
        let end = {
            let (frames, mut to_print) = mpsc::channel(16);
            let mut script = std::pin::pin!(self.script(prompt, frames));
            loop {
                tokio::select! {
                    biased;
                    Some(line) = lines.recv() => {
                        if line["type"] == "control_response" {
                            self.hear_answer(&line, output).await;
                        }
                        if line["type"] != "control_request" {
                            continue;
                        }
                        if lost == usize::MAX {
                            continue;
                        }
                        self.answer(&line, output).await;
                        if line["request"]["subtype"] == "interrupt" {
                            if lost == 0 {
                                break TurnEnd::Aborted;
                            }
                            lost -= 1;
                        }
                    }
                    Some(frame) = to_print.recv() => print(output, &frame).await,
                    end = &mut script => {
                        while let Ok(frame) = to_print.try_recv() {
                            print(output, &frame).await;
                        }
                        break end;
                    }
                }
            }
        };
        let aborted = matches!(end, TurnEnd::Aborted);
        match end {
            TurnEnd::Dead => {
                end_with(&self.end, Exit::Code(3));
                return;
            }
            TurnEnd::Shut(pause) => {
                output.shutdown().await.ok();
                sleep(pause).await;
                end_with(&self.end, Exit::Code(3));
                return;
            }
            TurnEnd::Mute => {}
            TurnEnd::Result | TurnEnd::Aborted => {
                let reason = if aborted { "aborted_streaming" } else { "completed" };
                let result = json!({"is_error": aborted, "terminal_reason": reason,
                    "result": prompt, "user_message_uuid": uuid, "type": "result"});
                print(output, &result).await;
            }
        }
        self.state("idle", output).await;
    }

    /// The frames of a turn, each with its prompt in it.
    async fn script(&self, prompt: &str, frames: mpsc::Sender<Value>) -> TurnEnd {
        let words: Vec<&str> = prompt.split_whitespace().collect();
        let behaviour = words.get(1).copied().unwrap_or("ok");
        let pause = words.get(2).and_then(|text| text.parse().ok()).unwrap_or(0);
        let pause = Duration::from_millis(pause);
        let say = |frame: Value| {
            let frames = frames.clone();
            async move { frames.send(frame).await.ok() }
        };
        let message = |n: usize| {
            json!({"type": "assistant", "message":
                {"content": [{"type": "text", "text": format!("{prompt} #{n} {}", self.system_prompt)}]}})
        };
        match behaviour {
            "silent" => std::future::pending().await,
            "late" => sleep(pause).await,
            _ => {}
        }
        say(json!({"type": "system", "subtype": "session_state_changed", "state": "running"}))
            .await;
        say(json!({"type": "system", "subtype": "init", "session_id": self.id.to_string()})).await;
        match behaviour {
            "die" => return TurnEnd::Dead,
            "mute-end" => return TurnEnd::Mute,
            "shut" => {
                say(asks("p", "can_use_tool")).await;
                say(message(1)).await;
                return TurnEnd::Shut(pause);
            }
            "rubbish" => {
                say(json!("not an object")).await;
            }
            "hang" | "deaf" | "lose" => {
                say(message(1)).await;
                std::future::pending().await
            }
            "much" => {
                for n in 0..pause.as_millis() {
                    let entry = json!({"uuid": format!("{prompt} {n}"), "text": "x".repeat(LARGE)});
                    let path = format!("/p/{}.jsonl", self.id);
                    say(json!({"type": "transcript_mirror", "filePath": path, "entries": [entry]}))
                        .await;
                }
            }
            "move" => {
                let moved = CliSessionId::fresh().to_string();
                say(json!({"type": "conversation_reset", "new_conversation_id": moved})).await;
            }
            "ask" | "hook" => {
                let subtype = if behaviour == "ask" { "can_use_tool" } else { "hook_callback" };
                say(asks("p", subtype)).await;
                say(asks("q", "news")).await;
            }
            "retry" => loop {
                say(json!({"type": "system", "subtype": "api_retry", "attempt": 1})).await;
                sleep(pause).await;
            },
            "tool" => {
                say(json!({"type": "assistant", "message": {"content":
                    [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]}}))
                .await;
                sleep(pause).await;
                say(json!({"type": "user", "message": {"content":
                    [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]}}))
                .await;
            }
            _ => {}
        }
        for n in 1..=2 {
            if behaviour == "slow" || prompt.ends_with("behind-own") {
                sleep(pause).await;
            }
            say(message(n)).await;
        }
        TurnEnd::Result
    }

    /// A turn that nobody asked for.
    async fn unasked(&self, output: &mut Output) {
        sleep(Duration::from_millis(5)).await;
        self.state("running", output).await;
        let init = json!({"type": "system", "subtype": "init", "session_id": self.id.to_string()});
        print(output, &init).await;
        let text = json!({"type": "assistant", "message":
            {"content": [{"type": "text", "text": "unasked"}]}});
        print(output, &text).await;
        let result = json!({"type": "result", "is_error": false, "result": "unasked",
            "origin": {"kind": "task-notification"}});
        print(output, &result).await;
        self.state("idle", output).await;
    }
}
