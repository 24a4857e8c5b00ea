//! One caller: does one thing after the other, chosen at random, and looks closely at
//! every answer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::{
    AttachRequest, BusyPolicy, CloseSessionRequest, DisconnectPolicy, GetSessionRequest,
    GetStatsRequest, InterruptAllRequest, InterruptRequest, ListSessionsRequest, Payload,
    QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    daemon::Daemon,
    support::{processes, reason, turn::Turn},
    tally::Tally,
};

/// Sessions that all callers share: often they want the same one.
const SESSIONS: usize = 12;

/// Three times what the longest took on a machine with five times the load that it can bear
/// (19 s), and less than all bounds of a turn that waits for others together, which is
/// minutes: a deed that takes longer is worth a look.
const LONGEST_DEED: Duration = Duration::from_secs(60);

/// How long somebody who joined a turn listens.
const LONGEST_LISTENING: Duration = Duration::from_secs(3);

/// What a turn may come to when others interrupt it, close its session or kill its CLI.
/// Anything else is a fault.
const EXPECTED: [&str; 9] = [
    "TURN_INTERRUPTED",
    "CLI_EXITED",
    "CONNECT_FAILED",
    "QUEUE_FULL",
    "SESSION_BUSY",
    "POOL_AT_CAPACITY",
    "SESSION_NOT_FOUND",
    "TURN_NOT_FOUND",
    // Files of a turn go once it has ended and all who listened have read them.
    "EVENTS_EXPIRED",
];

/// What a call may come to besides while the disk is full, the database is locked, or others
/// do not read what they asked for.
const EXPECTED_UNDER_FAULTS: [&str; 3] =
    ["STORE_UNAVAILABLE", "LISTENER_TOO_SLOW", "MEMORY_BUDGET_EXCEEDED"];

/// Which refusals are no fault in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// The machine is sound: only callers and CLIs misbehave.
    Fair,
    /// The disk, the database, the clock and the network misbehave too.
    Foul,
}

pub struct Caller {
    client: Client<Channel>,
    state: PathBuf,
    rng: Rng,
    tally: Arc<Tally>,
    weather: Weather,
}

impl Caller {
    pub async fn new(daemon: &Daemon, seed: u64, tally: Arc<Tally>, weather: Weather) -> Self {
        let (client, state) = (daemon.client().await, daemon.state().to_owned());
        Self { client, state, rng: Rng::with_seed(seed), tally, weather }
    }

    pub async fn act_until(mut self, end: Instant) {
        while Instant::now() < end {
            let deed = self.rng.u32(..100);
            let began = Instant::now();
            if timeout(LONGEST_DEED, self.act(deed)).await.is_err() {
                let request = ListSessionsRequest::default();
                let sessions = self.client.list_sessions(request).await;
                panic!("deed {deed} has not ended after {LONGEST_DEED:?}: {sessions:#?}");
            }
            self.tally.took(deed, began.elapsed());
        }
    }

    async fn act(&mut self, deed: u32) {
        match deed {
            0..40 => self.ask().await,
            40..50 => self.read_slowly().await,
            50..58 => self.leave().await,
            58..63 => self.let_a_deadline_pass().await,
            63..73 => self.interrupt().await,
            73..74 => self.interrupt_all().await,
            74..79 => self.kill_the_cli().await,
            79..83 => self.close().await,
            83..88 => self.attach().await,
            88..91 => self.talk_to_a_stubborn_cli().await,
            91..95 => self.send_rubbish().await,
            _ => self.look().await,
        }
    }

    fn session(&mut self) -> String {
        format!("s{}", self.rng.usize(..SESSIONS))
    }

    fn token(&mut self) -> String {
        format!("token-{:016x}", self.rng.u64(..))
    }

    fn request(&mut self, lines: &[&str]) -> QueryRequest {
        let on_busy = match self.rng.u32(..10) {
            0 => BusyPolicy::Reject,
            1 => BusyPolicy::Interrupt,
            _ => BusyPolicy::Queue,
        };
        let payload = if self.rng.bool() { Payload::Typed } else { Payload::Both };
        // One in eight has a session of its own.
        let session_id = if self.rng.u32(..8) == 0 { String::new() } else { self.session() };
        QueryRequest {
            session_id,
            prompt: format!("#!fake\n{}", lines.join("\n")),
            on_busy: on_busy.into(),
            payload: payload.into(),
            new_conversation: self.rng.u32(..20) == 0,
            ..QueryRequest::default()
        }
    }

    async fn open(&mut self, request: QueryRequest) -> Result<Turn, Status> {
        Ok(Turn::new(self.client.query(request).await?.into_inner()))
    }

    async fn ask(&mut self) {
        let token = self.token();
        let request = self.request(&[&format!("say {token}")]);
        let outcome = match self.open(request).await {
            Ok(mut turn) => {
                turn.finish().await;
                self.weather.judge(&turn, &token)
            }
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("ask", outcome);
    }

    async fn read_slowly(&mut self) {
        let token = self.token();
        let frames = self.rng.usize(..3000);
        let request = self.request(&[&format!("frames {frames} 300"), &format!("say {token}")]);
        let outcome = match self.open(request).await {
            Ok(mut turn) => {
                for _ in 0..self.rng.u32(..8) {
                    sleep(Duration::from_millis(self.rng.u64(..20))).await;
                    turn.next().await;
                }
                turn.finish().await;
                let last = turn.text();
                let last = last.lines().last().unwrap_or_default();
                let foreign = last.contains("token-") && !last.contains(&token);
                assert!(!foreign, "{token} was answered with {last}");
                self.weather.how_it_ended(&turn)
            }
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("read slowly", outcome);
    }

    async fn leave(&mut self) {
        let step = if self.rng.bool() { "hang" } else { "frames 100000 300" };
        let mut request = self.request(&[step]);
        let stays = self.rng.u32(..4) == 0 && step != "hang";
        if stays {
            request.on_disconnect = DisconnectPolicy::Continue.into();
        }
        let outcome = match self.open(request).await {
            Ok(mut turn) => {
                let seen = turn.next().await.is_some();
                turn.leave();
                if seen { "left in mid-turn" } else { "ended before" }.to_owned()
            }
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("leave", outcome);
    }

    async fn let_a_deadline_pass(&mut self) {
        let mut request = Request::new(self.request(&["hang"]));
        request.set_timeout(Duration::from_millis(self.rng.u64(1..200)));
        let end = match self.client.query(request).await {
            Ok(response) => {
                let mut turn = Turn::new(response.into_inner());
                turn.finish().await;
                match turn.end {
                    Some(Err(status)) => Err(status),
                    _ => Ok(()),
                }
            }
            Err(status) => Err(status),
        };
        let outcome = match end {
            // The client's own clock may be first, and says CANCELLED then.
            Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => {
                "passed".to_owned()
            }
            Err(status) => self.weather.excuse(&status),
            Ok(()) => "interrupted before".to_owned(),
        };
        self.tally.note("deadline", outcome);
    }

    async fn interrupt(&mut self) {
        let request = InterruptRequest {
            session_id: self.session(),
            keep_session: self.rng.bool(),
            ..InterruptRequest::default()
        };
        let answer = self.client.interrupt(request).await.expect("always answered").into_inner();
        self.tally.note("interrupt", format!("{:?}", answer.outcome()));
    }

    async fn interrupt_all(&mut self) {
        let request = InterruptAllRequest::default();
        let answer = self.client.interrupt_all(request).await.expect("always answered");
        let answer = answer.into_inner();
        assert_eq!(answer.results.len(), answer.session_count as usize);
        self.tally.note("interrupt all", "answered");
    }

    async fn kill_the_cli(&mut self) {
        let request = GetSessionRequest { session_id: self.session() };
        let shown = self.client.get_session(request).await.ok();
        let pid = shown.and_then(|shown| shown.into_inner().session).map(|s| s.process_id);
        // Only what bears the service's mark: the process may have ended by itself.
        let pid = pid.filter(|pid| processes::of_state(&self.state).contains(pid));
        let outcome = match pid {
            Some(pid) => {
                processes::kill_if_there(pid);
                "killed"
            }
            None => "it had none",
        };
        self.tally.note("kill the CLI", outcome);
    }

    async fn close(&mut self) {
        let request = CloseSessionRequest { session_id: self.session(), forget: self.rng.bool() };
        let outcome = match self.client.close_session(request).await {
            Ok(_) => "closed".to_owned(),
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("close", outcome);
    }

    async fn attach(&mut self) {
        let request = AttachRequest { session_id: self.session(), ..AttachRequest::default() };
        let outcome = match self.client.attach(request).await {
            Ok(response) => {
                let mut turn = Turn::attached(response.into_inner());
                // A listener keeps a turn going whose caller has left, and this one may
                // hang: near the end of the soak there is nobody who would interrupt it.
                match timeout(LONGEST_LISTENING, turn.finish()).await {
                    Ok(_) => self.weather.how_it_ended(&turn),
                    Err(_) => "stopped listening".to_owned(),
                }
            }
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("attach", outcome);
    }

    /// One that obeys nothing and has started what obeys nothing either.
    async fn talk_to_a_stubborn_cli(&mut self) {
        let request = self.request(&[
            "ignore-term",
            "ignore-eof",
            "child setsid",
            "child nohup",
            "deaf",
            "frames 10 300",
            "hang",
        ]);
        let outcome = match self.open(request).await {
            Ok(mut turn) => {
                turn.next().await;
                turn.leave();
                "left".to_owned()
            }
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("stubborn CLI", outcome);
    }

    async fn send_rubbish(&mut self) {
        let bad = match self.rng.u32(..4) {
            0 => QueryRequest {
                session_id: "no/name".into(),
                prompt: "x".into(),
                ..QueryRequest::default()
            },
            1 => QueryRequest { session_id: "s0".into(), ..QueryRequest::default() },
            2 => QueryRequest { prompt: "x".into(), on_busy: 77, ..QueryRequest::default() },
            _ => {
                QueryRequest { prompt: "x".into(), turn_id: "\n".into(), ..QueryRequest::default() }
            }
        };
        let status = self.client.query(bad).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        self.tally.note("rubbish", "refused");
    }

    async fn look(&mut self) {
        let stats = self.client.get_stats(GetStatsRequest::default()).await.expect("answered");
        let stats = stats.into_inner();
        assert!(stats.processes <= stats.max_processes, "{stats:?}");
        assert!(stats.total_sessions <= stats.max_sessions, "{stats:?}");
        let request = ListSessionsRequest::default();
        let outcome = match self.client.list_sessions(request).await {
            Ok(_) => "answered".to_owned(),
            Err(status) => self.weather.excuse(&status),
        };
        self.tally.note("look", outcome);
    }
}

impl Weather {
    /// How a turn that was to say its token ended. Words of another turn are a fault.
    #[track_caller]
    pub fn judge(self, turn: &Turn, token: &str) -> String {
        let text = turn.text();
        let own = text.contains(token);
        assert!(own || !text.contains("token-"), "{token} was answered with {text}");
        if own && matches!(turn.end, Some(Ok(()))) {
            return "answered".to_owned();
        }
        self.how_it_ended(turn)
    }

    #[track_caller]
    fn how_it_ended(self, turn: &Turn) -> String {
        match &turn.end {
            Some(Ok(())) if turn.result().interrupted => "interrupted".to_owned(),
            Some(Ok(())) => "answered".to_owned(),
            Some(Err(status)) => self.excuse(status),
            None => panic!("a turn that has not ended: {turn:?}"),
        }
    }

    /// The reason of an error that is to be expected here.
    #[track_caller]
    pub fn excuse(self, status: &Status) -> String {
        let reason = reason(status);
        let expected = EXPECTED.contains(&reason.as_str())
            || (self == Self::Foul && EXPECTED_UNDER_FAULTS.contains(&reason.as_str()));
        assert!(expected, "{status:?}");
        reason
    }
}
