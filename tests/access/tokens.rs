//! Bearer tokens: wrong, missing, malformed, expired, revoked, replaced.

use std::{fs, os::unix::fs::symlink, time::Duration};

use rustix::process::Signal;
use session_pool::{
    proto::session_pool_service_client::SessionPoolServiceClient as Client, server::Server,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::{
    bed::{Bearer, Bed, file_of, knock, token},
    support::{
        daemon::Daemon,
        eventually, failure, log,
        service::{Service, fake_cli, process_tree, query, script},
        turn::Turn,
    },
};

#[tokio::test]
async fn whoever_has_no_good_token_stays_outside_and_is_told_why() {
    let good = token("a", false, None);
    let expired = token("a", false, Some(Duration::ZERO));
    let unknown = token("a", true, None);
    let bed = Bed::start(&[&good, &expired]).await;
    knock(&bed.client(&good)).await.expect("let in");
    let bearer = |secret: &str| Some(format!("Bearer {secret}"));
    for (header, told) in [
        (None, "missing"),
        (Some("Basic abc".to_owned()), "not of the form"),
        (Some("Bearer".to_owned()), "not of the form"),
        (bearer(&unknown.secret), "not known"),
        (bearer(&good.secret[1..]), "not known"),
        (bearer(&expired.secret), "has expired"),
    ] {
        let status = knock(&bed.client_saying(header.clone())).await.expect_err("refused");
        failure(&status, Code::Unauthenticated, "UNAUTHENTICATED");
        assert!(status.message().contains(told), "{header:?}: {}", status.message());
        if let Some((_, secret)) = header.as_deref().and_then(|header| header.split_once(' ')) {
            assert!(!format!("{status:?}").contains(secret), "the credential is not repeated");
        }
    }
    // A stream is refused like any other call.
    let mut nobody = bed.client_saying(None);
    let status = nobody.query(query("s", "hello")).await.expect_err("refused");
    failure(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(bed.service.processes(), [0; 0], "nothing was started");
    // Whoever looks after the service sees who tried, and nobody's credentials.
    let tried = log::named("unauthenticated");
    assert!(tried.iter().any(|event| event.fields.contains_key("peer")), "{tried:?}");
    for secret in [&good.secret, &expired.secret, &unknown.secret] {
        let found = log::mentioning(secret);
        assert!(found.is_empty(), "a credential in the log: {found:?}");
    }
    bed.service.stop().await;
}

#[tokio::test]
async fn probes_need_no_token_and_reflection_does() {
    let good = token("a", false, None);
    let bed = Bed::start(&[&good]).await;
    let mut health = HealthClient::new(bed.channel());
    let request = HealthCheckRequest { service: "liveness".into() };
    health.check(request).await.expect("answered");

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut nobody = ServerReflectionClient::new(bed.channel());
    let asked = nobody.server_reflection_info(tokio_stream::once(ask.clone())).await;
    assert_eq!(asked.expect_err("refused").code(), Code::Unauthenticated);
    let bearer = Bearer(Some(format!("Bearer {}", good.secret)));
    let mut somebody = ServerReflectionClient::with_interceptor(bed.channel(), bearer);
    somebody.server_reflection_info(tokio_stream::once(ask)).await.expect("answered");
    bed.service.stop().await;
}

#[tokio::test]
async fn a_token_that_is_revoked_ends_no_stream_and_begins_none() {
    let (old, new) = (token("a", false, None), token("a", false, None));
    let bed = Bed::start(&[&old]).await;
    let mut client = bed.client(&old);
    let prompt = script(&["say one", "sleep 1500", "say two"]);
    let mut turn = Turn::new(client.query(query("s", &prompt)).await.expect("taken").into_inner());
    turn.until_text("one").await;

    fs::write(bed.tokens_file(), file_of(&[&new])).expect("written");
    let refused = eventually("the old token's end", async || knock(&bed.client(&old)).await.err());
    assert_eq!(refused.await.code(), Code::Unauthenticated);
    knock(&bed.client(&new)).await.expect("let in");
    turn.finish().await;
    assert_eq!(turn.result().result, "two", "what had begun goes on");
    bed.service.stop().await;
}

#[tokio::test]
async fn a_file_that_is_bad_or_gone_leaves_the_tokens_as_they_are() {
    let (old, new) = (token("a", false, None), token("b", false, None));
    let bed = Bed::start(&[&old]).await;
    let file = bed.tokens_file();
    fs::write(&file, "[[token]]\nsha256 = \"short\"\n").expect("written");
    eventually("the complaint", async || log::mentions("tokens_not_reloaded").then_some(())).await;
    knock(&bed.client(&old)).await.expect("still let in");
    fs::remove_file(&file).expect("removed");

    // As Kubernetes replaces a secret: another folder, and a link that is turned to it.
    let folder = bed.folder.path();
    fs::create_dir(folder.join("v2")).expect("made");
    fs::write(folder.join("v2/tokens.toml"), file_of(&[&new])).expect("written");
    symlink("v2", folder.join("data")).expect("linked");
    symlink("data/tokens.toml", &file).expect("linked");
    eventually("the new token", async || knock(&bed.client(&new)).await.ok()).await;
    let status = knock(&bed.client(&old)).await.expect_err("revoked");
    assert_eq!(status.code(), Code::Unauthenticated);
    bed.service.stop().await;
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_file_keeps_nobody_waiting() {
    let (old, new) = (token("a", false, None), token("b", false, None));
    let bed = Bed::start(&[&old]).await;
    let file = bed.tokens_file();
    let pipe = bed.folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("made");
    fs::rename(&pipe, &file).expect("replaced");
    eventually("the complaint", async || log::mentions("is not a regular file").then_some(()))
        .await;
    // On new connections, too.
    knock(&bed.client(&old)).await.expect("still let in");
    let mended = bed.folder.path().join("mended");
    fs::write(&mended, file_of(&[&new])).expect("written");
    fs::rename(&mended, &file).expect("replaced");
    eventually("the new token", async || knock(&bed.client(&new)).await.ok()).await;
    bed.service.stop().await;
}

#[tokio::test]
async fn a_mistake_in_the_file_keeps_no_revoked_token_in_force() {
    let (kept, revoked) = (token("a", false, None), token("b", false, None));
    let bed = Bed::start(&[&kept, &revoked]).await;
    let mistaken = format!("{}\n[[token]]\nsha256 = \"short\"\n", file_of(&[&kept]));
    fs::write(bed.tokens_file(), mistaken).expect("written");
    let refused =
        eventually("the revoked token's end", async || knock(&bed.client(&revoked)).await.err());
    assert_eq!(refused.await.code(), Code::Unauthenticated);
    knock(&bed.client(&kept)).await.expect("let in");
    bed.service.stop().await;
}

#[tokio::test]
async fn what_changes_while_the_service_starts_is_not_missed() {
    let (old, new) = (token("a", false, None), token("a", false, None));
    let state = tempfile::tempdir().expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens.toml");
    fs::write(&file, file_of(&[&old])).expect("written");
    let mut config = fake_cli(state.path());
    config.auth.tokens_file = Some(file.clone());
    let server = Server::bind(config, process_tree()).await.expect("bound");
    // Read already, and not serving yet.
    fs::write(&file, file_of(&[&new])).expect("written");
    let service = Service::of(server, state);
    let channel = service.channel().await;
    let knock = async |secret: &str| {
        let bearer = Bearer(Some(format!("Bearer {secret}")));
        knock(&Client::with_interceptor(channel.clone(), bearer)).await
    };
    eventually("the new token", async || knock(&new.secret).await.ok()).await;
    assert_eq!(knock(&old.secret).await.expect_err("revoked").code(), Code::Unauthenticated);
    service.stop().await;
}

#[tokio::test]
async fn sighup_has_the_files_read_again() {
    let (old, new) = (token("a", false, None), token("a", false, None));
    // The file itself lies in a folder that is not watched: only the link to it is.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let real = elsewhere.path().join("tokens.toml");
    fs::write(&real, file_of(&[&old])).expect("written");
    let links = tempfile::tempdir().expect("a folder");
    let link = links.path().join("tokens.toml");
    symlink(&real, &link).expect("linked");
    let link = link.to_str().expect("text");
    let mut daemon = Daemon::start(&[("AUTH__TOKENS_FILE", link)]).await;
    let channel = Endpoint::from_shared(daemon.address.clone()).expect("an address");
    let channel = channel.connect().await.expect("connected");
    let knock = async |secret: &str| {
        let bearer = Bearer(Some(format!("Bearer {secret}")));
        knock(&Client::with_interceptor(channel.clone(), bearer)).await
    };
    knock(&old.secret).await.expect("let in");
    fs::write(&real, file_of(&[&new])).expect("written");
    // To whoever was started, which is the supervisor: as an operator does.
    daemon.signal(Signal::HUP);
    eventually("the new token", async || knock(&new.secret).await.ok()).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success(), "it went on, and ends in order");
}

#[tokio::test]
async fn a_bad_file_stops_the_start() {
    let state = tempfile::tempdir().expect("a folder");
    let mut config = fake_cli(state.path());
    let file = state.path().join("tokens.toml");
    fs::write(&file, "token = \"sp_this_is_a_secret\"\n").expect("written");
    config.auth.tokens_file = Some(file);
    let error = Server::bind(config, process_tree()).await.expect_err("refused");
    let told = format!("{error:#}");
    assert!(told.contains("auth.tokens_file") && told.contains("line 1"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

#[tokio::test]
async fn c9_an_empty_file_keeps_the_tokens_and_is_an_error() {
    let good = token("empty", false, None);
    let bed = Bed::start(&[&good]).await;
    let complaints = || log::mentioning("has no tokens").len();
    for text in ["", "\n# nobody\n"] {
        let before = complaints();
        fs::write(bed.tokens_file(), text).expect("written");
        let complaint = async || (complaints() > before).then_some(());
        eventually("the complaint", complaint).await;
        knock(&bed.client(&good)).await.expect("still let in");
    }
    let next = token("empty", false, None);
    fs::write(bed.tokens_file(), file_of(&[&next])).expect("written");
    eventually("the new token", async || knock(&bed.client(&next)).await.ok()).await;
    assert_eq!(knock(&bed.client(&good)).await.expect_err("revoked").code(), Code::Unauthenticated);
    bed.service.stop().await;

    let state = tempfile::tempdir().expect("a folder");
    let mut config = fake_cli(state.path());
    let file = state.path().join("tokens.toml");
    fs::write(&file, "").expect("written");
    config.auth.tokens_file = Some(file);
    let error = Server::bind(config, process_tree()).await.expect_err("refused");
    assert!(format!("{error:#}").contains("has no tokens"), "{error:#}");
}
