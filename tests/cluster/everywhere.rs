//! Calls about the sessions of all nodes: asked at one, answered for all that can be reached.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use session_pool::proto::{
    GetStatsRequest, GetStatsResponse, InterruptAllRequest, InterruptAllResponse,
    ListSessionsRequest, ListSessionsResponse, NodeStats, SessionStatus, StatsScope,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    bed::{Pair, Places, caller, node},
    stand_in::{StandIn, answer, framed},
    support::{
        eventually, free_address,
        service::{Service, query, script},
        turn::Turn,
    },
};

const OF_ALL: GetStatsRequest =
    GetStatsRequest { all_tenants: false, scope: StatsScope::Cluster as i32 };

async fn stats(service: &Service) -> GetStatsResponse {
    service.client.clone().get_stats(OF_ALL).await.expect("answered").into_inner()
}

async fn interrupt_all(service: &Service) -> InterruptAllResponse {
    let request = InterruptAllRequest::default();
    service.client.clone().interrupt_all(request).await.expect("answered").into_inner()
}

async fn list(service: &Service, request: ListSessionsRequest) -> ListSessionsResponse {
    service.client.clone().list_sessions(request).await.expect("answered").into_inner()
}

fn row<'a>(stats: &'a GetStatsResponse, name: &str) -> &'a NodeStats {
    stats.nodes.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("{name}: {stats:?}"))
}

/// A turn that runs until it is stopped.
async fn hang(service: &Service, session: &str) -> Turn {
    let prompt = script(&["say begun", "hang"]);
    let mut turn = service.open(query(session, &prompt)).await.expect("taken");
    turn.until_text("begun").await;
    turn
}

fn trailers() -> &'static [(&'static str, &'static str)] {
    &[("grpc-status", "0")]
}

#[tokio::test]
async fn figures_are_summed_over_those_that_answer_and_the_others_are_named_in_time() {
    let pair = Pair::start(|_| {}).await;
    let (asked, other) = (&pair.asked, &pair.owner);
    asked.query("here", &script(&["say hello"])).await;
    let _turns = [hang(other, "there").await, hang(other, "too").await];
    // One that nobody listens for, one that says nothing, one that says not where it is, and one
    // of a version that does not know what it is asked.
    pair.places.reach("gone", Some(free_address().to_string()));
    let silent = StandIn::start(|_| std::future::pending()).await;
    pair.places.reach("silent", Some(silent.address.clone()));
    pair.places.reach("somewhere", None);
    let told = GetStatsResponse {
        total_sessions: 70,
        hibernated_sessions: 69,
        streaming_turns: 1,
        service_version: "0.1.0".to_owned(),
        ..GetStatsResponse::default()
    };
    let old = StandIn::start(move |_| {
        let told = framed(&told);
        async move { answer(tokio_stream::once(told), trailers()) }
    })
    .await;
    pair.places.reach("old", Some(old.address.clone()));

    let began = Instant::now();
    let all = stats(asked).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let named: Vec<_> = all.nodes.iter().map(|row| (row.name.as_str(), row.reached)).collect();
    let wanted = [
        ("a", true),
        ("b", true),
        ("gone", false),
        ("old", true),
        ("silent", false),
        ("somewhere", false),
    ];
    assert_eq!(named, wanted, "by name");
    // Of the old one's sessions one has a process, whatever the others are.
    assert_eq!((all.total_sessions, all.streaming_turns), (4, 3), "{all:?}");
    let counters = all.counters.expect("counted");
    assert_eq!((counters.turns, counters.turns_completed), (3, 1));
    let own = |name: &str| row(&all, name).stats.clone().expect("told");
    assert_eq!((own("a").total_sessions, own("b").total_sessions), (1, 2));
    assert_eq!((own("a").streaming_turns, own("b").streaming_turns), (0, 2));
    assert_eq!(own("old").service_version, "0.1.0");
    assert!(row(&all, "gone").reason.contains("refused"), "{all:?}");
    assert!(row(&all, "silent").reason.contains("no answer within 1.5 s"), "{all:?}");
    assert!(row(&all, "somewhere").reason.contains("cluster.advertise"), "{all:?}");
    assert_eq!(row(&all, "b").incarnation, "life of b");
    assert!(row(&all, "b").address.starts_with("localhost:"), "{all:?}");
    assert!(own("a").uptime.is_some() && all.uptime.is_none(), "of each");
    assert!(asked.stats().await.nodes.is_empty(), "who asks for this node gets one node");
    pair.stop().await;
}

#[tokio::test]
async fn where_there_is_one_node_all_nodes_are_one() {
    let service = Service::start(|config| config.cluster.node = "alone".to_owned()).await;
    service.query("s", "hello").await.result();
    let all = stats(&service).await;
    let [row] = &all.nodes[..] else { panic!("{all:?}") };
    assert_eq!((row.name.as_str(), row.reached, row.draining), ("alone", true, false));
    assert_eq!((all.total_sessions, all.counters.expect("counted").turns), (1, 1));
    assert_eq!(row.stats.as_ref().map(|own| own.total_sessions), Some(1));
    let listed = list(&service, ListSessionsRequest::default()).await;
    assert_eq!((listed.sessions.len(), listed.sessions[0].node.as_str()), (1, ""));
    assert!(interrupt_all(&service).await.unreached_nodes.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn all_turns_are_stopped_at_all_nodes_each_told_once() {
    let pair = Pair::start(|_| {}).await;
    let third = node("c", &pair.places, |_| {}).await;
    pair.places.reach("gone", Some(free_address().to_string()));
    let told = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&told);
    let counted = StandIn::start(move |request| {
        let hop = request.headers().get("x-session-pool-hop").map(|it| it.as_bytes().to_vec());
        assert_eq!(hop.as_deref(), Some(&b"a"[..]), "it says who asks");
        counting.fetch_add(1, Ordering::SeqCst);
        let nothing = framed(&InterruptAllResponse::default());
        async move { answer(tokio_stream::once(nothing), trailers()) }
    })
    .await;
    pair.places.reach("counted", Some(counted.address.clone()));
    let mut turns =
        [hang(&pair.asked, "s1").await, hang(&pair.owner, "s2").await, hang(&third, "s3").await];
    let all = interrupt_all(&pair.asked).await;
    for turn in &mut turns {
        turn.finish().await;
    }
    assert_eq!((all.interrupted_count, all.session_count), (3, 3), "{all:?}");
    let results: Vec<_> = all
        .results
        .iter()
        .map(|it| (it.session_id.as_str(), it.node.as_str(), it.had_active_turn))
        .collect();
    assert_eq!(results, [("s1", "a", true), ("s2", "b", true), ("s3", "c", true)]);
    let unreached: Vec<_> = all.unreached_nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(unreached, ["gone"]);
    assert_eq!(told.load(Ordering::SeqCst), 1);
    // That it is not known which nodes there are stops nobody.
    let _turn = hang(&pair.owner, "s2").await;
    pair.places.lose();
    let all = interrupt_all(&pair.asked).await;
    assert_eq!(all.results.iter().filter(|it| it.had_active_turn).count(), 1, "{all:?}");
    assert!(all.unreached_nodes[0].reason.contains("lost"), "{all:?}");
    third.stop().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_node_that_another_one_asks_serves_itself_alone() {
    let pair = Pair::start(|_| {}).await;
    let (_here, mut there) = (hang(&pair.asked, "s1").await, hang(&pair.owner, "s2").await);
    // Nodes that show each other nothing take a neighbour for one: it gets less, and nothing more.
    let hop = caller(&pair.asked.address, &[("x-session-pool-hop", "b")]).await;
    let told = hop.clone().get_stats(OF_ALL).await.expect("answered").into_inner();
    assert_eq!(told.nodes.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let listed = hop.clone().list_sessions(ListSessionsRequest::default()).await;
    let listed = listed.expect("answered").into_inner();
    assert_eq!(listed.sessions.iter().map(|it| it.session_id.as_str()).collect::<Vec<_>>(), ["s1"]);
    let all = hop.clone().interrupt_all(InterruptAllRequest::default()).await;
    let all = all.expect("answered").into_inner();
    assert_eq!((all.session_count, all.results[0].session_id.as_str()), (1, "s1"));
    let shown = pair.owner.session("s2").await.expect("shown");
    assert!(!shown.running_turn_id.is_empty(), "{shown:?}");
    pair.owner.interrupt("s2", true).await;
    there.finish().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_node_that_is_killed_while_it_is_asked_is_named() {
    let pair = Pair::start(|_| {}).await;
    let came = Arc::new(Notify::new());
    let told = Arc::clone(&came);
    let dying = StandIn::start(move |_| {
        told.notify_one();
        std::future::pending()
    })
    .await;
    pair.places.reach("dying", Some(dying.address.clone()));
    let mut turn = hang(&pair.owner, "s").await;
    let asking = async { interrupt_all(&pair.asked).await };
    let dies = async {
        came.notified().await;
        dying.die();
    };
    let (all, ()) = tokio::join!(asking, dies);
    turn.finish().await;
    assert_eq!((all.session_count, all.results[0].node.as_str()), (1, "b"), "{all:?}");
    let unreached: Vec<_> = all.unreached_nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(unreached, ["dying"]);
    assert!(!row(&stats(&pair.asked).await, "dying").reached);
    pair.stop().await;
}

#[tokio::test]
async fn sessions_of_all_nodes_are_listed_in_pages_each_once_as_it_is_where_it_lives() {
    let pair = Pair::start(|_| {}).await;
    let mut wanted = Vec::new();
    for number in 0..12 {
        let (service, name) = match number % 3 {
            0 => (&pair.owner, "b"),
            _ => (&pair.asked, "a"),
        };
        let session = format!("s{number:02}");
        service.query(&session, "hello").await.result();
        wanted.push((session, name.to_owned()));
    }
    let running = hang(&pair.owner, "s03").await;
    for size in [1, 2, 5, 100] {
        let (mut found, mut request) = (Vec::new(), ListSessionsRequest::default());
        request.page_size = size;
        loop {
            let page = list(&pair.asked, request.clone()).await;
            assert!(page.sessions.len() <= size as usize && page.unreached_nodes.is_empty());
            for session in page.sessions {
                let is_running = session.session_id == "s03";
                assert_eq!(session.status(), SessionStatus::Active);
                assert_eq!(!session.running_turn_id.is_empty(), is_running, "{session:?}");
                assert!(session.process_id > 0);
                found.push((session.session_id, session.node));
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(found, wanted, "pages of {size}");
    }
    drop(running);
    let turn_is_over = async || {
        let shown = pair.asked.client.clone();
        let page = shown.clone().list_sessions(ListSessionsRequest::default()).await;
        let page = page.expect("listed").into_inner();
        page.sessions.iter().all(|it| it.running_turn_id.is_empty()).then_some(())
    };
    eventually("nothing runs any more", turn_is_over).await;
    pair.places.reach("gone", Some(free_address().to_string()));
    let page = list(&pair.asked, ListSessionsRequest::default()).await;
    assert_eq!((page.sessions.len(), page.unreached_nodes.len()), (12, 1));
    assert_eq!(page.unreached_nodes[0].name, "gone");
    pair.stop().await;
}

#[tokio::test]
async fn pages_have_no_gap_where_a_node_tells_fewer_sessions_than_it_was_asked_for() {
    let places = Places::default();
    let asked = node("a", &places, |_| {}).await;
    for session in ["d", "e", "f"] {
        asked.query(session, "hello").await.result();
    }
    let session = |id: &str| session_pool::proto::Session {
        session_id: id.to_owned(),
        node: "b".to_owned(),
        process_id: 7,
        ..session_pool::proto::Session::default()
    };
    // Its sessions are so long that it tells one at a time.
    let asked_for = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked_for);
    let other = StandIn::start(move |_| {
        let all = ["a", "e2", "z"];
        let at = count.fetch_add(1, Ordering::SeqCst);
        let (told, more) = (all.get(at).copied(), at + 1 < all.len());
        let page = ListSessionsResponse {
            sessions: told.map(session).into_iter().collect(),
            next_page_token: told.filter(|_| more).unwrap_or_default().to_owned(),
            unreached_nodes: Vec::new(),
        };
        async move { answer(tokio_stream::once(framed(&page)), trailers()) }
    })
    .await;
    places.reach("b", Some(other.address.clone()));
    let (mut found, mut request) = (Vec::new(), ListSessionsRequest::default());
    loop {
        let page = list(&asked, request.clone()).await;
        found.extend(page.sessions.into_iter().map(|session| session.session_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(found, ["a", "d", "e", "e2", "f", "z"]);
    asked.stop().await;
}
