use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::*;
use crate::{
    budget::{Bounds, Budget},
    domain::ids::{SessionKey, TenantId},
};

const LIMIT: Duration = Duration::from_secs(300);

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a name")
}

fn session(name: &str) -> SessionId {
    SessionId::parse(name).expect("a name")
}

fn tool(name: &str) -> Tool {
    let schema = RawValue::from_string(r#"{"type":"object"}"#.to_owned()).expect("JSON");
    let (name, description) = (name.to_owned(), String::new());
    Tool { name, description, input_schema: schema, annotations: None }
}

fn offer(server: &str, tools: &[&str]) -> Offer {
    let tools = tools.iter().map(|name| tool(name)).collect();
    Offer { server: server.to_owned(), tools, sessions: Served::All }
}

fn words(text: &str) -> Answer {
    Answer { content: vec![Content::Text(text.to_owned())], is_error: false }
}

/// The tools of session `a` of a tenant, which uses the server `shop`.
fn tools_of(servers: &ToolServers, owner: &str, memory: u64) -> SessionTools {
    let bounds = Bounds { key: "all", total: memory, tenant_key: "own", of_tenant: None };
    let account = Budget::new(bounds).account(&tenant(owner));
    let turn = TurnId::parse("t").expect("a name");
    let key = SessionKey::new(tenant(owner), session("a"));
    let names = vec!["shop".to_owned()];
    SessionTools::new(servers.clone(), key, names, account, move || Some(turn.clone()))
}

async fn call(tools: SessionTools, tool: &'static str) -> Result<Answer, Failure> {
    let (progress, _reports) = mpsc::channel(1);
    tools.call("shop", tool, r#"{"q":1}"#, progress).await.answer
}

/// The next call that a backend is told of.
async fn told(backend: &Backend) -> Call {
    match backend.next().await {
        Message::Call(call) => call,
        Message::Cancel { id, reason } => panic!("{id} is cancelled: {reason}"),
    }
}

/// Whether a future is ready when it is looked at once.
async fn is_ready<T>(mut future: Pin<&mut impl Future<Output = T>>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// Whether a backend is told something already.
async fn is_told(backend: &Backend) -> bool {
    is_ready(pin!(backend.next())).await
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_its_backend_and_the_answer_comes_back() {
    let servers = ToolServers::new(LIMIT);
    let backend = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let tools = tools_of(&servers, "one", 1000);
    let serving = async {
        let Call { id, session, turn, tool, arguments, .. } = told(&backend).await;
        assert_eq!(
            (session.as_str(), tool.as_str(), arguments.as_str()),
            ("a", "look", r#"{"q":1}"#)
        );
        assert_eq!(turn, TurnId::parse("t").ok());
        backend.answer(id + 1, Ok(words("of no call")));
        backend.answer(id, Ok(words("found")));
        backend.answer(id, Ok(words("again")));
    };
    let (answer, ()) = tokio::join!(call(tools, "look"), serving);
    assert_eq!(answer, Ok(words("found")));
    assert!(!is_told(&backend).await);
}

#[tokio::test(start_paused = true)]
async fn nobody_serves_what_is_not_offered_to_the_session() {
    let servers = ToolServers::new(LIMIT);
    let tools = || tools_of(&servers, "one", 1000);
    let no_server = Err(Failure::NoServer("shop".to_owned()));
    assert_eq!(call(tools(), "look").await, no_server);
    let _another = servers.register(&tenant("two"), offer("shop", &["look"])).expect("room");
    assert_eq!(call(tools(), "look").await, no_server, "it is another tenant's");
    let others = Served::Only([session("b")].into());
    let offered = Offer { sessions: others, ..offer("shop", &["look"]) };
    let _others = servers.register(&tenant("one"), offered).expect("room");
    assert_eq!(call(tools(), "look").await, no_server, "it is another session's");
    assert!(tools().list("shop").is_empty());
    let own = Served::Only([session("a")].into());
    let offered = Offer { sessions: own, ..offer("shop", &["look"]) };
    let _own = servers.register(&tenant("one"), offered).expect("room");
    let problem = call(tools(), "buy").await.expect_err("not offered").to_string();
    assert_eq!(problem, r#"nobody serves the tool "buy" of the tool server "shop" at the moment"#);
    assert_eq!(tools().list("shop").keys().collect::<Vec<_>>(), ["look"]);
    assert!(tools().has("shop") && !tools().has("other"));
}

#[tokio::test(start_paused = true)]
async fn backends_of_one_name_share_the_calls_and_the_least_busy_goes_first() {
    let servers = ToolServers::new(LIMIT);
    let register = |tools: &[&str]| servers.register(&tenant("one"), offer("shop", tools));
    let first = register(&["look"]).expect("room");
    let second = register(&["look", "buy"]).expect("room");
    let tools = tools_of(&servers, "one", 1000);
    let mut given = Vec::new();
    let mut open = Vec::new();
    for name in ["look", "look", "buy", "look", "look"] {
        let mut calling = Box::pin(call(tools.clone(), name));
        assert!(!is_ready(calling.as_mut()).await);
        let place = if is_told(&first).await { "first" } else { "second" };
        given.push(place);
        open.push(calling);
    }
    // `is_told` takes a message only if there is one; those of the second are still there.
    assert_eq!(given, ["first", "second", "second", "first", "second"]);
    for name in ["look", "buy", "look"] {
        assert_eq!(told(&second).await.tool, name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_goes_fails_its_calls_at_once_and_another_takes_the_next() {
    let servers = ToolServers::new(LIMIT);
    let backend = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let tools = tools_of(&servers, "one", 1000);
    let before = Instant::now();
    let going = async {
        told(&backend).await;
        drop(backend);
    };
    let (answer, ()) = tokio::join!(call(tools.clone(), "look"), going);
    assert_eq!(answer, Err(Failure::Gone("look".to_owned())));
    assert_eq!(before.elapsed(), Duration::ZERO);
    let again = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let serving = async { again.answer(told(&again).await.id, Ok(words("back"))) };
    let (answer, ()) = tokio::join!(call(tools, "look"), serving);
    assert_eq!(answer, Ok(words("back")));
}

#[tokio::test(start_paused = true)]
async fn a_call_has_so_long_and_its_backend_hears_of_the_end() {
    let servers = ToolServers::new(LIMIT);
    let backend = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let tools = tools_of(&servers, "one", 1000);
    let before = Instant::now();
    let (answer, given) = tokio::join!(call(tools.clone(), "look"), told(&backend));
    let problem = answer.expect_err("late").to_string();
    let wanted = r#"the tool "look" did not answer within 300s (policy.tool_call_timeout)"#;
    assert_eq!((problem.as_str(), before.elapsed()), (wanted, LIMIT));
    let reason = "its deadline has passed (policy.tool_call_timeout)".to_owned();
    assert_eq!(backend.next().await, Message::Cancel { id: given.id, reason });
    // One that was never told of a call hears nothing of its end either.
    assert!(call(tools, "look").await.is_err());
    assert!(!is_told(&backend).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_is_cancelled_and_its_answer_ignored() {
    let servers = ToolServers::new(LIMIT);
    let backend = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let tools = tools_of(&servers, "one", 1000);
    let given = tokio::select! {
        given = told(&backend) => given,
        answer = call(tools, "look") => panic!("{answer:?}"),
    };
    let Message::Cancel { id, reason } = backend.next().await else { panic!("cancelled") };
    assert_eq!((id, reason.is_empty()), (given.id, false));
    backend.answer(id, Ok(words("late")));
    assert!(!is_told(&backend).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_out_of_its_bounds_fails_its_call_and_its_backend_hears_why() {
    let servers = ToolServers::new(LIMIT);
    let backend = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let tools = tools_of(&servers, "one", 1000);
    let serving = async {
        let id = told(&backend).await.id;
        backend.answer(id, Err("result.content has too much".to_owned()));
        assert!(matches!(backend.next().await,
            Message::Cancel { reason, .. } if reason.contains("result.content has too much")));
    };
    let (answer, ()) = tokio::join!(call(tools, "look"), serving);
    assert_eq!(answer, Err(Failure::Malformed("result.content has too much".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn what_callers_can_make_pile_up_is_bounded() {
    let servers = ToolServers::new(LIMIT);
    let backend = servers.register(&tenant("one"), offer("shop", &["look"])).expect("room");
    let tools = tools_of(&servers, "one", 10_000);
    let mut open = Vec::new();
    for _ in 0..MAX_OPEN {
        let mut calling = Box::pin(call(tools.clone(), "look"));
        assert!(!is_ready(calling.as_mut()).await);
        open.push(calling);
    }
    assert_eq!(call(tools.clone(), "look").await, Err(Failure::Busy("look".to_owned())));
    drop(open);
    assert!(!is_told(&backend).await, "nothing waits for a backend that has read nothing");
    let poor = tools_of(&servers, "one", 3);
    assert_eq!(call(poor, "look").await, Err(Failure::Memory("all")));
    let (progress, _reports) = mpsc::channel(1);
    let long = format!("\"{}\"", "x".repeat(MAX_ARGUMENTS));
    let refused = tools.call("shop", "look", &long, progress).await.answer;
    assert_eq!(refused, Err(Failure::Arguments(MAX_ARGUMENTS + 2)));

    let names: Vec<_> = (0..MAX_TOOLS).map(|n| format!("t{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let register =
        |server: &str, names: &[&str]| servers.register(&tenant("one"), offer(server, names));
    let refused = register("shop", &names).expect_err("one beside them");
    assert_eq!(refused, Refused::TooManyTools(MAX_TOOLS + 1));
    let mut backends = vec![backend];
    backends.extend((1..MAX_BACKENDS).map(|_| register("other", &names).expect("room")));
    assert_eq!(register("more", &["x"]).expect_err("full"), Refused::TooManyBackends);
    drop(backends.pop());
    register("more", &["x"]).expect("a place is free again");
}

#[tokio::test(start_paused = true)]
async fn the_list_is_what_can_be_called_and_the_later_of_two_is_shown() {
    let servers = ToolServers::new(LIMIT);
    let tools = tools_of(&servers, "one", 1000);
    let mut changes = tools.changes();
    let first = servers.register(&tenant("one"), offer("shop", &["look", "buy"])).expect("room");
    assert!(changes.has_changed().expect("there"));
    changes.mark_unchanged();
    let mut offered = offer("shop", &["look"]);
    offered.tools[0].description = "later".to_owned();
    let _second = servers.register(&tenant("one"), offered).expect("room");
    assert!(changes.has_changed().expect("there"));
    changes.mark_unchanged();
    let listed = tools.list("shop");
    let shown: Vec<_> =
        listed.values().map(|tool: &Arc<Tool>| (&*tool.name, &*tool.description)).collect();
    assert_eq!(shown, [("buy", ""), ("look", "later")]);
    drop(first);
    assert!(changes.has_changed().expect("there"));
    assert_eq!(tools.list("shop").len(), 1);
}
