//! The terminal client beside a service that asks who it is: messages that name the file they
//! are about.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    bed::{Bed, token},
    support::eventually,
    tls::{Authority, Bed as TlsBed},
};

/// The exit code of a command, and what it wrote to stdout and stderr.
async fn run(words: &[&str]) -> (Option<i32>, String, String) {
    let program = tokio::process::Command::new(env!("CARGO_BIN_EXE_session-pool"))
        .args(words)
        .kill_on_drop(true)
        .output();
    let output = timeout(crate::support::PATIENCE, program).await.expect("in time").expect("ran");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn whoever_may_not_ask_for_the_reason_is_told_the_state_all_the_same() {
    let known = token("a", false, None);
    let bed = Bed::with(&[&known], |config| config.pool.enabled = false).await;
    let address = bed.service.address.clone();
    let file = bed.folder.path().join("token");
    fs::write(&file, &known.secret).expect("written");
    let file = file.to_str().expect("UTF-8");
    // The pool is disabled from the start; that the CLI has not answered yet goes away.
    let shown = eventually("only the pool's reason is left", async || {
        let (code, shown, _) = run(&["health", "--address", &address, "--token-file", file]).await;
        assert_eq!(code, Some(4), "{shown}");
        (shown.matches(": ").count() == 1).then_some(shown)
    })
    .await;
    assert!(shown.contains("pool: pool.enabled is false"), "{shown}");
    let (code, shown, said) = run(&["health", "--address", &address]).await;
    assert_eq!((code, said.as_str()), (Some(4), ""), "{shown}");
    assert!(shown.contains("NOT_SERVING"), "{shown}");
    let last = shown.lines().last().expect("a line");
    assert!(last.starts_with("not ready ") && last.contains("UNAUTHENTICATED"), "{shown}");
    bed.service.stop().await;
}

/// Files in a folder of their own.
struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("written");
        self.named(name)
    }

    fn named(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_its_option_and_its_fault() {
    let files = Files(TempDir::new().expect("a folder"));
    let (one, other) = (Authority::new().server(), Authority::new().server());
    let good = |name: &str, text: &str| files.write(name, text);
    let (ca, cert, key) = (
        good("ca.pem", &Authority::new().pem()),
        good("cert.pem", &one.cert),
        good("key.pem", &one.key),
    );
    let strange = good("strange.pem", &other.key);
    let text = good("text", "no PEM at all");
    let missing = files.named("missing.pem");
    let folder = files.0.path().to_str().expect("UTF-8").to_owned();
    let damaged =
        good("damaged.pem", "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n");
    let hollow =
        good("hollow.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (ca, cert, key, option, file, fault) in [
        (&missing, &cert, &key, "--ca-cert", &missing, "No such file"),
        (&folder, &cert, &key, "--ca-cert", &folder, "Is a directory"),
        (&text, &cert, &key, "--ca-cert", &text, "holds no certificate"),
        (&key, &cert, &key, "--ca-cert", &key, "holds no certificate"),
        (&damaged, &cert, &key, "--ca-cert", &damaged, "base64 is damaged"),
        (&hollow, &cert, &key, "--ca-cert", &hollow, "certificate"),
        (&ca, &missing, &key, "--cert", &missing, "No such file"),
        (&ca, &text, &key, "--cert", &text, "holds no certificate"),
        (&ca, &hollow, &key, "--cert", &hollow, "certificate"),
        (&ca, &cert, &missing, "--key", &missing, "No such file"),
        (&ca, &cert, &cert, "--key", &cert, "holds no private key"),
        (&ca, &cert, &strange, "--key", &strange, "is not the key of --cert"),
    ] {
        let words = ["health", "--address", "https://localhost:1", "--ca-cert", ca];
        let (code, _, said) = run(&[&words[..], &["--cert", cert, "--key", key]].concat()).await;
        assert_eq!(code, Some(2), "{said}");
        let named = format!("session-pool: {option} {file}: ");
        assert!(said.starts_with(&named) && said.contains(fault), "{fault}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let (_, _, said) = run(&["stats", "--token-file", &missing]).await;
    assert!(said.starts_with(&format!("session-pool: --token-file {missing}: ")), "{said}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_told_with_the_file_of_authorities() {
    let bed = TlsBed::start(None, |_, _| {}).await;
    let address = format!("https://localhost:{}", bed.address().port());
    let files = Files(TempDir::new().expect("a folder"));
    let ours = files.write("ours.pem", &bed.authority.pem());
    let others = files.write("others.pem", &Authority::new().pem());
    let health = async |words: &[&str]| {
        run(&[&["health", "--address", address.as_str()], words].concat()).await
    };
    let (code, _, said) = health(&["--ca-cert", &others]).await;
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&format!("not of an authority in --ca-cert {others}")), "{said}");
    let (code, _, said) = health(&[]).await;
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("name its authority with --ca-cert"), "{said}");
    let (code, shown, said) = health(&["--ca-cert", &ours]).await;
    assert!(matches!(code, Some(0 | 4)) && shown.contains("SERVING"), "{said}");
    let missing = files.named("missing.png");
    for option in ["--image", "--document"] {
        let words = ["query", "--address", &address, "--ca-cert", &ours, option, &missing, "hi"];
        let (code, _, said) = run(&words).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.starts_with(&format!("session-pool: {option} {missing}: ")), "{said}");
    }
    bed.service.stop().await;
}
