//! The whole life of sessions against a simple model of who said what: random turns,
//! interrupts, closes, crashes of the CLI, hibernation in time and under pressure, orderly
//! and violent ends of the service. What a caller was told is in the conversation, in
//! order and nowhere else, for as long as nobody ended that conversation.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustix::process::Signal;
use session_pool::proto::{
    CloseSessionRequest, GetSessionRequest, InterruptRequest, ListSessionsRequest, Session,
    SessionStatus,
};

use crate::support::{
    daemon::Daemon,
    eventually, processes,
    service::{query, script},
    turn::Turn,
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Fewer processes than sessions, and none for long.
const SETTINGS: [(&str, &str); 3] = [
    ("POOL__MAX_PROCESSES", "2"),
    ("POOL__HIBERNATE_AFTER", "60ms"),
    ("POOL__TURN_RETENTION", "1ms"),
];

/// One step of somebody; the number says in which session.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A turn that ends well.
    Turn(usize),
    /// The same in all sessions at once.
    TurnsEverywhere,
    /// A turn that begins another conversation.
    NewConversation(usize),
    /// A turn that is interrupted; the session stays or leaves the pool.
    Interrupted(usize, bool),
    /// A turn in which the CLI is killed.
    Crash(usize),
    /// The CLI is killed between turns.
    Kill(usize),
    /// The session's process is let go.
    Hibernate(usize),
    Close(usize, bool),
    /// The service ends and starts again: on SIGTERM, or killed.
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let session = || 0..NAMES.len();
    prop_oneof![
        8 => session().prop_map(Step::Turn),
        2 => Just(Step::TurnsEverywhere),
        1 => session().prop_map(Step::NewConversation),
        2 => (session(), any::<bool>()).prop_map(|(session, keep)| Step::Interrupted(session, keep)),
        1 => session().prop_map(Step::Crash),
        1 => session().prop_map(Step::Kill),
        2 => session().prop_map(Step::Hibernate),
        1 => (session(), any::<bool>()).prop_map(|(session, forget)| Step::Close(session, forget)),
        2 => any::<bool>().prop_map(Step::Restart),
    ]
}

/// A word that was said in a session.
#[derive(Debug, Clone, PartialEq)]
enum Word {
    /// The caller was given the result.
    Told(String),
    /// The turn failed: the CLI may have taken the prompt up or not.
    Perhaps(String),
}

/// What a session should be.
#[derive(Debug, Default)]
struct Model {
    said: Vec<Word>,
    in_pool: bool,
}

impl Model {
    /// Whether a conversation is one that it allows.
    fn allows(&self, heard: &[String]) -> bool {
        let mut heard = heard.iter().peekable();
        for word in &self.said {
            match word {
                Word::Told(word) if heard.peek() == Some(&word) => drop(heard.next()),
                Word::Told(_) => return false,
                Word::Perhaps(word) => drop(heard.next_if_eq(&word)),
            }
        }
        heard.next().is_none()
    }
}

struct Life {
    daemon: Daemon,
    models: BTreeMap<&'static str, Model>,
    count: usize,
}

/// What the CLI recites: the word of each prompt.
fn heard(turn: &Turn) -> Vec<String> {
    let text = turn.text();
    text.lines().filter_map(|line| Some(line.rsplit_once("\\nsay ")?.1.to_owned())).collect()
}

impl Life {
    fn word(&mut self) -> String {
        self.count += 1;
        format!("w{}", self.count)
    }

    fn model(&mut self, session: usize) -> &mut Model {
        self.models.entry(NAMES[session]).or_default()
    }

    async fn play(&mut self, step: Step) {
        match step {
            Step::Turn(session) => self.turns(&[session]).await,
            Step::TurnsEverywhere => self.turns(&[0, 1, 2, 3]).await,
            Step::NewConversation(session) => self.new_conversation(session).await,
            Step::Interrupted(session, keep) => self.interrupted(session, keep).await,
            Step::Crash(session) => self.crash(session).await,
            Step::Kill(session) => self.kill(session).await,
            Step::Hibernate(session) => self.hibernate(session).await,
            Step::Close(session, forget) => self.close(session, forget).await,
            Step::Restart(violently) => self.restart(violently).await,
        }
    }

    /// Turns in some sessions at once, each of which has to hear its own conversation.
    async fn turns(&mut self, sessions: &[usize]) {
        let mut turns = Vec::new();
        for session in sessions {
            let word = self.word();
            let prompt = script(&["recite", &format!("say {word}")]);
            let turn = self.daemon.open(query(NAMES[*session], &prompt)).await;
            turns.push((*session, word, turn));
        }
        for (session, word, mut turn) in turns {
            turn.finish().await;
            assert!(matches!(turn.end, Some(Ok(()))), "{turn:?}");
            let heard = heard(&turn);
            let model = self.model(session);
            assert!(model.allows(&heard), "{} heard {heard:?}, not {model:?}", NAMES[session]);
            // Now it is known which prompts of failed turns the CLI has.
            model.said = heard.into_iter().chain([word]).map(Word::Told).collect();
            model.in_pool = true;
        }
    }

    async fn new_conversation(&mut self, session: usize) {
        let word = self.word();
        let mut asked = query(NAMES[session], &script(&["recite", &format!("say {word}")]));
        asked.new_conversation = true;
        let mut turn = self.daemon.open(asked).await;
        turn.finish().await;
        assert_eq!(heard(&turn), [""; 0], "{turn:?}");
        *self.model(session) = Model { said: vec![Word::Told(word)], in_pool: true };
    }

    /// A turn that says its word and hangs.
    async fn hanging(&mut self, session: usize) -> Turn {
        let word = self.word();
        let prompt = script(&["say begun", "hang", &format!("say {word}")]);
        let mut turn = self.daemon.open(query(NAMES[session], &prompt)).await;
        turn.until_text("begun").await;
        let model = self.model(session);
        model.said.push(Word::Perhaps(word));
        model.in_pool = true;
        turn
    }

    async fn interrupted(&mut self, session: usize, keep_session: bool) {
        let mut turn = self.hanging(session).await;
        let session_id = NAMES[session].to_owned();
        let request = InterruptRequest { session_id, keep_session, ..InterruptRequest::default() };
        let answer = self.daemon.client.interrupt(request).await.expect("answered").into_inner();
        assert!(answer.interrupted && answer.had_active_turn, "{answer:?}");
        turn.finish().await;
        assert!(turn.result().interrupted);
        self.model(session).in_pool = keep_session;
    }

    async fn crash(&mut self, session: usize) {
        let mut turn = self.hanging(session).await;
        let shown = self.session(session).await.expect("in the pool");
        processes::kill(shown.process_id);
        turn.finish().await;
        assert!(matches!(turn.end, Some(Err(_))), "{turn:?}");
    }

    async fn kill(&mut self, session: usize) {
        let Some(shown) = self.session(session).await else { return };
        if shown.process_id == 0 {
            return;
        }
        processes::kill_if_there(shown.process_id);
        eventually("the service sees it", async || {
            let now = self.session(session).await.expect("in the pool");
            (now.process_id != shown.process_id).then_some(())
        })
        .await;
    }

    async fn hibernate(&mut self, session: usize) {
        if self.session(session).await.is_none() {
            return;
        }
        eventually("it has no process", async || {
            let now = self.session(session).await.expect("in the pool");
            let resting = [SessionStatus::Hibernated, SessionStatus::Disconnected];
            resting.contains(&now.status()).then_some(())
        })
        .await;
    }

    async fn close(&mut self, session: usize, forget: bool) {
        let request = CloseSessionRequest { session_id: NAMES[session].into(), forget };
        let closed = self.daemon.client.close_session(request).await.is_ok();
        let model = self.model(session);
        assert!(closed || !model.in_pool, "{model:?}");
        model.in_pool = false;
        if forget {
            model.said.clear();
        }
    }

    async fn restart(&mut self, violently: bool) {
        self.daemon.signal(if violently { Signal::KILL } else { Signal::TERM });
        if violently {
            // Of the supervisor; the service itself is killed by it, and so is all else.
            self.daemon.ended().await;
        } else {
            assert_eq!(self.daemon.ended().await.code(), Some(0));
        }
        let state =
            std::mem::replace(&mut self.daemon.state, tempfile::TempDir::new().expect("a folder"));
        self.daemon = Daemon::start_in(state, &SETTINGS).await;
    }

    async fn session(&mut self, session: usize) -> Option<Session> {
        let request = GetSessionRequest { session_id: NAMES[session].into() };
        self.daemon.client.get_session(request).await.ok()?.into_inner().session
    }

    /// The pool has the sessions that it should have, and no process too many.
    async fn check(&mut self) {
        let request = ListSessionsRequest::default();
        let listed = self.daemon.client.list_sessions(request).await.expect("listed").into_inner();
        let listed: Vec<&str> = listed.sessions.iter().map(|it| it.session_id.as_str()).collect();
        let expected: Vec<&str> =
            self.models.iter().filter(|(_, model)| model.in_pool).map(|(name, _)| *name).collect();
        assert_eq!(listed, expected);
        assert!(self.daemon.processes().len() <= 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn the_model_and_the_service_agree_on_who_said_what(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let daemon = Daemon::start(&SETTINGS).await;
            let mut life = Life { daemon, models: BTreeMap::new(), count: 0 };
            for step in steps {
                life.play(step).await;
                life.check().await;
            }
            // Nothing is lost that was not asked for since.
            life.turns(&[0, 1, 2, 3]).await;
            life.daemon.signal(Signal::TERM);
            assert_eq!(life.daemon.ended().await.code(), Some(0));
        });
    }
}
