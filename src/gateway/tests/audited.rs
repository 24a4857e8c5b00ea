//! What the gateway records in the audit log.

use serde_json::{Value, json};

use super::{Bed, Speaks, proxy::status};
use crate::{
    audit::{Audit, Place},
    policy::egress::Egress,
};

#[tokio::test]
async fn credentials_in_use_and_hosts_that_are_refused_are_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let audit = Audit::open(&Place::Files { path: path.clone(), most: 2 }).expect("opened");
    let bed = Bed::start(Speaks::Http1, |settings| {
        settings.egress = Egress::Hosts(Vec::new());
        settings.audit = audit.clone();
    })
    .await;
    let (first, second) = (bed.pass(), bed.pass());
    for pass in [&first, &first, &second] {
        assert_eq!(bed.ask(pass.token(), "/v1/messages", b"{}").await.0, 200);
    }
    for _ in 0..3 {
        assert_eq!(status(&bed, first.token(), "example.com:443").await, "HTTP/1.1 403");
    }
    assert!(audit.flush());
    let text = std::fs::read_to_string(&path).expect("a log");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("whole")).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let processes: Vec<_> =
        of("credential_used").iter().map(|it| it["client_id"].clone()).collect();
    let process = |pass: &crate::gateway::Pass| json!(pass.account().process().to_string());
    assert_eq!(processes, [process(&first), process(&second)], "once a process: {text}");
    assert_eq!(of("credential_used")[0]["credential"], "gateway.api_key_file");
    let [refused] = of("egress_refused")[..] else { panic!("one refusal: {text}") };
    assert_eq!(
        (&refused["host"], &refused["tenant"]),
        (&json!("example.com:443"), &json!("default"))
    );
    for secret in ["sk-real", first.token()] {
        assert!(!text.contains(secret), "{text}");
    }
    drop((first, second));
    bed.end().await;
}
