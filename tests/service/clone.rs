//! What stands in a clone beside the service: what it says can be done with it works.

use clap::Parser as _;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use session_pool::{client::args::Arguments, proto::DESCRIPTORS};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A program that does as this script says.
fn program(folder: &Path, name: &str, script: &str) {
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
}

/// The words of a command of the documents, up to a pipe, a redirection or a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut word) = (Vec::new(), false, None::<String>);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '|' | '>' | '#' if !quoted => break,
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn f4_the_program_takes_every_command_of_the_documents() {
    // tests/clients/readme/run pastes them beside a service; here it is only their form.
    let mut seen = 0;
    for document in ["README.md", "docs/access.md", "deploy/README.md"] {
        let text = read(document);
        let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        for command in blocks.flat_map(str::lines).flat_map(|line| line.split("| ")) {
            let Some(rest) = command.trim().strip_prefix("session-pool ") else { continue };
            let words = [vec!["session-pool".to_owned()], words(rest)].concat();
            let parsed = Arguments::try_parse_from(&words);
            assert!(parsed.is_ok(), "{document}: {command}: {:?}", parsed.err());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
    let readme = read("README.md");
    let path = readme.find("export PATH=").expect("a line for PATH");
    assert!(readme.find("\nsession-pool ").is_some_and(|first| first > path));
    assert!(readme.find("\ngrpcurl ").is_some_and(|first| first > path));
}

#[test]
fn f5_the_example_overlay_names_what_exists() {
    // deploy/check looks closer, at what kustomize makes of it.
    let example = read("deploy/kubernetes/overlays/example/kustomization.yaml");
    let tag = format!("newTag: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(example.contains(&tag), "{example}");
    assert!(!example.contains("replicas:"), "more than one needs a proxy: {example}");
    let pods = read("deploy/kubernetes/base/statefulset.yaml");
    assert!(pods.contains("replicas: 1\n") && pods.contains("kubernetes.io/arch: amd64\n"));
    for config in ["base/config.toml", "overlays/tls/config.toml"] {
        assert!(
            read(&format!("deploy/kubernetes/{config}")).contains("\nmemory_limit = "),
            "{config}"
        );
    }
}

#[test]
fn f7_the_contract_has_a_place_in_every_common_language() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors").file;
    let ours = files.into_iter().find(|file| file.package() == "sessionpool.v1").expect("ours");
    let options = ours.options.clone().expect("options");
    let (path, package) = options.go_package().split_once(';').expect("a path and a name");
    // Go takes the first part of a path for a host if it has a dot.
    assert!(path.split('/').next().is_some_and(|host| host.contains('.')), "{path}");
    assert!(path.ends_with("/sessionpool/v1") && package == "sessionpoolv1");
    assert!(options.java_package().starts_with("io.") && options.java_multiple_files());
    assert_eq!(options.csharp_namespace(), "SessionPool.V1");
    assert_eq!(options.ruby_package(), "SessionPool::V1");
    assert_eq!(options.php_namespace(), r"SessionPool\V1");
    assert!(!options.swift_prefix().is_empty() && options.objc_class_prefix().len() >= 3);
    for name in ["QueryResponse", "AttachResponse"] {
        let message = ours.message_type.iter().find(|it| it.name() == name).expect("there");
        let fields: Vec<_> = message.field.iter().collect();
        let known: Vec<_> =
            fields.iter().map(|it| (it.name(), it.number(), it.oneof_index)).collect();
        assert_eq!(known, [("event", 1, Some(0)), ("part", 2, Some(0))], "{name}");
    }
}

#[test]
fn f8_a_benchmark_without_one_of_the_clis_does_not_begin() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bin, clis) = (folder.path().join("bin"), folder.path().join("clis"));
    fs::create_dir(&bin).expect("made");
    let began = folder.path().join("began");
    program(&bin, "npm", "echo no registry >&2; exit 1");
    program(&bin, "cargo", &format!("touch '{}'", began.display()));
    let path = std::env::var("PATH").expect("a path");
    let output = Command::new(root().join("tests/bench"))
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("SESSION_POOL_CLAUDE_DIR", &clis)
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("a pinned Claude CLI is missing"), "{told}");
    assert!(!began.exists(), "nothing is measured");
}
