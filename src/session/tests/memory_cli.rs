//! A CLI that is a task: it speaks the protocol over a pipe in memory and does what
//! each prompt tells it. Its child is no process.
//!
//! A prompt is words: `ok` (two messages and a result), `slow MS` (the same with a pause
//! before each), `tool MS` (a tool call that takes so long), `late MS` (silent before its
//! first frame), `hang` (one message, then silence), `silent` (nothing at all), `retry
//! MS` (one retry every MS, for ever), `die`, `rubbish`, `deaf` (as `hang`, and interrupts
//! are not heard), `lose N` (as `hang`, and N interrupts are lost), `mute-end` (idle
//! without a result), `background` (as `ok`, and then a turn that nobody asked for),
//! `untaken` (it is not even taken up), `much N` (N large entries of its transcript, one
//! after the other, and then as `ok`).

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, WriteHalf, duplex, split,
    },
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use crate::{
    cli::{connection::Connection, cost::Meter, process::Child},
    domain::{
        exit::Exit,
        failure::{Cause, Failure},
        ids::{CliSessionId, ClientId, SessionKey},
    },
    supply::{Lease, Leasing, Order, ProcessSlots, Shortage, SpareUse, Supply},
    tasks::spawn_owned,
};

/// Bytes of a large entry: a little less than a frame may have.
const LARGE: usize = 900_000;

/// Hands out CLIs in memory, and counts them.
#[derive(Debug)]
pub struct MemorySupply {
    /// Slots for the CLIs.
    slots: ProcessSlots,
    /// CLIs that live.
    pub alive: Arc<AtomicUsize>,
    /// The most that lived at the same time.
    pub most_alive: Arc<AtomicUsize>,
    /// How long a start takes.
    pub start_time: Mutex<Duration>,
    /// Whether starts fail.
    pub broken: Mutex<bool>,
    /// What the conversations have heard, by their id.
    pub heard: Arc<Mutex<HashMap<CliSessionId, Vec<String>>>>,
    /// CLIs that are to die when they read a prompt, before they take it up.
    pub die_at_prompt: Arc<AtomicUsize>,
    /// Ends the newest CLI.
    killer: Arc<Mutex<Option<watch::Sender<Option<Exit>>>>>,
}

impl Default for MemorySupply {
    fn default() -> Self {
        Self {
            slots: ProcessSlots::new(usize::MAX, None),
            alive: Arc::default(),
            most_alive: Arc::default(),
            start_time: Mutex::default(),
            broken: Mutex::default(),
            heard: Arc::default(),
            die_at_prompt: Arc::default(),
            killer: Arc::default(),
        }
    }
}

impl MemorySupply {
    /// Kills the newest CLI, if it lives.
    pub fn kill(&self) {
        if let Some(end) = &*self.killer.lock().expect("no panic") {
            end_with(end, Exit::Signal(9));
        }
    }

    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

impl Supply for MemorySupply {
    fn lease(&self, order: Order) -> Leasing {
        let start_time = *self.start_time.lock().expect("no panic");
        let broken = *self.broken.lock().expect("no panic");
        let (alive, most_alive) = (Arc::clone(&self.alive), Arc::clone(&self.most_alive));
        let (heard, killer) = (Arc::clone(&self.heard), Arc::clone(&self.killer));
        let die_at_prompt = Arc::clone(&self.die_at_prompt);
        let slots = self.slots.clone();
        Box::pin(async move {
            let start = async {
                let slot = slots.take(&order.session.tenant).await;
                sleep(start_time).await;
                slot
            };
            let slot = tokio::select! {
                slot = start => slot,
                () = order.cancelled.cancelled() => return Err(Cause::TurnInterrupted.into()),
            };
            if broken {
                return Err(Failure::from(Cause::ConnectFailed {
                    detail: "told to".into(),
                    exit: None,
                    stderr_tail: String::new(),
                }));
            }
            let now = alive.fetch_add(1, Ordering::SeqCst) + 1;
            most_alive.fetch_max(now, Ordering::SeqCst);
            let id = order.conversation.id();
            let resumed = heard.lock().expect("no panic").contains_key(&id);
            let (ours, theirs) = duplex(1 << 20);
            let (output, input) = split(ours);
            let (end, ended) = watch::channel(None);
            *killer.lock().expect("no panic") = Some(end.clone());
            let child = MemoryChild { end: end.clone(), ended };
            let system_prompt = order.options.system_prompt.unwrap_or_default();
            let cli = MemoryCli { id, system_prompt, heard, die_at_prompt, end: end.clone() };
            drop(spawn_owned(async move {
                cli.live(theirs).await;
                alive.fetch_sub(1, Ordering::SeqCst);
            }));
            Ok(Lease {
                client_id: ClientId::fresh(),
                cli_session_id: id,
                resumed,
                spare: SpareUse::NotKept,
                connect_time: start_time,
                connection: Connection::new(output, input, 1 << 20),
                meter: Meter::default(),
                outdated: false,
                child: Box::new(child),
                slot: Some(slot),
            })
        })
    }

    fn shortage(&self) -> Shortage {
        self.slots.shortage()
    }

    fn joined(&self) -> Arc<Notify> {
        self.slots.joined()
    }

    fn forget(
        &self,
        _: &SessionKey,
        conversations: &[CliSessionId],
    ) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> {
        let mut heard = self.heard.lock().expect("no panic");
        conversations.iter().for_each(|id| drop(heard.remove(id)));
        drop(heard);
        Box::pin(async { Ok(()) })
    }
}

/// Only the first end counts.
fn end_with(end: &watch::Sender<Option<Exit>>, exit: Exit) {
    end.send_if_modified(|current| current.replace(current.unwrap_or(exit)).is_none());
}

#[derive(Debug)]
struct MemoryChild {
    end: watch::Sender<Option<Exit>>,
    ended: watch::Receiver<Option<Exit>>,
}

impl Child for MemoryChild {
    fn id(&self) -> u32 {
        1
    }

    fn wait(&mut self) -> Pin<Box<dyn Future<Output = Exit> + Send + '_>> {
        Box::pin(async {
            let exit = self.ended.wait_for(Option::is_some).await.map(|exit| *exit);
            exit.ok().flatten().unwrap_or(Exit::Unknown)
        })
    }

    fn terminate(&mut self) {
        end_with(&self.end, Exit::Code(143));
    }

    fn kill(&mut self) {
        end_with(&self.end, Exit::Signal(9));
    }

    fn sweep(&mut self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>> {
        Box::pin(async { 0 })
    }

    fn stderr_tail(&self) -> String {
        "told to".into()
    }
}

struct MemoryCli {
    id: CliSessionId,
    /// It is in every message, so that a test sees which process answered.
    system_prompt: String,
    heard: Arc<Mutex<HashMap<CliSessionId, Vec<String>>>>,
    die_at_prompt: Arc<AtomicUsize>,
    end: watch::Sender<Option<Exit>>,
}

/// How a turn of the CLI ended.
enum TurnEnd {
    Result,
    Aborted,
    Mute,
    Dead,
}

type Output = WriteHalf<DuplexStream>;

async fn print(output: &mut Output, frame: &Value) {
    // Who does not read any more does not miss it.
    output.write_all(format!("{frame}\n").as_bytes()).await.ok();
}

impl MemoryCli {
    /// Lives until its input ends or something ends it.
    async fn live(self, pipe: DuplexStream) {
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
            () = async { tokio::join!(reader, self.serve(&mut lines, &mut output)); } => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
        end_with(&self.end, Exit::Code(0));
    }

    async fn serve(&self, lines: &mut mpsc::Receiver<Value>, output: &mut Output) {
        while let Some(line) = lines.recv().await {
            if line["type"] == "control_request" {
                self.answer(&line, output).await;
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
            self.turn(&prompt, &uuid, lines, output).await;
            if prompt.ends_with("background") {
                self.unasked(output).await;
            }
        }
    }

    /// A model called `mute` gets no answer, one called `fatal` ends it, a permission mode called `refused` an error.
    async fn answer(&self, request: &Value, output: &mut Output) {
        let id = &request["request_id"];
        let body = match (&request["request"]["model"], &request["request"]["mode"]) {
            (model, _) if model == "mute" => return,
            (model, _) if model == "fatal" => return end_with(&self.end, Exit::Signal(9)),
            (_, mode) if mode == "refused" => {
                json!({"subtype": "error", "request_id": id, "error": "no such mode"})
            }
            _ => json!({"subtype": "success", "request_id": id, "response": {}}),
        };
        print(output, &json!({"type": "control_response", "response": body})).await;
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
            if behaviour == "slow" {
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
