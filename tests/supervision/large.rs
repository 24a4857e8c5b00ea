//! A transcript of 200 MB, as an agent or another program can leave one: it is taken up,
//! kept, and written back piece by piece. The service does not hold it, and others do not
//! notice.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use session_pool::{
    internals::domain::ids::CliSessionId,
    proto::{GetSessionRequest, QueryRequest, SessionOptions},
};
use tokio::{sync::watch, time::Instant};

use crate::support::{
    daemon::Daemon,
    eventually, processes,
    service::{query, query_with, script},
    turn::Turn,
};

/// Bytes of a line of the transcript, and how many there are: 200 MB.
const LINE: usize = 64_000;
const LINES: usize = 3_200;

/// What the service may need more than before, however long the transcript is: some pieces
/// of a mebibyte, the database's pages, and what the allocator keeps of them.
const MOST_MORE: u64 = 32 << 20;

/// What a turn on a process that is there takes at most while the transcript is taken up. It
/// is a few milliseconds; waiting for the whole of it took eleven seconds.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// The most that the process ever had resident, in bytes.
fn most_resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    let kib: u64 = most.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// The folder of the only tenant's transcripts.
fn transcripts(daemon: &Daemon) -> PathBuf {
    let tenants = fs::read_dir(daemon.state.path().join("tenants")).expect("there");
    let tenant = tenants.map(|entry| entry.expect("an entry").path()).next().expect("one");
    tenant.join("claude/projects")
}

fn plant(file: &Path, id: CliSessionId) {
    fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    let mut file = BufWriter::new(File::create(file).expect("made"));
    let (text, mut parent) = ("x".repeat(LINE), "null".to_owned());
    for number in 0..LINES {
        let uuid = format!("00000000-0000-4000-8000-{number:012}");
        writeln!(
            file,
            r#"{{"parentUuid":{parent},"type":"user","uuid":"{uuid}","sessionId":"{id}","message":{{"role":"user","content":"{number} {text}"}}}}"#
        )
        .expect("written");
        parent = format!("\"{uuid}\"");
    }
    file.flush().expect("written");
}

/// The lines of a transcript that were planted, without what a CLI changes or adds.
fn planted_in(file: &Path) -> usize {
    let text = fs::read_to_string(file).expect("text");
    let is_planted = |(number, line): &(usize, &str)| line.contains(&format!("\"{number} xxx"));
    text.lines().enumerate().take(LINES).filter(is_planted).count()
}

/// Runs turns on a process that is there until it is told to end. Returns how many, and how
/// long the longest took.
async fn neighbour(daemon: &Daemon, mut end: watch::Receiver<bool>) -> (u32, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    loop {
        let began = Instant::now();
        let mut turn = daemon.open(query("neighbour", &script(&["say hello"]))).await;
        turn.finish().await;
        turn.result();
        (count, longest) = (count + 1, longest.max(began.elapsed()));
        if *end.borrow_and_update() {
            return (count, longest);
        }
    }
}

/// Runs a turn beside the neighbour's, which must not notice.
async fn run_beside(daemon: &Daemon, what: &str, request: QueryRequest) -> Turn {
    let (over, end) = watch::channel(false);
    let (turn, (count, longest)) = tokio::join!(
        async {
            let mut turn = daemon.open(request).await;
            turn.finish().await;
            over.send_replace(true);
            turn
        },
        neighbour(daemon, end)
    );
    println!("{what}: {count} turns of the neighbour, the longest {longest:?}");
    assert!(longest < LONGEST_TURN, "{what}: a turn of the neighbour took {longest:?}");
    turn.result();
    turn
}

#[tokio::test]
async fn a6_a_large_transcript_is_taken_up_and_written_back_in_bounded_memory() {
    let daemon = Daemon::start(&[]).await;
    let mut turn = daemon.open(query("neighbour", &script(&["say hello"]))).await;
    turn.finish().await;
    turn.result();
    let (id, before) = (CliSessionId::fresh(), most_resident(daemon.id()));
    let folder = transcripts(&daemon);
    let planted = folder.join("elsewhere").join(format!("{id}.jsonl"));
    plant(&planted, id);

    let resume = SessionOptions { resume: Some(id.to_string()), ..SessionOptions::default() };
    let request = query_with("large", &script(&["say taken up"]), resume);
    let turn = run_beside(&daemon, "taken up", request).await;
    assert_eq!(turn.started().cli_session_id, id.to_string());
    let more = most_resident(daemon.id()) - before;
    println!("taken up with {} MiB more", more >> 20);
    assert!(more < MOST_MORE, "{} MiB more than before", more >> 20);

    // The process dies and its file is gone: what is kept is written back.
    let request = GetSessionRequest { session_id: "large".into() };
    let shown = daemon.client.clone().get_session(request).await.expect("there").into_inner();
    processes::kill(shown.session.expect("there").process_id);
    fs::remove_file(&planted).expect("removed");
    let own = eventually("its own file", async || {
        let folders = fs::read_dir(&folder).expect("there");
        let files =
            folders.map(|entry| entry.expect("an entry").path().join(format!("{id}.jsonl")));
        files.into_iter().find(|file| file.exists())
    })
    .await;
    fs::remove_file(&own).expect("removed");
    let request = query("large", &script(&["say written back"]));
    run_beside(&daemon, "written back", request).await;
    assert_eq!(planted_in(&own), LINES, "every line is there, in its place");
    let more = most_resident(daemon.id()) - before;
    println!("written back with {} MiB more", more >> 20);
    assert!(more < MOST_MORE, "{} MiB more than before", more >> 20);
}
