//! Random commands, behaviours of the CLI, pauses and deaths against what must always
//! hold: sequence numbers have no gaps, each event belongs to its own turn, each Query
//! ends exactly once, a prompt is heard at most once, a result is kept when it is told, an
//! interrupt is answered whatever the store does, a turn runs with the options that
//! it asked for, no session has two processes, and none is left at the end. A message for the
//! running turn is heard once if its caller got a result, and told of once; to stop a task is
//! always answered; and when all is quiet no task is shown.

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
        BackgroundPolicy, BusyPolicy, CloseReason, DisconnectPolicy, InterruptTarget,
        MismatchPolicy, Refusal, Settings, TurnRequest,
    },
    tasks::spawn_owned,
    turn::listener::{Follow, Listener},
};

mod checks;
mod step;

use checks::{belongs, check, check_message, heard_once};
use step::{Step, step};

/// Ended turns are kept to the end: one that is not kept any more would rightly run again.
fn limits() -> Settings {
    Settings { turn_retention: Duration::from_secs(86_400), ..settings() }
}

/// What is known of a turn: its prompt, and what its caller saw.
type Turn = (String, JoinHandle<Seen>);

/// What is known of a message: its words, and what its caller saw, one turn after the other.
type Message = (String, JoinHandle<Vec<Seen>>);

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

/// Reads a turn, and what comes behind it for who waits for that.
async fn read_behind(mut listener: Listener) -> Vec<Seen> {
    async fn next(follow: &mut Option<Follow>) -> Option<Listener> {
        let follow = follow.as_mut()?;
        // Why nothing comes any more is no end of a turn.
        std::future::poll_fn(|cx| follow.poll_next(cx)).await?.ok()
    }
    let mut follow = listener.take_follow();
    let mut all = vec![read(listener).await];
    while let Some(listener) = next(&mut follow).await {
        all.push(read(listener).await);
    }
    all
}

struct Play {
    session: Session,
    turns: Vec<Turn>,
    messages: Vec<Message>,
    /// What earlier sessions have heard.
    heard: Vec<String>,
    joined: Vec<JoinHandle<Seen>>,
    waiting: Vec<JoinHandle<()>>,
    last: Option<(TurnRequest, String)>,
    count: usize,
}

impl Play {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Query { behaviour, busy, stays, behind } => {
                let goes_on = !stays;
                if let Some((prompt, mut listener)) =
                    self.query(behaviour, busy, goes_on, behind).await
                {
                    if let Some(mut follow) = listener.take_follow() {
                        self.waiting.push(spawn_owned(async move {
                            while std::future::poll_fn(|cx| follow.poll_next(cx)).await.is_some() {}
                        }));
                    }
                    self.watch(prompt, listener);
                }
            }
            Step::Steer(behaviour) => {
                let mut asked = self.ask(behaviour);
                asked.turn_id = None;
                let asked = TurnRequest { on_busy: BusyPolicy::Steer, ..asked };
                if let Some((prompt, listener)) = self.send(asked).await {
                    self.messages.push((prompt, spawn_owned(read_behind(listener))));
                }
                self.last = None;
            }
            Step::StopTask(back) => {
                let handle = self.session.handle.clone();
                let task = format!("{}", self.count.saturating_sub(back));
                self.waiting.push(spawn_owned(async move {
                    let began = Instant::now();
                    let stopped = handle.stop_task(task).await;
                    let took = began.elapsed();
                    let closed = matches!(stopped, Err(Refusal::Closed));
                    assert!(closed || took < STOP_LIMIT, "{stopped:?} took {took:?}");
                }));
            }
            Step::InterruptAll(keep) => self.stop_target(InterruptTarget::All, keep),
            Step::NamesPrompts(names) => {
                self.session.supply.names_prompts.store(names, Ordering::SeqCst);
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
                drop(self.query(behaviour, 0, goes_on, BackgroundPolicy::Keep).await);
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
        self.stop_target(turn.map_or(InterruptTarget::Running, InterruptTarget::Named), keep);
    }

    fn stop_target(&mut self, target: InterruptTarget, keep: bool) {
        let handle = self.session.handle.clone();
        self.waiting.push(spawn_owned(async move {
            let began = Instant::now();
            // A session that has left is no error here.
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
        behind: BackgroundPolicy,
    ) -> Option<(String, Listener)> {
        let mut asked = self.ask(behaviour);
        asked.on_busy =
            [BusyPolicy::Queue, BusyPolicy::Reject, BusyPolicy::Interrupt][busy as usize];
        asked.on_background = behind;
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
                self.heard.extend(old.supply.heard().into_iter().flatten());
                self.last = None;
                None
            }
        }
    }

    async fn finish(mut self) -> (Vec<(String, Seen)>, Vec<Seen>) {
        self.session.store.set(Gate::Open);
        self.session.store.let_reads_wait(false);
        // Every watchdog has bitten by then.
        sleep(Duration::from_secs(4000)).await;
        let work = Arc::clone(&self.session.handle.status().work);
        assert!(work.is_empty(), "{work:?} is shown although it has ended");
        drop(self.session.handle.close(CloseReason::Requested { forget: false }).await);
        self.session.handle.ended().await;
        self.heard.extend(self.session.supply.heard().into_iter().flatten());
        let supply = &self.session.supply;
        assert_eq!(supply.alive(), 0, "a process without a session");
        heard_once(&self.session);
        assert!(supply.most_alive.load(Ordering::SeqCst) <= 1, "two processes for one session");
        for (prompt, seen) in self.messages {
            assert!(seen.is_finished(), "a message whose caller hears no end: {prompt}");
            let all = seen.await.expect("no panic");
            check_message(&prompt, &all, &self.heard);
        }
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
                messages: Vec::new(),
                heard: Vec::new(),
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
