use std::{
    fs,
    io::{self, Write},
    sync::{Arc, Mutex, mpsc},
};

use serde_json::{Value, json};

use super::*;

fn refused(host: &str) -> Entry<'_> {
    let (tenant, client_id) = ("acme", "c-1".to_owned());
    Entry::EgressRefused { tenant, client_id, host, reason: "not listed".to_owned() }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// How many entries were written, and how many lost.
fn counts(audit: &Audit) -> (u64, u64) {
    let Counts { written, lost, .. } = &audit.0.as_ref().expect("on").counts;
    (written.get(), lost.get())
}

/// A sink that does what a test says.
struct Sink {
    written: Arc<Mutex<Vec<u8>>>,
    /// For each write, how many bytes are taken; an error where that is none. Then all of them.
    steps: Vec<Option<usize>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let step = if self.steps.is_empty() { Some(bytes.len()) } else { self.steps.remove(0) };
        let taken = step.ok_or(io::ErrorKind::StorageFull)?.min(bytes.len());
        self.written.lock().expect("whole").extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn on_sink(steps: Vec<Option<usize>>) -> (Audit, Arc<Mutex<Vec<u8>>>) {
    let written = Arc::default();
    let sink = Sink { written: Arc::clone(&written), steps };
    (Audit::to(Box::new(sink), QUEUE).expect("a thread"), written)
}

#[test]
fn entries_are_lines_in_a_file_of_the_day_which_a_link_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let place = Place::Files { path: path.clone(), most: 3 };
    let audit = Audit::open(&place).expect("opened");
    for at in 0..100 {
        audit.record(&refused(&format!("host-{at}:443")));
    }
    assert!(audit.flush());
    let written = lines(&fs::read_to_string(&path).expect("the link"));
    let hosts: Vec<_> = written.iter().map(|line| line["host"].as_str().expect("a host")).collect();
    assert_eq!(hosts, (0..100).map(|at| format!("host-{at}:443")).collect::<Vec<_>>());
    let today = humantime::format_rfc3339(SystemTime::now()).to_string();
    let file = fs::read_link(&path).expect("a link");
    assert!(file.to_string_lossy().ends_with(&format!("audit.log.{}", &today[..10])), "{file:?}");
    // Another life of the service goes on in the same file.
    drop(audit);
    let again = Audit::open(&place).expect("opened");
    again.record(&refused("later:443"));
    assert!(again.flush());
    assert_eq!(lines(&fs::read_to_string(&path).expect("the link")).len(), 101);
}

#[test]
fn only_so_many_files_are_kept_and_none_of_others_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    for name in ["audit.log.2020-01-01", "audit.log.2020-01-02", "other.log"] {
        fs::write(folder.path().join(name), "old").expect("written");
    }
    let audit = Audit::open(&Place::Files { path, most: 2 }).expect("opened");
    audit.record(&refused("host:1"));
    assert!(audit.flush());
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("read")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!((names[0].as_str(), names[3].as_str()), ("audit.log", "other.log"), "{names:?}");
}

#[test]
fn a_file_that_is_there_is_not_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    fs::write(&path, "somebody's").expect("written");
    let error = Audit::open(&Place::Files { path: path.clone(), most: 2 }).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).expect("still there"), "somebody's");
    let below_a_file = Place::Files { path: path.join("audit.log"), most: 2 };
    Audit::open(&below_a_file).expect_err("no folder");
}

#[test]
fn what_a_full_disk_cuts_is_counted_and_the_next_line_can_be_read() {
    let (audit, written) = on_sink(vec![Some(usize::MAX), Some(10), None, None]);
    for host in ["whole:1", "cut:2", "none:3", "whole:4"] {
        audit.record(&refused(host));
    }
    assert!(audit.flush());
    let text = String::from_utf8(written.lock().expect("whole").clone()).expect("text");
    let all: Vec<_> = text.lines().collect();
    assert_eq!(all.len(), 3, "{text}");
    assert_eq!(lines(all[0])[0]["host"], "whole:1");
    assert_eq!(all[1].len(), 10);
    assert_eq!(lines(all[2])[0]["host"], "whole:4");
    assert_eq!(counts(&audit), (2, 2));
}

/// A disk that answers nobody until it is let go.
struct Hanging(mpsc::Receiver<()>);

impl Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.recv().ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nobody_waits_for_a_disk_that_hangs() {
    let (let_go, held) = mpsc::channel();
    let audit = Audit::to(Box::new(Hanging(held)), 2).expect("a thread");
    for at in 0..10 {
        audit.record(&refused(&format!("host:{at}")));
    }
    // One is being written at most, two wait.
    assert!(counts(&audit).1 >= 7);
    drop(let_go);
    assert!(audit.flush());
    let (written, lost) = counts(&audit);
    assert_eq!(written + lost, 10);
}

#[test]
fn an_entry_says_what_there_is_to_say_and_no_more() {
    let call = Call { method: "GetStats", outcome: "OK", duration_ms: 7, ..Call::default() };
    let line = Entry::Call(Box::new(call)).line(SystemTime::UNIX_EPOCH);
    let expected = json!({
        "time": "1970-01-01T00:00:00.000Z",
        "event": "call",
        "method": "GetStats",
        "outcome": "OK",
        "duration_ms": 7,
    });
    assert_eq!(lines(std::str::from_utf8(&line).expect("text")), [expected]);
    let used = Entry::CredentialUsed {
        tenant: "a\nb",
        client_id: "c".to_owned(),
        credential: "gateway.api_key_file",
    };
    let line = String::from_utf8(used.line(SystemTime::UNIX_EPOCH)).expect("text");
    assert_eq!(line.lines().count(), 1, "nothing breaks a line: {line}");
}

#[test]
fn without_a_place_nothing_is_recorded() {
    let audit = Audit::default();
    assert!(!audit.is_on());
    audit.record(&refused("host:1"));
    assert!(audit.flush());
}
