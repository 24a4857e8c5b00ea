//! Sessions that start in bubblewrap, from a spare and without one: by a service with the gateway as the only way
//! out, and by one without a gateway beside it.

use std::time::Duration;

use session_pool::proto::{
    CloseSessionRequest, GetStatsRequest, QueryRequest, SessionOptions, TurnOrigin,
    query_response::Item, turn_event::Kind,
};
use tokio::time::{Instant, sleep};

use super::{Outcome, at, gateway::Service, tell, upstream::Upstream};

/// Rounds in which each service starts a session.
const ROUNDS: usize = 60;
/// What the machine has to come to rest in when a spare is up.
const REST: Duration = Duration::from_millis(100);

/// Measures both services.
pub async fn measure(upstream: &Upstream) -> Outcome<()> {
    let settings = [("CLI__SANDBOX", "bubblewrap"), ("POOL__SPARES", "1")];
    let closed = [settings[0], settings[1], ("POLICY__EGRESS", "gateway")];
    let without = Service::start(None, &settings).await?;
    let with = Service::start(Some(upstream), &closed).await?;
    until_spare(&without).await?;
    until_spare(&with).await?;
    let ways = [
        ("a session from a spare, its first event", TurnOrigin::CreatedFromSpare),
        ("a session without a spare, its first event", TurnOrigin::Created),
    ];
    for (name, origin) in ways {
        let [open, closed] = &mut [Vec::new(), Vec::new()];
        // The first of each warms up.
        for number in 0..=ROUNDS {
            for (service, times) in [(&without, &mut *open), (&with, &mut *closed)] {
                let took = first_event(service, &format!("{origin:?}-{number}"), origin).await?;
                if number > 0 {
                    times.push(took.as_secs_f64() * 1e3);
                }
            }
        }
        let (short, long) = (at(open, 50), at(closed, 50));
        tell(&format!("{name}, p50"), short, "ms");
        tell(&format!("{name}, with the gateway as the only way out, p50"), long, "ms");
        tell(&format!("{name}, what that adds, p50"), long - short, "ms");
    }
    Ok(())
}

/// From a Query for a new session to what its CLI says first, when a spare is there.
async fn first_event(service: &Service, session: &str, origin: TurnOrigin) -> Outcome<Duration> {
    let mut client = service.client.clone();
    let began = Instant::now();
    // A spare does not have this option.
    let fresh = SessionOptions { max_turns: Some(100), ..SessionOptions::default() };
    let request = QueryRequest {
        session_id: session.into(),
        prompt: "hi".into(),
        options: (origin == TurnOrigin::Created).then_some(fresh),
        ..QueryRequest::default()
    };
    let mut events = client.query(request).await?.into_inner();
    let mut first = None;
    while let Some(message) = events.message().await? {
        let Some(Item::Event(event)) = message.item else { continue };
        match event.kind {
            Some(Kind::Started(started)) if started.origin() != origin => {
                return Err(format!("a session was {}", started.origin().as_str_name()).into());
            }
            Some(Kind::Started(_)) => {}
            _ => _ = first.get_or_insert_with(|| began.elapsed()),
        }
    }
    let request =
        CloseSessionRequest { session_id: session.into(), ..CloseSessionRequest::default() };
    client.close_session(request).await?;
    // Its next spare is not to start while the other service is measured.
    until_spare(service).await?;
    first.ok_or_else(|| "the CLI said nothing".into())
}

async fn until_spare(service: &Service) -> Outcome<()> {
    let mut client = service.client.clone();
    loop {
        let stats = client.get_stats(GetStatsRequest::default()).await?.into_inner();
        if stats.spares == 1 && stats.spares_starting == 0 {
            sleep(REST).await;
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}
