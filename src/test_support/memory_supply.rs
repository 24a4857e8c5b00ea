//! Hands out CLIs that are tasks, and counts them. A child of theirs is no process.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{duplex, split},
    sync::{Notify, watch},
    time::sleep,
};

use super::memory_cli::{MemoryCli, end_with};
use crate::{
    cli::{connection::Connection, cost::Meter, process::Child},
    domain::{
        exit::Exit,
        failure::{Cause, Failure},
        ids::{CliSessionId, ClientId, SessionKey},
        options::Options,
    },
    supply::{Contest, Lease, Leasing, Order, ProcessSlots, Shortage, SpareUse, Supply},
    tasks::spawn_owned,
};

/// Hands out CLIs in memory, and counts them.
#[derive(Debug)]
pub struct MemorySupply {
    /// Process slots.
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
    /// What CLIs were answered that had asked, the oldest first.
    pub answers: Arc<Mutex<Vec<Value>>>,
    /// Whether CLIs end only when they are killed.
    pub stubborn: Arc<AtomicBool>,
    /// Whether CLIs say which prompts they take up and answer.
    pub names_prompts: Arc<AtomicBool>,
    /// Whether children of CLIs that have ended hold their output open for a while, and what they
    /// print.
    pub orphan: Arc<Mutex<Option<Vec<Value>>>>,
    /// How long a look at the folders of a process takes.
    pub recheck_time: Mutex<Duration>,
    /// Whether the tasks that ask are to panic.
    panics: AtomicBool,
    /// Ends the newest CLI.
    killer: Arc<Mutex<Option<watch::Sender<Option<Exit>>>>>,
}

impl Default for MemorySupply {
    fn default() -> Self {
        Self::with_slots(usize::MAX)
    }
}

impl MemorySupply {
    /// Not more than so many CLIs at the same time: who comes then waits.
    pub fn with_slots(slots: usize) -> Self {
        Self {
            slots: ProcessSlots::new(slots, None),
            alive: Arc::default(),
            most_alive: Arc::default(),
            start_time: Mutex::default(),
            broken: Mutex::default(),
            heard: Arc::default(),
            die_at_prompt: Arc::default(),
            answers: Arc::default(),
            stubborn: Arc::default(),
            names_prompts: Arc::new(AtomicBool::new(true)),
            orphan: Arc::default(),
            recheck_time: Mutex::default(),
            panics: AtomicBool::new(false),
            killer: Arc::default(),
        }
    }

    /// Whoever asks for a CLI, or has one looked at, panics.
    pub fn panic_from_now_on(&self, panics: bool) {
        self.panics.store(panics, Ordering::SeqCst);
    }

    fn panic_if_told(&self) {
        assert!(!self.panics.load(Ordering::SeqCst), "told to");
    }

    /// Kills the newest CLI, if it lives.
    pub fn kill(&self) {
        if let Some(end) = &*self.killer.lock().expect("no panic") {
            end_with(end, Exit::Signal(9));
        }
    }

    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// The most that lived at the same time.
    pub fn most_alive(&self) -> usize {
        self.most_alive.load(Ordering::SeqCst)
    }

    /// What all conversations have heard.
    pub fn heard(&self) -> Vec<Vec<String>> {
        let mut heard: Vec<_> = self.heard.lock().expect("no panic").values().cloned().collect();
        heard.sort();
        heard
    }
}

impl Supply for MemorySupply {
    fn lease(&self, order: Order) -> Leasing {
        self.panic_if_told();
        let start_time = *self.start_time.lock().expect("no panic");
        let broken = *self.broken.lock().expect("no panic");
        let (alive, most_alive) = (Arc::clone(&self.alive), Arc::clone(&self.most_alive));
        let (heard, killer) = (Arc::clone(&self.heard), Arc::clone(&self.killer));
        let die_at_prompt = Arc::clone(&self.die_at_prompt);
        let answers = Arc::clone(&self.answers);
        let stubborn = Arc::clone(&self.stubborn);
        let names_prompts = Arc::clone(&self.names_prompts);
        let orphan = Arc::clone(&self.orphan);
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
            let (counted, gone) = watch::channel(false);
            *killer.lock().expect("no panic") = Some(end.clone());
            let child =
                MemoryChild { end: end.clone(), ended, stubborn: Arc::clone(&stubborn), gone };
            let system_prompt = order.options.system_prompt.unwrap_or_default();
            let cli = MemoryCli {
                id,
                system_prompt,
                heard,
                die_at_prompt,
                answers,
                stubborn,
                names_prompts,
                tasks: Mutex::default(),
                echoes: AtomicUsize::new(0),
                orphan,
                end,
            };
            drop(spawn_owned(async move {
                cli.live(theirs).await;
                alive.fetch_sub(1, Ordering::SeqCst);
                counted.send_replace(true);
            }));
            let mut connection = Connection::new(output, input, 1 << 20);
            connection.register_hooks(&order.options.hooks);
            Ok(Lease {
                client_id: ClientId::fresh(),
                cli_session_id: id,
                resumed,
                spare: SpareUse::NotKept,
                connect_time: start_time,
                connection,
                meter: Meter::default(),
                pass: None,
                outdated: false,
                child: Box::new(child),
                slot: Some(slot),
            })
        })
    }

    fn recheck(&self, _: &Options) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>> {
        self.panic_if_told();
        let time = *self.recheck_time.lock().expect("no panic");
        Box::pin(async move {
            sleep(time).await;
            Ok(())
        })
    }

    fn shortage(&self) -> Shortage {
        self.slots.shortage()
    }

    fn contests(&self) -> Vec<Contest> {
        self.slots.contests()
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

#[derive(Debug)]
struct MemoryChild {
    end: watch::Sender<Option<Exit>>,
    ended: watch::Receiver<Option<Exit>>,
    stubborn: Arc<AtomicBool>,
    /// Whether it is counted no longer.
    gone: watch::Receiver<bool>,
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
        if !self.stubborn.load(Ordering::SeqCst) {
            end_with(&self.end, Exit::Code(143));
        }
    }

    fn kill(&mut self) {
        end_with(&self.end, Exit::Signal(9));
    }

    fn sweep(&mut self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>> {
        Box::pin(async {
            self.gone.wait_for(|gone| *gone).await.ok();
            0
        })
    }

    fn stderr_tail(&self) -> String {
        "told to".into()
    }
}
