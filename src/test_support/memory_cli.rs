//! A CLI that is a task: it speaks the protocol over a pipe in memory and does what
//! each prompt tells it.
//!
//! A prompt is words: `ok` (two messages and a result), `slow MS` (the same with a pause
//! before each), `tool MS` (a tool call that takes so long), `late MS` (silent before its
//! first frame), `hang` (one message, then silence), `silent` (nothing at all), `retry
//! MS` (one retry every MS, for ever), `die`, `rubbish`, `deaf` (as `hang`, and interrupts
//! are not heard), `lose N` (as `hang`, and N interrupts are lost), `late MS lose N` (both), `mute-end` (idle
//! without a result), `background` (as `ok`, and then a turn that nobody asked for), `behind-own`
//! (such a turn first, as if it had begun just before, and then as `slow`),
//! `move` (as `ok`, and it goes on in another conversation), `ask` (as `ok`, and it asks `p`
//! whether a tool may run, and `q`, a question of an unknown kind, and waits for neither), `hook` (the same, where `p` is a hook that nobody has
//! registered), `ask-behind` (as `ok`, and then it asks `p` outside of a turn),
//! `untaken` (it is not even taken up), `shut MS` (it asks `p`, says one message, closes its output
//! and ends so much later), `much N` (N large entries of its transcript, one
//! after the other, and then as `ok`), `stop-late` (as `hang`, and an interrupt comes when it has
//! just said its last: it is heard by what comes next), `task MS` (as `ok`, and it leaves a task behind, named as the
//! number in the first word, that ends so much later and of which it then speaks in a turn that nobody asked for).
//!
//! What is said in mid-turn is taken up by that turn behind its tool, or else by the next, all of
//! it together. It says so in the words of the newest version, or of older ones that name nothing
//! but what they take up.

use std::{
    collections::{HashMap, VecDeque},
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
    time::{Instant, sleep},
};

use crate::domain::{exit::Exit, ids::CliSessionId};

mod script;
mod tasks;

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
    /// Whether it says which prompts it takes up and answers, as newer versions do.
    pub names_prompts: Arc<AtomicBool>,
    /// What works behind its turns: when each ends, and its id.
    pub tasks: Mutex<Vec<(Instant, String)>>,
    /// Tasks that have ended and of which it has not spoken in a turn of its own.
    pub echoes: AtomicUsize,
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

/// Something that was said to it: the words and their id.
type Message = (String, String);

fn message_of(line: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&line["message"]["content"]), text(&line["uuid"]))
}

/// A message that is taken up.
fn echo(words: &str, uuid: &str) -> Value {
    json!({"type": "user", "isReplay": true, "uuid": uuid,
        "message": {"role": "user", "content": words}})
}

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
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                if self.echoes.load(Ordering::SeqCst) > 0 {
                    self.echoes.fetch_sub(1, Ordering::SeqCst);
                    self.unasked(output).await;
                    continue;
                }
                let line = tokio::select! {
                    biased;
                    line = lines.recv() => line,
                    id = self.task_over() => {
                        self.end_task(&id, "completed", output).await;
                        continue;
                    }
                };
                let Some(line) = line else { return };
                if line["type"] == "control_request" {
                    self.answer(&line, output).await;
                    continue;
                }
                if line["type"] == "control_response" {
                    self.hear_answer(&line, output).await;
                    continue;
                }
                waiting.push_back(message_of(&line));
            }
            let together: Vec<Message> = waiting.drain(..).collect();
            let prompt = together[0].0.clone();
            let one_less = |count: usize| count.checked_sub(1);
            let count = &self.die_at_prompt;
            if count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                end_with(&self.end, Exit::Signal(9));
                return;
            }
            if prompt.ends_with("untaken") {
                std::future::pending::<()>().await;
            }
            self.hear(&together);
            if prompt.ends_with("behind-own") {
                self.unasked(output).await;
            }
            self.turn(&together, &mut waiting, lines, output).await;
            if prompt.ends_with("background") {
                // Whose turns nothing tells apart says why it begins one.
                if !self.names_prompts.load(Ordering::SeqCst) {
                    let ended = json!({"type": "system", "subtype": "task_notification",
                        "task_id": "unknown", "status": "completed"});
                    print(output, &ended).await;
                }
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
        if request["request"]["subtype"] == "stop_task" {
            let task = request["request"]["task_id"].as_str().unwrap_or_default();
            self.end_task(task, "killed", output).await;
        }
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

    /// The model is told of this.
    fn hear(&self, messages: &[Message]) {
        let mut heard = self.heard.lock().expect("no panic");
        let words = messages.iter().map(|(words, _)| words.clone());
        heard.entry(self.id).or_default().extend(words);
    }

    /// Says what it takes up: each by itself, or all of them together.
    async fn take_up(&self, messages: &[Message], together: bool, output: &mut Output) {
        let names = self.names_prompts.load(Ordering::SeqCst);
        let alone = if together { messages.len() - 1 } else { messages.len() };
        for (words, uuid) in &messages[..alone] {
            print(output, &echo(words, uuid)).await;
        }
        for (_, uuid) in messages.iter().filter(|_| names) {
            let started =
                json!({"type": "command_lifecycle", "command_uuid": uuid, "state": "started"});
            print(output, &started).await;
        }
        if let (true, Some((_, last))) = (together && !(names && alone == 0), messages.last()) {
            let words: Vec<&str> = messages.iter().map(|(words, _)| words.as_str()).collect();
            print(output, &echo(&words.join("\n"), last)).await;
        }
    }

    /// Prints a frame of a turn. Returns the ids of what is taken up behind it.
    async fn say(
        &self,
        frame: &Value,
        waiting: &mut VecDeque<Message>,
        output: &mut Output,
    ) -> Vec<String> {
        print(output, frame).await;
        if let Some(lasts) = frame["lasts"].as_u64() {
            let end = Instant::now() + Duration::from_millis(lasts);
            let id = frame["task_id"].as_str().unwrap_or_default().to_owned();
            self.tasks.lock().expect("no panic").push((end, id));
        }
        if frame["message"]["content"][0]["type"] != "tool_result" {
            return Vec::new();
        }
        let messages: Vec<Message> = waiting.drain(..).collect();
        self.hear(&messages);
        self.take_up(&messages, false, output).await;
        messages.into_iter().map(|(_, uuid)| uuid).collect()
    }

    async fn state(&self, state: &str, output: &mut Output) {
        let frame = json!({"type": "system", "subtype": "session_state_changed", "state": state});
        print(output, &frame).await;
    }

    async fn turn(
        &self,
        together: &[Message],
        waiting: &mut VecDeque<Message>,
        lines: &mut mpsc::Receiver<Value>,
        output: &mut Output,
    ) {
        let prompt = together[0].0.as_str();
        let mut answered: Vec<String> = together.iter().map(|(_, uuid)| uuid.clone()).collect();
        self.take_up(together, true, output).await;
        let mut lost = match prompt.split_once("lose ") {
            Some((_, count)) => count.parse().unwrap_or(0),
            None if prompt.contains("deaf") => usize::MAX,
            None => 0,
        };
        let mut late = None;
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
                        if line["type"] == "user" {
                            waiting.push_back(message_of(&line));
                        }
                        if line["type"] != "control_request" {
                            continue;
                        }
                        if prompt.contains("stop-late") && line["request"]["subtype"] == "interrupt" {
                            late = Some(line);
                            break TurnEnd::Result;
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
                    Some(frame) = to_print.recv() => {
                        answered.extend(self.say(&frame, waiting, output).await);
                    }
                    id = self.task_over() => self.end_task(&id, "completed", output).await,
                    end = &mut script => {
                        while let Ok(frame) = to_print.try_recv() {
                            answered.extend(self.say(&frame, waiting, output).await);
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
                // Who is dead takes up nothing that waits.
                return std::future::pending().await;
            }
            TurnEnd::Shut(pause) => {
                output.shutdown().await.ok();
                sleep(pause).await;
                end_with(&self.end, Exit::Code(3));
                return std::future::pending().await;
            }
            TurnEnd::Mute => return self.state("idle", output).await,
            TurnEnd::Result | TurnEnd::Aborted => {
                let reason = if aborted { "aborted_streaming" } else { "completed" };
                let mut result = json!({"is_error": aborted, "terminal_reason": reason,
                    "result": prompt, "type": "result"});
                if self.names_prompts.load(Ordering::SeqCst) {
                    result["user_message_uuid"] = json!(answered[0]);
                    result["user_message_uuids"] = json!(answered);
                }
                print(output, &result).await;
            }
        }
        if let (Some(late), false) = (&late, waiting.is_empty()) {
            let messages: Vec<Message> = waiting.drain(..).collect();
            self.hear(&messages);
            self.take_up(&messages, true, output).await;
            self.answer(late, output).await;
            let uuids: Vec<&String> = messages.iter().map(|(_, uuid)| uuid).collect();
            let result = json!({"is_error": true, "terminal_reason": "aborted_streaming",
                "user_message_uuid": uuids[0], "user_message_uuids": uuids, "type": "result"});
            print(output, &result).await;
        }
        if waiting.is_empty() {
            self.state("idle", output).await;
        }
    }
}
