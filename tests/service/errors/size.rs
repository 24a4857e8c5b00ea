//! Errors reach every client: all trailers of any error fit into what client libraries
//! accept by default.

use std::collections::HashMap;

use session_pool::proto::{QueryRequest, SessionOptions};
use tonic::{Code, Request, Status};

use crate::support::{
    failure, fields,
    service::{Service, query_with},
};

/// What a client library by default takes for too large a header list.
const CLIENT_LIMIT: usize = 8 * 1024;

/// The size of the trailers that carry an error, as HTTP/2 counts a header list.
fn trailers_of(status: &Status) -> usize {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).expect("a status can be sent");
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

async fn refused(service: &Service, options: SessionOptions) -> Status {
    let status = service.open(query_with("s", "hello", options)).await.expect_err("refused");
    assert!(trailers_of(&status) < CLIENT_LIMIT, "{status:?}");
    status
}

#[tokio::test]
async fn c1_refusals_of_many_fields_reach_the_caller_with_their_reason() {
    let roots = tempfile::tempdir().expect("a folder");
    let root = |index: usize| {
        let root = roots.path().join(format!("{index:03}-{}", "long".repeat(40)));
        std::fs::create_dir(&root).expect("made");
        root.to_string_lossy().into_owned()
    };
    let all: Vec<String> = (0..50).map(root).collect();
    let service = Service::start(|config| config.policy.cwd_roots = all.clone()).await;

    let add_dirs = (0..32).map(|index| format!("/elsewhere/{index}/{}", "é".repeat(100)));
    let options = SessionOptions { add_dirs: add_dirs.collect(), ..SessionOptions::default() };
    let status = refused(&service, options).await;
    let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
    assert!(metadata["limit"].contains(&all[0]) && metadata["limit"].contains(" more"));
    assert!(fields(&status).contains(&"options.add_dirs[0]".to_owned()));

    let env: HashMap<String, String> = (0..64)
        .map(|index| (format!("NAME_{index}_{}", "X".repeat(100)), "v".to_owned()))
        .collect();
    let status = refused(&service, SessionOptions { env, ..SessionOptions::default() }).await;
    let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["limit"].matches("policy.env").count(), 1, "{metadata:?}");

    let cwd = Some(format!("/elsewhere/{}", "x".repeat(4000)));
    let status = refused(&service, SessionOptions { cwd, ..SessionOptions::default() }).await;
    let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
    assert!(metadata["limit"].contains(&all[0]), "{metadata:?}");

    // Names from a request are part of the paths of fields.
    let name = "漢".repeat(21);
    let agents: String = (0..64).map(|index| format!("\"{name}{index}\":1,")).collect();
    let agents = Some(format!("{{{}}}", agents.trim_end_matches(',')));
    let status = refused(&service, SessionOptions { agents, ..SessionOptions::default() }).await;
    failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
    service.stop().await;
}

#[tokio::test]
async fn c1_ids_that_do_not_fit_together_are_told_within_bounds() {
    let service = Service::start(|_| {}).await;
    let mut request = Request::new(QueryRequest {
        session_id: "漢".repeat(10_000),
        prompt: "hello".into(),
        ..QueryRequest::default()
    });
    request.metadata_mut().insert("session-id", "other".parse().expect("a value"));
    let status = service.client.clone().query(request).await.expect_err("refused");
    failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(trailers_of(&status) < CLIENT_LIMIT, "{status:?}");
    service.stop().await;
}
