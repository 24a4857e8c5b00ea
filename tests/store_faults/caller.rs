//! A caller with a session: asks, is told or refused, and has the witness look at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::{CloseSessionRequest, QueryRequest, turn_event::Kind};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Status};

use crate::{
    service::Life,
    support::{failure, reason, retry_after, turn::Turn},
    tally::Tally,
    witness::Witness,
};

/// More than any turn takes while things fail; one that takes longer hangs.
const LONGEST_TURN: Duration = Duration::from_secs(20);
/// How all that is said begins.
pub const TOKEN: &str = "token-";

/// What became of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Told,
    Refused,
    /// The connection broke.
    Lost,
}

pub struct Caller {
    session: String,
    lives: watch::Receiver<Option<Life>>,
    witness: Arc<Witness>,
    tally: Arc<Tally>,
    rng: Rng,
    /// How often each token was asked for.
    asked: HashMap<String, u64>,
    /// Those that the caller was told, in order.
    told: Vec<String>,
}

impl Caller {
    pub fn new(
        session: String,
        lives: watch::Receiver<Option<Life>>,
        witness: Arc<Witness>,
        tally: Arc<Tally>,
        seed: u64,
    ) -> Self {
        let (rng, asked, told) = (Rng::with_seed(seed), HashMap::new(), Vec::new());
        Self { session, lives, witness, tally, rng, asked, told }
    }

    /// A turn while things fail. A connection may break only if the service is killed; the
    /// turn is then asked for again by its name.
    pub async fn ask(&mut self, kills: bool) {
        let token = self.token();
        loop {
            match self.attempt(&token).await {
                Outcome::Told => return self.tally.note("told"),
                Outcome::Refused => return self.tally.note("refused"),
                Outcome::Lost => {
                    assert!(kills, "a connection broke, and nobody had killed the service");
                    self.tally.note("lost, and asked again");
                }
            }
        }
    }

    /// A turn when everything is well again.
    pub async fn ask_in_calm(&mut self) {
        let token = self.token();
        assert_eq!(self.attempt(&token).await, Outcome::Told, "it does not serve again");
        self.tally.note("told in calm");
    }

    fn token(&mut self) -> String {
        format!("{TOKEN}{:016x}", self.rng.u64(..))
    }

    async fn attempt(&mut self, token: &str) -> Outcome {
        *self.asked.entry(token.to_owned()).or_default() += 1;
        let life = self.next_life().await;
        let attempt = timeout(LONGEST_TURN, self.run(&life, token));
        let outcome = attempt.await.unwrap_or_else(|_| panic!("{token} hangs in {life:?}"));
        match outcome {
            Outcome::Told => self.told.push(token.to_owned()),
            // The next attempt is for the next life.
            Outcome::Lost => self.lives.mark_unchanged(),
            Outcome::Refused => {}
        }
        if outcome == Outcome::Lost {
            let lost = life.number;
            let next = self.lives.wait_for(|life| life.as_ref().is_some_and(|it| it.number > lost));
            timeout(LONGEST_TURN, next).await.expect("it lives again").expect("watched");
        }
        outcome
    }

    async fn next_life(&mut self) -> Life {
        let life = timeout(LONGEST_TURN, self.lives.wait_for(Option::is_some)).await;
        life.expect("it lives").expect("watched").clone().expect("there")
    }

    async fn run(&self, life: &Life, token: &str) -> Outcome {
        let request = QueryRequest {
            session_id: self.session.clone(),
            turn_id: token.to_owned(),
            prompt: format!("#!fake\nsay {token}"),
            ..QueryRequest::default()
        };
        let mut turn = match life.client().query(request).await {
            Ok(response) => Turn::new(response.into_inner()),
            Err(status) => return self.refused(&status),
        };
        let mut told = false;
        while let Some(event) = turn.next().await {
            if let Some(Kind::Result(result)) = event.kind {
                assert!(result.result.contains(token), "{token} was answered with {result:?}");
                let found = self.witness.how_often(token).await;
                assert_eq!(found, 1, "{token} was told, and so often it is in the file");
                told = true;
            }
        }
        match &turn.end {
            Some(Err(status)) if !told => self.refused(status),
            // What was told stays told, whatever becomes of the connection.
            Some(Err(status)) => {
                assert_eq!(reason(status), "", "{token} was told, and then refused: {status:?}");
                Outcome::Told
            }
            _ => {
                assert!(told, "the turn of {token} ended without a result");
                Outcome::Told
            }
        }
    }

    fn refused(&self, status: &Status) -> Outcome {
        if reason(status).is_empty() {
            return Outcome::Lost;
        }
        failure(status, Code::Unavailable, "STORE_UNAVAILABLE");
        assert!(retry_after(status).is_some(), "{status:?}");
        Outcome::Refused
    }

    /// What was said to the CLI so far is what the caller was told, in the same order.
    pub async fn check_what_the_cli_knows(&mut self) {
        let life = self.next_life().await;
        let request = QueryRequest {
            session_id: self.session.clone(),
            prompt: "#!fake\nrecite".into(),
            ..QueryRequest::default()
        };
        let response = life.client().query(request).await.expect("taken");
        let mut turn = Turn::new(response.into_inner());
        timeout(LONGEST_TURN, turn.finish()).await.expect("it ends");
        let text = turn.result().result.clone();
        let said = text.lines().filter_map(|line| Some(line.rsplit_once("\\nsay ")?.1.to_owned()));
        // What was refused may have been taken up by the CLI, too.
        let known: Vec<String> = said.filter(|token| self.told.contains(token)).collect();
        assert_eq!(known, self.told, "{}: what the CLI knows is not what was told", self.session);
    }

    /// Everything that was told is in the file, once; and nothing is that was not asked.
    pub fn check_what_is_kept(&self, counts: &HashMap<String, u64>) {
        for token in &self.told {
            let found = counts.get(token).copied().unwrap_or_default();
            assert_eq!(found, 1, "{token} was told, and so often it is in the file");
        }
        for (token, asked) in &self.asked {
            let found = counts.get(token).copied().unwrap_or_default();
            assert!(found <= *asked, "{token} was asked {asked} times, and is kept {found} times");
        }
    }

    /// How many results it was told.
    pub fn told(&self) -> usize {
        self.told.len()
    }

    /// Has the service forget the session.
    pub async fn forget(mut self) {
        let life = self.next_life().await;
        let request = CloseSessionRequest { session_id: self.session.clone(), forget: true };
        life.client().close_session(request).await.expect("forgotten");
        let left = self.witness.counts(TOKEN).await;
        let kept = self.asked.keys().find(|token| left.contains_key(*token));
        assert_eq!(kept, None, "{} was forgotten, and this is in the file", self.session);
    }
}
