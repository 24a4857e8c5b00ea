//! Random commands, behaviours of the CLI, pauses and deaths against what must always
//! hold: sequence numbers have no gaps, each event belongs to its own turn, each Query
//! ends exactly once, a prompt is heard at most once, a result is kept when it is told, an
//! interrupt is answered whatever the store does, a turn runs with the options that
//! it asked for, no session has two processes, and none is left at the end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Seen, Session,
    gated_store::{Gate, GatedStore, has_turn},
    read, request, settings,
};
use crate::{
    domain::{decision::Decision, ids::TurnId, input::Input, options::Options},
    session::{
        BusyPolicy, CloseReason, DisconnectPolicy, InterruptTarget, MismatchPolicy, Refusal,
        Settings, TurnRequest,
    },
    tasks::spawn_owned,
    turn::{event::Class, listener::Listener},
};

/// One step of somebody.
#[derive(Debug, Clone)]
enum Step {
    Query {
        behaviour: &'static str,
        busy: u8,
        stays: bool,
    },
    /// A Query with a system prompt of its own, which may need another process.
    Optioned(bool),
    /// The last Query again, under the same turn id.
    Retry,
    /// A change of model that is accepted, refused or not answered.
    Update(&'static str, Option<&'static str>),
    /// From here on a start takes so long.
    StartTime(u64),
    /// As `Query`, by a caller that leaves at once.
    Passing(&'static str, bool),
    /// Of the running turn, keeping the session or not.
    Interrupt(bool),
    /// Of the turn that was asked for so many Queries ago.
    InterruptTurn(usize),
    Attach,
    Cleanup,
    Kill,
    /// The next CLIs that read a prompt die without a word.
    DieAtPrompt(usize),
    /// From here on the store is so.
    Store(Gate),
    /// From here on what is read from the store waits, or does not.
    Reads(bool),
    /// From here on CLIs end only when they are killed, or by themselves.
    Stubborn(bool),
    /// From here on a look at the folders of a process takes so long.
    Recheck(u64),
    /// An answer to what a CLI has asked.
    Respond,
    Pause(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let behaviour = || {
        prop::sample::select(vec![
            "ok",
            "ok",
            "slow 40",
            "late 900",
            "hang",
            "silent",
            "die",
            "deaf",
            "lose 2",
            "rubbish",
            "mute-end",
            "tool 5000",
            "retry 700",
            "background",
            "ask",
            "move",
        ])
    };
    prop_oneof![
        6 => (behaviour(), 0u8..3, any::<bool>())
            .prop_map(|(behaviour, busy, stays)| Step::Query { behaviour, busy, stays }),
        2 => (behaviour(), any::<bool>())
            .prop_map(|(behaviour, goes_on)| Step::Passing(behaviour, goes_on)),
        3 => prop::sample::select(vec![true, true, false]).prop_map(Step::Interrupt),
        2 => (0usize..4).prop_map(Step::InterruptTurn),
        1 => Just(Step::Attach),
        2 => any::<bool>().prop_map(Step::Optioned),
        2 => Just(Step::Retry),
        1 => (prop::sample::select(vec!["m1", "m2", "mute"]), prop::option::of(Just("refused")))
            .prop_map(|(model, mode)| Step::Update(model, mode)),
        1 => prop::sample::select(vec![0, 50, 4000]).prop_map(Step::StartTime),
        1 => Just(Step::Cleanup),
        1 => Just(Step::Kill),
        1 => (1usize..4).prop_map(Step::DieAtPrompt),
        2 => prop::sample::select(vec![Gate::Open, Gate::Open, Gate::Locked, Gate::Broken])
            .prop_map(Step::Store),
        1 => prop::sample::select(vec![true, false, false]).prop_map(Step::Reads),
        1 => any::<bool>().prop_map(Step::Stubborn),
        1 => prop::sample::select(vec![0, 0, 2000]).prop_map(Step::Recheck),
        1 => Just(Step::Respond),
        4 => prop::sample::select(vec![0, 1, 30, 200, 3000, 90_000]).prop_map(Step::Pause),
    ]
}

/// Ended turns are kept to the end: one that is not kept any more would rightly run again.
fn limits() -> Settings {
    Settings { turn_retention: Duration::from_secs(86_400), ..settings() }
}

/// What is known of a turn: its prompt, and what its caller saw.
type Turn = (String, JoinHandle<Seen>);

/// An interrupt may take so long, whatever the store does: its own bound and the steps of ending
/// a process, for which it may have to wait twice.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// Reads a turn that was asked for under a name. One with a result is kept when it is told.
async fn read_kept(listener: Listener, store: Arc<GatedStore>, turn: TurnId) -> Seen {
    let seen = read(listener).await;
    if seen.end.is_ok() {
        assert!(has_turn(&store, &turn).await, "told before it was kept: {seen:?}");
    }
    seen
}

struct Play {
    session: Session,
    turns: Vec<Turn>,
    joined: Vec<JoinHandle<Seen>>,
    waiting: Vec<JoinHandle<()>>,
    last: Option<(TurnRequest, String)>,
    count: usize,
}

impl Play {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Query { behaviour, busy, stays } => {
                let goes_on = !stays;
                if let Some((prompt, listener)) = self.query(behaviour, busy, goes_on).await {
                    self.watch(prompt, listener);
                }
            }
            Step::Optioned(restart) => {
                let mut asked = self.ask("ok");
                asked.options.system_prompt = Some(format!("sp={}.", self.count));
                if restart {
                    asked.on_mismatch = MismatchPolicy::Restart;
                }
                if let Some((prompt, listener)) = self.send(asked).await {
                    let prompt = format!("{prompt} sp={}.", self.count);
                    self.watch(prompt, listener);
                }
            }
            Step::Retry => {
                let Some((asked, prompt)) = self.last.clone() else { return };
                if let Ok(listener) = self.session.handle.run(asked).await {
                    self.watch(prompt, listener);
                }
            }
            Step::Update(model, mode) => {
                let handle = self.session.handle.clone();
                let options = Options {
                    model: Some(model.into()),
                    permission_mode: mode.map(str::to_owned),
                    ..Options::default()
                };
                self.waiting.push(spawn_owned(async move {
                    drop(handle.update(options).await);
                }));
            }
            Step::StartTime(ms) => {
                *self.session.supply.start_time.lock().expect("no panic") =
                    Duration::from_millis(ms);
            }
            Step::Passing(behaviour, goes_on) => {
                drop(self.query(behaviour, 0, goes_on).await);
            }
            Step::Interrupt(keep) => self.stop(None, keep),
            Step::InterruptTurn(back) => {
                let turn = TurnId::parse(&format!("t{}", self.count.saturating_sub(back)));
                self.stop(turn.ok(), false);
            }
            Step::Attach => {
                if let Ok(listener) = self.session.join().await {
                    self.joined.push(spawn_owned(read(listener)));
                }
            }
            Step::Cleanup => {
                let handle = self.session.handle.clone();
                self.waiting.push(spawn_owned(async move {
                    drop(handle.close(CloseReason::Idle).await);
                }));
            }
            Step::Kill => self.session.supply.kill(),
            Step::DieAtPrompt(count) => {
                self.session.supply.die_at_prompt.store(count, Ordering::SeqCst);
            }
            Step::Store(gate) => self.session.store.set(gate),
            Step::Reads(wait) => self.session.store.let_reads_wait(wait),
            Step::Stubborn(stubborn) => {
                self.session.supply.stubborn.store(stubborn, Ordering::SeqCst);
            }
            Step::Recheck(ms) => {
                *self.session.supply.recheck_time.lock().expect("no panic") =
                    Duration::from_millis(ms);
            }
            Step::Respond => {
                let handle = self.session.handle.clone();
                self.waiting.push(spawn_owned(async move {
                    let answer = Decision::Raw("{}".into());
                    drop(handle.respond("p".into(), answer).await);
                }));
            }
            Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
        }
    }

    fn stop(&mut self, turn: Option<TurnId>, keep: bool) {
        let handle = self.session.handle.clone();
        self.waiting.push(spawn_owned(async move {
            let began = Instant::now();
            // A session that has left is no error here.
            let target = turn.map_or(InterruptTarget::Running, InterruptTarget::Named);
            let stopped = handle.stop(target, keep).await;
            let took = began.elapsed();
            assert!(stopped.is_err() || took < STOP_LIMIT, "{stopped:?} took {took:?}");
        }));
    }

    /// Reads the turn that was asked for last.
    fn watch(&mut self, prompt: String, listener: Listener) {
        let asked = self.last.as_ref().and_then(|(asked, _)| asked.turn_id.clone());
        let (store, turn) = (Arc::clone(&self.session.store), asked.expect("it has a name"));
        self.turns.push((prompt, spawn_owned(read_kept(listener, store, turn))));
    }

    async fn query(
        &mut self,
        behaviour: &str,
        busy: u8,
        goes_on: bool,
    ) -> Option<(String, Listener)> {
        let mut asked = self.ask(behaviour);
        asked.on_busy =
            [BusyPolicy::Queue, BusyPolicy::Reject, BusyPolicy::Interrupt][busy as usize];
        if goes_on {
            asked.on_disconnect = DisconnectPolicy::Continue;
        }
        self.send(asked).await
    }

    /// A request with a prompt and a turn id of its own.
    fn ask(&mut self, behaviour: &str) -> TurnRequest {
        self.count += 1;
        let mut asked = request(&format!("<{}> {behaviour}", self.count));
        asked.turn_id = TurnId::parse(&format!("t{}", self.count)).ok();
        asked
    }

    async fn send(&mut self, asked: TurnRequest) -> Option<(String, Listener)> {
        let Input::Text(prompt) = &*asked.input else { panic!("not a text") };
        let prompt = prompt.clone();
        self.last = Some((asked.clone(), prompt.clone()));
        match self.session.handle.run(asked).await {
            Ok(listener) => Some((prompt, listener)),
            Err(Refusal::Failed(_)) => None,
            Err(Refusal::Closed) => {
                // As the pool does: it waits for the end and makes another.
                self.session.handle.ended().await;
                let old = std::mem::replace(&mut self.session, Session::start(limits()));
                assert_eq!(old.supply.alive(), 0, "a session ended before its process");
                heard_once(&old);
                self.last = None;
                None
            }
        }
    }

    async fn finish(self) -> (Vec<(String, Seen)>, Vec<Seen>) {
        self.session.store.set(Gate::Open);
        self.session.store.let_reads_wait(false);
        // Every watchdog has bitten by then.
        sleep(Duration::from_secs(4000)).await;
        drop(self.session.handle.close(CloseReason::Requested { forget: false }).await);
        self.session.handle.ended().await;
        let supply = &self.session.supply;
        assert_eq!(supply.alive(), 0, "a process without a session");
        heard_once(&self.session);
        assert!(supply.most_alive.load(Ordering::SeqCst) <= 1, "two processes for one session");
        let mut turns = Vec::new();
        for (prompt, seen) in self.turns {
            assert!(seen.is_finished(), "a Query that never ends: {prompt}");
            turns.push((prompt, seen.await.expect("no panic")));
        }
        let mut joined = Vec::new();
        for seen in self.joined {
            assert!(seen.is_finished(), "an Attach that never ends");
            joined.push(seen.await.expect("no panic"));
        }
        for waiting in self.waiting {
            assert!(waiting.is_finished(), "an interrupt or a close that is never answered");
            waiting.await.expect("no panic");
        }
        (turns, joined)
    }
}

/// No prompt reached the CLI twice, whoever asked for it again.
fn heard_once(session: &Session) {
    let heard = session.supply.heard.lock().expect("no panic");
    let mut prompts: Vec<&String> = heard.values().flatten().collect();
    prompts.sort();
    let all = prompts.len();
    prompts.dedup();
    assert_eq!(prompts.len(), all, "a prompt was heard twice: {prompts:?}");
}

fn check(seen: &Seen) {
    let expected: Vec<u64> = (1..=seen.sequences.len() as u64).collect();
    assert_eq!(seen.sequences, expected, "gaps");
    assert!(seen.started.len() <= 1, "started twice: {seen:?}");
    let results = seen
        .frames
        .iter()
        .filter(|(class, _)| matches!(class, Class::Result | Class::InterruptedResult))
        .count();
    match &seen.end {
        Ok(()) => {
            assert_eq!(results, 1, "{seen:?}");
            let last = seen.frames.last().map(|(class, _)| *class);
            assert!(matches!(last, Some(Class::Result | Class::InterruptedResult)), "{seen:?}");
        }
        Err(_) => assert_eq!(results, 0, "{seen:?}"),
    }
}

fn belongs(prompt: &str, seen: &Seen) {
    let own = prompt.split_whitespace().next().expect("a tag");
    let wanted = prompt.split_whitespace().find(|word| word.starts_with("sp="));
    for (class, line) in &seen.frames {
        if let (Some(wanted), Class::Assistant) = (wanted, class) {
            assert!(line.contains(wanted), "{line} without {wanted}");
        }
        // Messages and results carry the prompt that they answer.
        if let Some((_, rest)) = line.split_once('<') {
            assert!(format!("<{rest}").starts_with(own), "{line} in the turn {prompt}");
        }
        assert!(!line.contains("unasked"), "{line} in the turn {prompt}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_every_turn_is_answered_once_and_from_its_own(
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (turns, joined) = runtime.block_on(async {
            let mut play = Play {
                session: Session::start(limits()),
                turns: Vec::new(),
                joined: Vec::new(),
                waiting: Vec::new(),
                last: None,
                count: 0,
            };
            for step in steps {
                play.step(step).await;
            }
            play.finish().await
        });
        for (prompt, seen) in &turns {
            check(seen);
            belongs(prompt, seen);
        }
        joined.iter().for_each(check);
    }
}
