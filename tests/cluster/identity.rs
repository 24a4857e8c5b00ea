//! For whom a call is made, and that nobody else can say so than a node.

use std::{fs, path::PathBuf};

use session_pool::{
    config::Config,
    internals::{access::tokens::fresh, domain::ids::TenantId},
    proto::{
        GetSessionRequest, GetStatsRequest, GetStatsResponse, InterruptAllRequest,
        ListSessionsRequest, NodeStats, StatsScope,
    },
};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::{
    bed::{Caller, Places, caller, node, open},
    support::{
        eventually, failure, log,
        service::{Service, query, script},
    },
};

const NODE_TOKEN: &str = "node-token-of-32-characters-or-more";

/// Two nodes that ask their callers who they are, and know each other by a token.
pub struct Bed {
    pub asked: Service,
    pub owner: Service,
    pub places: Places,
    folder: TempDir,
    /// Of tenants `a`, `b`, and of an admin of tenant `ops`.
    pub tokens: [String; 3],
}

impl Bed {
    async fn start(change: impl Fn(&mut Config)) -> Self {
        let folder = TempDir::new().expect("a folder");
        let made = [("a", false), ("b", false), ("ops", true)]
            .map(|(tenant, admin)| fresh(&TenantId::parse(tenant).expect("a name"), admin, None));
        let entries = made.each_ref().map(|(_, entry)| entry.as_str()).join("\n");
        fs::write(folder.path().join("tokens.toml"), entries).expect("written");
        fs::write(folder.path().join("node-token"), NODE_TOKEN).expect("written");
        let places = Places::default();
        let set_up = |config: &mut Config| {
            config.auth.tokens_file = Some(folder.path().join("tokens.toml"));
            config.cluster.token_file = Some(folder.path().join("node-token"));
            change(config);
        };
        let asked = node("a", &places, set_up).await;
        let owner = node("b", &places, set_up).await;
        places.put("s", "b");
        Self { asked, owner, places, folder, tokens: made.map(|(token, _)| token) }
    }

    async fn caller(&self, service: &Service, token: usize, more: &[(&str, &str)]) -> Caller {
        let bearer = format!("Bearer {}", self.tokens[token]);
        caller(&service.address, &[&[("authorization", bearer.as_str())], more].concat()).await
    }

    fn node_token(&self) -> PathBuf {
        self.folder.path().join("node-token")
    }

    async fn stop(self) {
        self.asked.stop().await;
        self.owner.stop().await;
    }
}

/// What somebody writes who wants to be taken for a node that speaks for an admin of tenant `a`.
const FORGED: [(&str, &str); 4] = [
    ("x-session-pool-hop", "b"),
    ("x-session-pool-tenant", "a"),
    ("x-session-pool-admin", "true"),
    ("x-session-pool-caller-bin", "somebody"),
];

async fn get(caller: &Caller, session: &str) -> Result<(), Status> {
    let request = GetSessionRequest { session_id: session.into() };
    caller.clone().get_session(request).await.map(drop)
}

/// Whether the caller reaches what belongs to all tenants.
async fn is_admin(caller: &Caller) -> Result<(), Status> {
    caller
        .clone()
        .get_stats(GetStatsRequest { all_tenants: true, ..Default::default() })
        .await
        .map(drop)
}

#[tokio::test]
async fn the_owner_serves_the_caller_s_tenant_and_no_other() {
    let bed = Bed::start(|_| {}).await;
    let a = bed.caller(&bed.asked, 0, &[]).await;
    let mut turn = open(&a, query("s", &script(&["say mine"]))).await.expect("taken");
    turn.finish().await;
    assert_eq!(turn.text(), "mine");
    get(&a, "s").await.expect("its own");
    get(&bed.caller(&bed.owner, 0, &[]).await, "s").await.expect("the same there");
    for other in [1, 2] {
        let other = bed.caller(&bed.asked, other, &[]).await;
        let status = get(&other, "s").await.expect_err("another tenant's");
        failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
    }
    bed.stop().await;
}

#[tokio::test]
async fn nobody_becomes_another_tenant_or_an_admin_by_what_only_nodes_write() {
    let bed = Bed::start(|_| {}).await;
    let a = bed.caller(&bed.owner, 0, &[]).await;
    let mut turn = open(&a, query("s", "hello")).await.expect("taken");
    turn.finish().await;
    for service in [&bed.asked, &bed.owner] {
        // It is b whatever it writes.
        let b = bed.caller(service, 1, &FORGED).await;
        let status = get(&b, "s").await.expect_err("another tenant's");
        failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
        let status = is_admin(&b).await.expect_err("no admin");
        failure(&status, Code::PermissionDenied, "POLICY_DENIED");
        // It is nobody without a token of its own.
        let nobody = caller(&service.address, &FORGED).await;
        let status = get(&nobody, "s").await.expect_err("nobody");
        failure(&status, Code::Unauthenticated, "UNAUTHENTICATED");
        // Nor does a wrong node's token help, with a good one of its own or without.
        let wrong = ("x-session-pool-node-token", "wrong-wrong-wrong-wrong-wrong-wrong");
        let forged = [&FORGED[..], &[wrong]].concat();
        for liar in [
            bed.caller(service, 1, &forged).await,
            caller(&service.address, &forged).await,
            bed.caller(
                service,
                1,
                &[&forged[..], &[("x-session-pool-node-token", NODE_TOKEN)]].concat(),
            )
            .await,
        ] {
            let status = get(&liar, "s").await.expect_err("a liar");
            failure(&status, Code::Unauthenticated, "UNAUTHENTICATED");
        }
    }
    // A caller cannot keep its call here either by saying that it was forwarded.
    let b = bed.caller(&bed.asked, 1, &[("x-session-pool-hop", "b")]).await;
    let mut turn = open(&b, query("s", &script(&["say at b"]))).await.expect("taken");
    turn.finish().await;
    let mut admin = bed.caller(&bed.asked, 2, &[]).await;
    let stats = admin.get_stats(GetStatsRequest { all_tenants: true, ..Default::default() });
    assert_eq!(stats.await.expect("an admin").into_inner().total_sessions, 0);
    bed.stop().await;
}

/// The figures of all nodes; of all tenants as well, where one says so.
async fn of_all_nodes(caller: &Caller, all_tenants: bool) -> Result<GetStatsResponse, Status> {
    let request = GetStatsRequest { all_tenants, scope: StatsScope::Cluster.into() };
    caller.clone().get_stats(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn calls_about_all_nodes_reach_the_caller_s_tenant_and_for_admins_all() {
    let bed = Bed::start(|_| {}).await;
    let hangs = |session: &str| query(session, &script(&["say begun", "hang"]));
    let a = [bed.caller(&bed.asked, 0, &[]).await, bed.caller(&bed.owner, 0, &[]).await];
    let mut turns = Vec::new();
    for (number, caller) in a.iter().enumerate() {
        let mut turn = open(caller, hangs(&format!("mine{number}"))).await.expect("taken");
        turn.until_text("begun").await;
        turns.push(turn);
    }
    // Whatever it writes, another tenant reaches nothing of it, at no node.
    for forged in [&[][..], &FORGED] {
        let b = bed.caller(&bed.asked, 1, forged).await;
        let all = of_all_nodes(&b, false).await.expect("its own");
        assert_eq!((all.total_sessions, all.nodes.len()), (0, 2), "{all:?}");
        let is_told = |row: &NodeStats| row.reached && row.address.is_empty();
        assert!(all.nodes.iter().all(is_told), "{all:?}");
        let status = of_all_nodes(&b, true).await.expect_err("no admin");
        failure(&status, Code::PermissionDenied, "POLICY_DENIED");
        let request = InterruptAllRequest { all_tenants: true };
        let status = b.clone().interrupt_all(request).await.expect_err("no admin");
        failure(&status, Code::PermissionDenied, "POLICY_DENIED");
        let own = b.clone().interrupt_all(InterruptAllRequest::default()).await;
        assert_eq!(own.expect("its own").into_inner().session_count, 0);
        let listed = b.clone().list_sessions(ListSessionsRequest::default()).await;
        assert!(listed.expect("its own").into_inner().sessions.is_empty());
    }
    let own = of_all_nodes(&a[0], false).await.expect("its own");
    assert_eq!((own.total_sessions, own.streaming_turns), (2, 2));
    let admin = bed.caller(&bed.asked, 2, &[]).await;
    assert_eq!(of_all_nodes(&admin, false).await.expect("its own").total_sessions, 0);
    assert_eq!(of_all_nodes(&admin, true).await.expect("of all").total_sessions, 2);
    let all = admin.clone().interrupt_all(InterruptAllRequest { all_tenants: true }).await;
    let all = all.expect("an admin").into_inner();
    let told: Vec<_> = all.results.iter().map(|it| (it.session_id.as_str(), &*it.node)).collect();
    assert_eq!(told, [("mine0", "a"), ("mine1", "b")]);
    for turn in &mut turns {
        turn.finish().await;
    }
    // One that is not taken for a node is told apart from one that is gone.
    fs::write(bed.node_token(), "another-token-of-32-characters-or-more").expect("written");
    let third = node("c", &bed.places, |config| {
        config.auth.tokens_file = Some(bed.folder.path().join("tokens.toml"));
    })
    .await;
    let all = of_all_nodes(&bed.caller(&third, 0, &[]).await, false).await.expect("its own");
    let reasons: Vec<_> = all.nodes.iter().map(|row| row.reason.as_str()).collect();
    assert!(reasons[..2].iter().all(|it| it.contains("does not take this node")), "{reasons:?}");
    third.stop().await;
    bed.stop().await;
}

#[tokio::test]
async fn where_nodes_have_a_listener_of_their_own_they_come_by_no_other() {
    let bed = Bed::start(|config| config.cluster.listen = Some(([127, 0, 0, 1], 0).into())).await;
    let a = bed.caller(&bed.asked, 0, &[]).await;
    let mut turn = open(&a, query("s", "hello")).await.expect("taken");
    turn.finish().await;
    assert!(turn.end.as_ref().is_some_and(Result::is_ok), "{:?}", turn.end);
    // The good token means nothing where callers come.
    let node = [&FORGED[..], &[("x-session-pool-node-token", NODE_TOKEN)]].concat();
    let leaked = caller(&bed.owner.address, &node).await;
    let status = get(&leaked, "s").await.expect_err("no caller");
    failure(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    let b = bed.caller(&bed.owner, 1, &node).await;
    failure(&get(&b, "s").await.expect_err("b's"), Code::NotFound, "SESSION_NOT_FOUND");
    // And a good caller's token means nothing where nodes come, nor is health told.
    let listener = format!("http://{}", bed.places.address_of("b"));
    let bearer = format!("Bearer {}", bed.tokens[2]);
    let admin = caller(&listener, &[("authorization", &bearer)]).await;
    let status = get(&admin, "s").await.expect_err("no node");
    failure(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    assert!(status.message().contains("only other nodes"), "{status:?}");
    let channel = tonic::transport::Endpoint::from_shared(listener.clone()).expect("an address");
    let channel = channel.connect().await.expect("connected");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let check = tonic_health::pb::HealthCheckRequest::default();
    let status = health.check(check).await.expect_err("no node");
    assert_eq!(status.code(), Code::Unauthenticated);
    get(&caller(&listener, &node).await, "s").await.expect("a node that speaks for a");
    bed.stop().await;
}

#[tokio::test]
async fn a_node_with_another_token_is_refused_until_its_file_is_the_same() {
    let bed = Bed::start(|_| {}).await;
    let other = bed.folder.path().join("other-token");
    fs::write(&other, "another-token-of-32-characters-or-more").expect("written");
    let tokens = bed.folder.path().join("tokens.toml");
    let third = node("c", &bed.places, |config| {
        config.auth.tokens_file = Some(tokens);
        config.cluster.token_file = Some(other.clone());
    })
    .await;
    let a = bed.caller(&third, 0, &[]).await;
    // The caller has done nothing wrong, and is not told that it has.
    let status = get(&a, "s").await.expect_err("refused there");
    failure(&status, Code::Unavailable, "SESSION_MOVED");
    assert!(!log::named("node_refused").is_empty());
    assert!(!log::mentions("another-token-of-32"));
    // The new token is accepted before it is sent, then sent, then the old one goes.
    fs::write(
        bed.node_token(),
        format!("{NODE_TOKEN}\n{}", fs::read_to_string(&other).expect("read")),
    )
    .expect("written");
    eventually("the third is believed", async || {
        let status = get(&a, "s").await.expect_err("no session");
        (status.code() == Code::NotFound).then_some(())
    })
    .await;
    third.stop().await;
    bed.stop().await;
}

#[tokio::test]
async fn where_nodes_show_nothing_a_neighbour_may_forward_and_is_everybody_s_equal() {
    let places = Places::default();
    let owner = node("b", &places, |_| {}).await;
    owner.query("s", "hello").await.result();
    let neighbour = caller(&owner.address, &FORGED).await;
    get(&neighbour, "s").await.expect("the one tenant that there is");
    owner.stop().await;
}
