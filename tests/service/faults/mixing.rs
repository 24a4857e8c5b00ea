//! Answers never reach the wrong caller: late first messages, turns at once, results
//! that come late or not at all.

use std::time::Duration;

use tonic::Code;

use crate::support::{
    failure,
    service::{Service, query, script},
};

#[tokio::test]
async fn after_a_late_first_message_each_query_gets_its_own_answer() {
    let service = Service::start(|_| {}).await;
    let late = script(&["late-init 500", "say one"]);
    let (one, two, three) = tokio::join!(
        service.query("a", &late),
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            service.query("a", "two").await
        },
        async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            service.query("a", "three").await
        },
    );
    let results = [&one, &two, &three].map(|turn| turn.result().result.as_str());
    assert_eq!(results, ["one", "echo: two", "echo: three"]);
    let texts = [&one, &two, &three].map(|turn| turn.text());
    assert_eq!(texts, ["one", "echo: two", "echo: three"]);
    service.stop().await;
}

#[tokio::test]
async fn a_first_message_later_than_its_timeout_reaches_nobody() {
    let service = Service::start(|config| {
        config.pool.stream_first_chunk_timeout = Duration::from_millis(200);
    })
    .await;
    let mut late =
        service.open(query("a", &script(&["late-init 400", "say late"]))).await.expect("taken");
    late.next().await.expect("started");
    let mut waiting = Vec::new();
    for prompt in ["two", "three"] {
        waiting.push(service.open(query("a", prompt)).await.expect("queued"));
    }
    late.finish().await;
    failure(late.error(), Code::DeadlineExceeded, "FIRST_CHUNK_TIMEOUT");
    for (mut turn, wanted) in waiting.into_iter().zip(["echo: two", "echo: three"]) {
        turn.finish().await;
        assert_eq!(turn.text(), wanted);
        assert_eq!(turn.result().result, wanted);
    }
    service.stop().await;
}

#[tokio::test]
async fn s14_queries_at_once_on_one_session_get_their_own_turns_only() {
    let service = Service::start(|_| {}).await;
    let mut queries = tokio::task::JoinSet::new();
    for n in 0..8 {
        let mut client = service.another_client().await;
        queries.spawn(async move {
            let lines = [format!("say {n} begins"), "sleep 20".into(), format!("say {n} ends")];
            let prompt = script(&lines.each_ref().map(String::as_str));
            let stream = client.query(query("a", &prompt)).await.expect("taken").into_inner();
            let mut turn = crate::support::turn::Turn::new(stream);
            turn.finish().await;
            (n, turn)
        });
    }
    let turns = queries.join_all().await;
    assert_eq!(turns.len(), 8);
    for (n, turn) in &turns {
        assert_eq!(turn.text(), format!("{n} begins\n{n} ends"));
        assert_eq!(turn.result().result, format!("{n} ends"));
        assert_eq!(turn.started().client_id, turns[0].1.started().client_id);
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn what_comes_after_a_result_is_of_no_later_turn() {
    let service = Service::start(|_| {}).await;
    let late = [
        script(&["say one", "idle-late 300"]),
        script(&["say one", "no-idle"]),
        script(&["say one", "mirror-after-result"]),
    ];
    for (n, prompt) in late.iter().enumerate() {
        let id = format!("s{n}");
        let (first, mut second) = (
            service.query(&id, prompt).await,
            service.open(query(&id, "two")).await.expect("taken"),
        );
        second.finish().await;
        assert_eq!(first.result().result, "one");
        assert_eq!(
            (second.text().as_str(), second.events[0].sequence),
            ("echo: two", 1),
            "{prompt}"
        );
        assert_eq!(service.query(&id, "three").await.text(), "echo: three");
    }
    service.stop().await;
}

#[tokio::test]
async fn sessions_do_not_share_a_conversation() {
    let service = Service::start(|_| {}).await;
    service.query("a", "secret of a").await.result();
    service.query("b", "secret of b").await.result();
    let recite = script(&["recite"]);
    let (a, b) = tokio::join!(service.query("a", &recite), service.query("b", &recite));
    assert_eq!((a.text().as_str(), b.text().as_str()), ("secret of a", "secret of b"));
    assert_ne!(a.started().cli_session_id, b.started().cli_session_id);
    service.stop().await;
}
