//! The CLI's own file is not what a conversation depends on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{answer, kill_now, projects};
use crate::bed::{Bed, Version, both_versions};

both_versions!(a_damaged_file_is_no_loss);

fn transcript(bed: &Bed, id: &str) -> PathBuf {
    let name = format!("{id}.jsonl");
    let folders = fs::read_dir(projects(bed)).expect("readable").filter_map(Result::ok);
    let mut files = folders.map(|folder| folder.path().join(&name)).filter(|file| file.exists());
    files.next().expect("a transcript")
}

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

/// What is done to a transcript.
type Damage = fn(&Path);

async fn a_damaged_file_is_no_loss(version: Version) {
    let bed = Bed::start(version).await;
    let mut said = Vec::new();
    let damages: [(&str, Damage); 4] =
        [("cut", cut), ("removed", remove), ("replaced", replace), ("emptied", empty)];
    for (what, damage) in damages {
        let prompt = format!("before it was {what}");
        let turn = bed.query("a", &prompt).await;
        assert_eq!(turn.result().result, answer(&prompt, &said));
        said.push(prompt);
        kill_now(&bed, &turn).await;
        damage(&transcript(&bed, &turn.result().cli_session_id));
    }
    let last = bed.query("a", "at last").await;
    assert_eq!(last.result().result, answer("at last", &said));
    bed.stop().await;
}
