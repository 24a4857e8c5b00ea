//! `result` frames and what they count: small fixed figures a round, summed up over the process as the real CLI does.

use std::time::Duration;

use crate::ids;
use crate::json::{Json, Object, object};

/// One API round costs this much, one that was cut off a little less.
const ROUND_MICRO_DOLLARS: u64 = 246;
const CUT_ROUND_MICRO_DOLLARS: u64 = 186;
const API_MS_A_ROUND: u64 = 12;

const SUBAGENT_STATS: &str = r#"{"spawned":0,"requested":{"background":0,"foreground":0,"unset":0},"started_in_background":0,"max_depth":0,"spawned_by_subagents":0,"completed":0,"failed":0,"killed":{"parent":0,"user":0,"system":0},"refused":{"depth_limit":0,"concurrency_limit":0,"budget":0},"by_type":{}}"#;

/// API rounds, of a turn or of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    pub whole: u64,
    /// Cut off by an interrupt.
    pub cut: u64,
}

impl Rounds {
    pub fn add(&mut self, other: Self) {
        self.whole += other.whole;
        self.cut += other.cut;
    }

    fn all(self) -> u64 {
        self.whole + self.cut
    }

    pub fn cost_micro_dollars(self) -> u64 {
        self.whole * ROUND_MICRO_DOLLARS + self.cut * CUT_ROUND_MICRO_DOLLARS
    }

    fn cost(self) -> f64 {
        dollars(self.cost_micro_dollars())
    }

    fn usage(self) -> Json {
        let rounds = self.all();
        object! {
            "input_tokens": rounds * 10,
            "cache_creation_input_tokens": rounds * 20,
            "cache_read_input_tokens": rounds * 30,
            "output_tokens": self.whole * 5 + self.cut,
            "output_tokens_details": object! { "thinking_tokens": 0u64 },
            "server_tool_use": object! { "web_search_requests": 0u64, "web_fetch_requests": 0u64 },
            "service_tier": "standard",
            "cache_creation": object! { "ephemeral_1h_input_tokens": 0u64, "ephemeral_5m_input_tokens": 0u64 },
            "inference_geo": "",
            "iterations": Vec::<Json>::new(),
            "speed": "standard",
            "fallback_credit": None::<Json>,
        }
    }

    /// `modelUsage`: nothing as long as nothing was asked of the model.
    fn by_model(self, model: &str) -> Json {
        let mut models = Object::new();
        let rounds = self.all();
        if rounds > 0 {
            let usage = object! {
                "inputTokens": rounds * 10,
                "outputTokens": self.whole * 5 + self.cut,
                "cacheReadInputTokens": rounds * 30,
                "cacheCreationInputTokens": rounds * 20,
                "webSearchRequests": 0u64,
                "costUSD": self.cost(),
                "contextWindow": 1_000_000u64,
                "maxOutputTokens": 128_000u64,
                "thinkingTokens": 0u64,
                "cacheCreationEphemeral5mInputTokens": 0u64,
                "cacheCreationEphemeral1hInputTokens": 0u64,
                "canonicalModel": model,
                "provider": "firstParty",
                "costBasis": "list",
            };
            models.put(model, &usage);
        }
        models.finish()
    }
}

pub fn dollars(micro: u64) -> f64 {
    // A test process never spends so much that an f64 could not hold it.
    #[expect(clippy::cast_precision_loss)]
    let micro = micro as f64;
    micro / 1e6
}

/// What the process has spent.
#[derive(Debug, Default)]
pub struct Ledger {
    rounds: Rounds,
    /// What earlier processes of a resumed conversation spent, in millionths of a dollar.
    earlier: u64,
    results: u64,
    /// US dollars of its own that it may spend.
    budget: Option<f64>,
    /// Whether it counts from 0 after a resume too, as 2.1.197 does.
    from_zero: bool,
}

impl Ledger {
    pub fn new(earlier: u64, budget: Option<f64>, from_zero: bool) -> Self {
        let earlier = if from_zero { 0 } else { earlier };
        Self { earlier, budget, from_zero, ..Self::default() }
    }

    /// What it leaves to the process that goes on, in millionths of a dollar.
    pub fn to_be_saved(&self) -> Option<u64> {
        (!self.from_zero).then(|| self.cost_micro_dollars())
    }

    /// The budget, if it is spent once these rounds are paid for. What others spent before is none of its concern, and
    /// `/clear` fills it again.
    pub fn spent_budget(&self, rounds: Rounds) -> Option<f64> {
        let spent = self.rounds.cost_micro_dollars() + rounds.cost_micro_dollars();
        self.budget.filter(|budget| dollars(spent) >= *budget)
    }

    /// What `get_session_cost` is answered: rounded to four decimals, above half a dollar to two.
    pub fn in_words(&self) -> String {
        let cost = dollars(self.cost_micro_dollars());
        let decimals = if cost > 0.5 { 2 } else { 4 };
        let name = if self.from_zero { "Total cost:    " } else { "Estimated cost:" };
        format!(
            "{name}        ${cost:.decimals$}\nTotal duration (API):  0s\nTotal duration (wall): 1s"
        )
    }

    /// Forgets what was spent, as `/clear` does; results are still counted.
    pub fn clear(&mut self) {
        self.rounds = Rounds::default();
        self.earlier = 0;
    }

    pub fn cost_micro_dollars(&self) -> u64 {
        self.earlier + self.rounds.cost_micro_dollars()
    }
}

/// How a turn ended.
pub enum Outcome<'a> {
    Success {
        text: &'a str,
    },
    ApiError {
        text: &'a str,
    },
    /// The process has spent this much, all that it may.
    OverBudget(f64),
    /// `aborted_streaming` or `aborted_tools`.
    Aborted {
        terminal_reason: &'static str,
    },
    /// A slash command that the CLI ran by itself.
    LocalCommand(&'a str),
}

/// What a result says besides its outcome.
pub struct TurnFacts<'a> {
    pub session: &'a str,
    pub model: &'a str,
    pub messages: &'a [String],
    /// How many of them started the turn; the others it has taken up.
    pub started_by: usize,
    pub denials: &'a [Json],
    pub rounds: Rounds,
    pub took: Duration,
    /// Nobody asked for the turn; a background task's end started it.
    pub background: bool,
    pub queued: usize,
}

/// A turn's result; counts it in the ledger.
pub fn result(ledger: &mut Ledger, facts: &TurnFacts<'_>, outcome: &Outcome<'_>) -> Json {
    ledger.rounds.add(facts.rounds);
    let stop_reason = match outcome {
        Outcome::Success { .. } => Some("end_turn"),
        Outcome::ApiError { .. } => Some("stop_sequence"),
        Outcome::OverBudget(_) => None,
        Outcome::Aborted { terminal_reason } => {
            (*terminal_reason == "aborted_tools").then_some("tool_use")
        }
        Outcome::LocalCommand(_) => None,
    };
    let mut frame = Object::new();
    frame
        .put("duration_api_ms", &(ledger.rounds.all() * API_MS_A_ROUND))
        .put("stop_reason", &stop_reason)
        .put("session_id", facts.session)
        .put("total_cost_usd", &dollars(ledger.cost_micro_dollars()))
        .put("usage", &facts.rounds.usage())
        .put("modelUsage", &ledger.rounds.by_model(facts.model))
        .put("permission_denials", facts.denials)
        .put_some("terminal_reason", terminal_reason(outcome))
        .put("fast_mode_state", "off")
        .put("fast_mode_disabled_reason", "sdk_opt_in_required");
    if facts.background {
        let origin = object! { "kind": "task-notification", "producer": "session-task" };
        frame.put("origin", &origin);
    }
    frame.put("subagent_stats", &Json(SUBAGENT_STATS.to_owned())).put("safety_stops", &0u64);
    put_outcome(&mut frame, facts, outcome, stop_reason);
    put_timings(&mut frame, facts, outcome);
    frame.put("queued_turn_count", &(facts.queued as u64)).put("result_index", &ledger.results);
    if !ledger.from_zero {
        frame.put("model_usage_since_last_result", &facts.rounds.by_model(facts.model));
    }
    ledger.results += 1;
    frame.finish()
}

fn terminal_reason(outcome: &Outcome<'_>) -> Option<&'static str> {
    match outcome {
        Outcome::Success { .. } => Some("completed"),
        Outcome::ApiError { .. } => Some("api_error"),
        Outcome::OverBudget(_) => Some("budget_exhausted"),
        Outcome::Aborted { terminal_reason } => Some(terminal_reason),
        Outcome::LocalCommand(_) => None,
    }
}

fn put_outcome(
    frame: &mut Object,
    facts: &TurnFacts<'_>,
    outcome: &Outcome<'_>,
    stop_reason: Option<&str>,
) {
    let turns = match outcome {
        Outcome::Success { .. } | Outcome::ApiError { .. } => facts.rounds.all().max(1),
        Outcome::Aborted { .. } => facts.rounds.all() + 1,
        Outcome::OverBudget(_) => facts.rounds.all(),
        Outcome::LocalCommand(_) => 0,
    };
    let is_error = !matches!(outcome, Outcome::Success { .. } | Outcome::LocalCommand(_));
    frame.put("is_error", &is_error).put("num_turns", &turns);
    match outcome {
        Outcome::Success { text } => {
            frame
                .put("subtype", "success")
                .put("api_error_status", &None::<Json>)
                .put("result", *text)
                .put("ttft_ms", &5u64);
        }
        // A failed call is a "success" for the CLI; only `is_error` tells.
        Outcome::ApiError { text } => {
            frame
                .put("subtype", "success")
                .put("api_error_status", &500u64)
                .put("api_error_type", "api_error")
                .put("result", *text);
        }
        Outcome::OverBudget(budget) => {
            let error = format!("Reached maximum budget (${budget})");
            frame.put("subtype", "error_max_budget_usd").put("errors", &[error][..]);
        }
        Outcome::Aborted { .. } => {
            let stop_reason = stop_reason.unwrap_or("null");
            let error = format!(
                "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason={stop_reason}"
            );
            frame.put("subtype", "error_during_execution").put("errors", &[error][..]);
        }
        Outcome::LocalCommand(command) => {
            frame.put("subtype", "success").put("result", "").put("local_command", *command);
        }
    }
    frame.put("type", "result");
}

fn put_timings(frame: &mut Object, facts: &TurnFacts<'_>, outcome: &Outcome<'_>) {
    let took = u64::try_from(facts.took.as_millis()).unwrap_or(u64::MAX);
    frame
        .put("duration_ms", &took)
        .put("uuid", &ids::uuid())
        .put("begun_message_ids", &Json("[]".to_owned()));
    if matches!(outcome, Outcome::Success { .. }) {
        frame
            .put("ttft_stream_ms", &5u64)
            .put("time_to_request_ms", &1u64)
            .put("first_content_frame_ms", &5u64);
    }
    if let Some(last) = facts.messages.iter().take(facts.started_by).next_back() {
        frame.put("user_message_uuid", last).put("user_message_uuids", facts.messages);
    }
}

/// The result of a `--resume` that finds nothing: the process's only frame.
pub fn cannot_resume(session: &str, error: &str) -> Json {
    object! {
        "type": "result",
        "subtype": "error_during_execution",
        "duration_ms": 0u64,
        "duration_api_ms": 0u64,
        "is_error": true,
        "num_turns": 0u64,
        "stop_reason": None::<Json>,
        "session_id": session,
        "total_cost_usd": 0u64,
        "usage": Rounds::default().usage(),
        "modelUsage": Rounds::default().by_model(""),
        "permission_denials": Vec::<Json>::new(),
        "uuid": ids::uuid(),
        "errors": [error],
        "result_index": 0u64,
    }
}
