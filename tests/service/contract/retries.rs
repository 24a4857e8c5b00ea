//! A turn that its caller named runs once, however late it is asked for again.

use session_pool::{
    config::{Config, StoreKind},
    proto::{QueryRequest, SessionOptions, TurnStarted},
};

use crate::support::{
    fields,
    service::{Service, fake_cli, query, script},
    turn::Turn,
};

fn named(session: &str, turn: &str, prompt: &str) -> QueryRequest {
    QueryRequest { turn_id: turn.into(), ..query(session, prompt) }
}

/// Asks again, and checks that the caller is told what it was told before.
async fn told_again(service: &Service, first: &Turn) {
    let started = first.started();
    let again = service.run(named(&started.session_id, &started.turn_id, "another prompt")).await;
    assert_eq!(again.result().result, first.result().result);
    assert_eq!(again.result().total_cost_usd, first.result().total_cost_usd);
    let told = again.started();
    assert_eq!((&told.turn_id, &told.session_id), (&started.turn_id, &started.session_id));
    assert_eq!(told.client_id, started.client_id, "the process that it ran on");
    assert_eq!(told.cli_session_id, started.cli_session_id);
    // Kept to the millisecond.
    let seconds = |turn: &TurnStarted| turn.start_time.map(|time| time.seconds);
    assert_eq!(seconds(told), seconds(started));
}

async fn said(service: &Service, session: &str) -> String {
    service.query(session, &script(&["recite"])).await.text()
}

async fn on_each_store(test: impl AsyncFn(Service)) {
    for kind in [StoreKind::Sqlite, StoreKind::Memory] {
        test(Service::start(|config| config.store.kind = kind).await).await;
    }
}

#[tokio::test]
async fn e4_a_turn_id_needs_a_session() {
    let service = Service::start(|_| {}).await;
    let turn = service.run(named("", "t", "hello")).await;
    assert_eq!(fields(turn.error()), ["turn_id"]);
    assert_eq!(turn.error().code(), tonic::Code::InvalidArgument);
    assert_eq!(service.stats().await.counters.expect("counters").turns, 0);
    service.stop().await;
}

#[tokio::test]
async fn e4_a_turn_runs_once_also_after_nine_others_and_after_its_session_was_closed() {
    on_each_store(async |service| {
        let first = service.run(named("a", "pay", "one")).await;
        for n in 0..9 {
            service.query("a", &format!("other {n}")).await.result();
        }
        told_again(&service, &first).await;
        service.close("a", false).await.expect("closed");
        told_again(&service, &first).await;
        service.session("a").await.expect_err("a retry brings no session back");
        let others: Vec<_> = (0..9).map(|n| format!("other {n}")).collect();
        assert_eq!(said(&service, "a").await, format!("one\n{}", others.join("\n")));

        // It is the session's own name, and goes with what was said.
        let other = service.run(named("b", "pay", "two")).await;
        assert_eq!(other.text(), "echo: two");
        service.close("a", true).await.expect("forgotten");
        let anew = service.run(named("a", "pay", "three")).await;
        assert_eq!(anew.text(), "echo: three");
        told_again(&service, &other).await;
        service.stop().await;
    })
    .await;
}

#[tokio::test]
async fn e4_a_turn_runs_once_also_after_a_restart_of_the_service() {
    let service = Service::start(|_| {}).await;
    let first = service.run(named("a", "pay", "one")).await;
    let failed = service.run(named("a", "lost", &script(&["exit 3"]))).await;
    failed.error();
    let (_, state) = service.end().await;
    let service = Service::with(fake_cli(state.path()), state).await;
    told_again(&service, &first).await;
    assert_eq!(said(&service, "a").await.lines().next(), Some("one"));
    // Of the one that died with its process nothing was told: it may run.
    let again = service.run(named("a", "lost", "now")).await;
    assert_eq!(again.text(), "echo: now");
    service.stop().await;
}

#[tokio::test]
async fn e4_a_turn_without_its_structured_output_runs_once_too() {
    on_each_store(async |service| {
        let line = r#"raw {"type":"result","subtype":"success","result":"paid"}"#;
        let schema = r#"{"type":"object","required":["n"]}"#;
        let options = SessionOptions { json_schema: Some(schema.into()), ..Default::default() };
        let first = service
            .run(QueryRequest {
                options: Some(options),
                ..named("a", "pay", &script(&[line, "no-result idle"]))
            })
            .await;
        assert!(first.result().structured_output_missing);
        // Its events go with the session; the name and the result stay.
        service.close("a", false).await.expect("closed");
        let again = service.run(named("a", "pay", "another prompt")).await;
        assert_eq!(again.result().result, "paid");
        assert!(again.result().structured_output_missing, "as it was told before");
        service.stop().await;
    })
    .await;
}

/// While its events are there a turn is told again as a whole.
#[tokio::test]
async fn e4_a_turn_that_is_at_hand_is_told_again_with_all_its_events() {
    let service = Service::start(|_| {}).await;
    let first = service.run(named("a", "t", &script(&["say one", "say two"]))).await;
    let again = service.run(named("a", "t", "another")).await;
    assert_eq!(again.text(), "one\ntwo");
    assert_eq!(again.events.len(), first.events.len());
    service.stop().await;
}

#[tokio::test]
async fn e4_a_name_that_is_past_its_time_runs_again() {
    let short = |config: &mut Config| {
        config.store.turn_retention = std::time::Duration::from_millis(1);
        config.pool.turn_retention = std::time::Duration::from_millis(1);
    };
    let service = Service::start(short).await;
    service.run(named("a", "t", "one")).await.result();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let again = service.run(named("a", "t", "two")).await;
    assert_eq!(again.text(), "echo: two");
    service.stop().await;
}
