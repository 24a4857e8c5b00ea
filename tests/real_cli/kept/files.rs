//! The CLI's own file is not what a conversation depends on, nor what an agent puts in its
//! place: whatever an agent's shell can do to it, the service loses nothing and reads and
//! writes nothing elsewhere.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use session_pool::proto::SessionOptions;
use tonic::Code;

use super::answer;
use crate::{
    bed::{Bed, Version, each_version},
    support::service::query_with,
};

each_version!(newest: a_damaged_file_is_no_loss, what_is_planted_for_a_transcript_is_not_taken_up);

/// What belongs to the service, from the folder of a transcript.
const SECRET: &str = "../../../../../secret";

fn cut(file: &Path) {
    let text = fs::read(file).expect("readable");
    // In the middle of a line, with it those after it.
    fs::write(file, &text[..text.len() * 2 / 3]).expect("written");
}

fn remove(file: &Path) {
    fs::remove_file(file).expect("removed");
}

fn replace(file: &Path) {
    fs::write(file, b"\0\xff rubbish {\n{}\n[1, 2]\n").expect("written");
}

fn empty(file: &Path) {
    fs::write(file, "").expect("written");
}

fn link(file: &Path) {
    remove(file);
    symlink(SECRET, file).expect("linked");
}

fn pipe(file: &Path) {
    remove(file);
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
}

fn folder(file: &Path) {
    remove(file);
    fs::create_dir_all(file.join("a/b")).expect("made");
}

/// What is done to a transcript.
type Damage = fn(&Path);

async fn a_damaged_file_is_no_loss(version: Version) {
    let bed = Bed::start(version).await;
    let mut said = Vec::new();
    let secret = bed.service.state.path().join("secret");
    fs::write(&secret, "the service's own").expect("written");
    let damages: [(&str, Damage); 7] = [
        ("cut", cut),
        ("removed", remove),
        ("replaced", replace),
        ("emptied", empty),
        ("made a link", link),
        ("made a pipe", pipe),
        ("made a folder", folder),
    ];
    for (what, damage) in damages {
        let prompt = format!("before it was {what}");
        let turn = bed.query("a", &prompt).await;
        assert_eq!(turn.result().result, answer(&prompt, &said));
        said.push(prompt);
        bed.kill_now(&turn).await;
        damage(&bed.transcript(&turn.result().cli_session_id).expect("a transcript"));
    }
    let last = bed.query("a", "at last").await;
    assert_eq!(last.result().result, answer("at last", &said));
    assert_eq!(fs::read_to_string(secret).expect("there"), "the service's own");
    bed.stop().await;
}

/// A conversation that the service does not know is read from the CLI's files. What lies
/// there may have been put there by any agent of the tenant.
async fn what_is_planted_for_a_transcript_is_not_taken_up(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    bed.until_written(&first).await;
    let own = bed.transcript(&first.result().cli_session_id).expect("a transcript");
    // A whole conversation, but where no agent may read.
    fs::copy(&own, bed.service.state.path().join("secret")).expect("copied");
    for (what, plant) in [("a link", link as Damage), ("a pipe", pipe), ("a folder", folder)] {
        let id = uuid::Uuid::new_v4().to_string();
        // Where it would be copied from, and where it would be looked for at once.
        let others: PathBuf = own.with_file_name(format!("{id}.jsonl"));
        let theirs = PathBuf::from(others.to_string_lossy().replace("-s-a/", "-s-b/"));
        assert_ne!(others, theirs);
        for file in [others, theirs] {
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(&file, "").expect("written");
            plant(&file);
        }
        let options = SessionOptions { resume: Some(id), ..SessionOptions::default() };
        let asked = bed.run(query_with("b", "two", options));
        let turn = tokio::time::timeout(Duration::from_secs(20), asked).await;
        let turn = turn.unwrap_or_else(|_| panic!("{what} keeps a caller waiting"));
        assert_eq!(turn.error().code(), Code::InvalidArgument, "{what}");
        let other = bed.query("c", what).await;
        assert!(other.text().contains(what), "nobody else is kept waiting");
    }
    bed.stop().await;
}
