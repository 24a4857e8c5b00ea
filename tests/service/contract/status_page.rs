//! The status page, as a browser asks for it. What the browser makes of it is tried in a real one:
//! `tests/clients/observability`.

use std::net::SocketAddr;

use serde_json::Value;

use super::metrics::{get, measured};
use crate::support::{
    eventually,
    service::{Service, script},
};

/// A service with a status page, and where that is.
async fn shown() -> (Service, SocketAddr) {
    measured(|config| config.metrics.status_page = true).await
}

async fn json(address: SocketAddr, path: &str) -> Value {
    let (code, head, body) = get(address, path).await;
    assert_eq!(code, 200, "{path}: {body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    serde_json::from_str(&body).expect("JSON")
}

/// The names of a page's sessions.
fn names(page: &Value) -> Vec<&str> {
    let sessions = page["sessions"].as_array().expect("a list");
    sessions.iter().map(|it| it["session"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn the_page_comes_with_a_policy_that_lets_nothing_else_in() {
    let (service, address) = shown().await;
    let (code, head, page) = get(address, "/").await;
    assert_eq!(code, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for senseless in ["limit=0", "tenant=%3Cscript%3E", "q=1&q=2&other=3"] {
        assert_eq!(
            get(address, &format!("/sessions.json?{senseless}")).await.0,
            400,
            "{senseless}"
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_page_by_page_and_found_by_what_they_are_called() {
    let (service, address) = shown().await;
    for name in ["apple", "banana", "cherry"] {
        service.query(name, "one").await.result();
    }
    let all = json(address, "/sessions.json").await;
    assert_eq!(names(&all), ["apple", "banana", "cherry"]);
    assert_eq!(all["next"], Value::Null);
    let first = &all["sessions"][0];
    assert_eq!((&first["state"], &first["tenant"]), (&"active".into(), &"default".into()));
    assert!(first["process_id"].is_u64() && first["messages"] == 1, "{first}");

    let (mut seen, mut path) = (Vec::new(), "/sessions.json?limit=1".to_owned());
    loop {
        let page = json(address, &path).await;
        seen.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_object() else { break };
        let text = |name: &str| next[name].as_str().expect("text").to_owned();
        let (tenant, after) = (text("tenant"), text("after"));
        path = format!("/sessions.json?limit=1&tenant={tenant}&after={after}");
    }
    assert_eq!(seen, ["apple", "banana", "cherry"]);
    for (text, found) in
        [("ANAN", vec!["banana"]), ("active", vec!["apple", "banana", "cherry"]), ("%3Cb", vec![])]
    {
        let page = json(address, &format!("/sessions.json?q={text}")).await;
        assert_eq!(names(&page), found, "{text}");
    }
    service.stop().await;
}

#[tokio::test]
async fn what_is_shown_are_names_numbers_and_reasons_and_nothing_that_was_said() {
    let (service, address) = shown().await;
    service.query("talks", "a secret question").await.result();
    let fails = script(&["raw this is no frame, and a secret answer", "exit 3"]);
    service.query("fails", &fails).await;
    let overview = eventually("the failure is shown", async || {
        let overview = json(address, "/status.json").await;
        (!overview["failures"].as_array().expect("a list").is_empty()).then_some(overview)
    })
    .await;
    let failure = &overview["failures"][0];
    assert_eq!((&failure["session"], &failure["tenant"]), (&"fails".into(), &"default".into()));
    assert_eq!(failure["reason"], "CLI_EXITED", "{failure}");
    assert_eq!(overview["sessions"]["total"], 2, "{overview}");
    assert_eq!(overview["turns"]["taken"], 2);
    assert_eq!(overview["nodes"].as_array().map(Vec::len), Some(1));
    assert_eq!(overview["store"]["failing"], Value::Null);
    let listed = json(address, "/sessions.json").await;
    assert!(!format!("{overview}{listed}").contains("secret"), "{overview}{listed}");
    service.stop().await;
}

#[tokio::test]
async fn there_is_no_page_unless_the_operator_wants_one() {
    let (service, address) = measured(|_| {}).await;
    for path in ["/", "/status.json", "/sessions.json"] {
        assert_eq!(get(address, path).await.0, 404, "{path}");
    }
    assert_eq!(get(address, "/metrics").await.0, 200);
    service.stop().await;
}
