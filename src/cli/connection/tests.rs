use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, duplex, split,
};

use super::*;

#[tokio::test]
async fn answers_go_to_who_asked_and_frames_to_the_reader() {
    let (ours, cli) = duplex(64 * 1024);
    let (output, input) = split(ours);
    let mut connection = Connection::new(output, input, 1024);
    let mut answer = connection.request(ControlRequest::interrupt()).expect("room");

    let (cli_input, mut cli_output) = split(cli);
    let mut asked = String::new();
    BufReader::new(cli_input).read_line(&mut asked).await.expect("a line");
    let asked: serde_json::Value = serde_json::from_str(&asked).expect("JSON");
    let reply = serde_json::json!({"type": "control_response", "response":
        {"subtype": "success", "request_id": asked["request_id"], "response": {}}});
    let out = format!("{{\"type\":\"news\"}}\n{reply}\n");
    cli_output.write_all(out.as_bytes()).await.expect("written");

    let mut frames = Vec::new();
    connection.read(&mut frames).await.expect("output");
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].kind, FrameKind::Other);
    assert_eq!(answer.try_recv(), Ok(Ok("{}".to_owned())));
}

#[tokio::test]
async fn who_asked_is_told_when_the_output_ends() {
    let (ours, cli) = duplex(1024);
    let (output, input) = split(ours);
    let mut connection = Connection::new(output, input, 1024);
    let answer = connection.request(ControlRequest::interrupt()).expect("room");
    drop(cli);
    let mut frames = Vec::new();
    connection.read(&mut frames).await.expect("the end is not an error yet");
    assert!(matches!(connection.read(&mut frames).await, Err(ConnectionError::Closed)));
    assert!(answer.await.is_err());
}

#[tokio::test]
async fn a_line_that_death_cut_short_is_no_breach_of_the_protocol() {
    let (ours, mut cli) = duplex(1024);
    let (output, input) = split(ours);
    let mut connection = Connection::new(output, input, 1024);
    cli.write_all(b"{\"type\":\"news\"}\n{\"type\":\"as").await.expect("written");
    drop(cli);
    let mut frames = Vec::new();
    while connection.read(&mut frames).await.is_ok() {}
    assert!(matches!(connection.read(&mut frames).await, Err(ConnectionError::Closed)));
    assert_eq!(frames.len(), 1);
    assert!(connection.was_cut_short());
}

#[tokio::test]
async fn d3_a_line_that_is_no_frame_is_skipped_and_counted() {
    let (ours, mut cli) = duplex(1024);
    let (output, input) = split(ours);
    let mut connection = Connection::new(output, input, 1024);
    let lines = b"hello\n{\"type\":\"a\"}\n[1]\n{cut off\nx{\"type\":\"result\"}\n42\n";
    cli.write_all(lines).await.expect("written");
    drop(cli);
    let mut frames = Vec::new();
    while connection.read(&mut frames).await.is_ok() {}
    let kinds: Vec<_> = frames.iter().map(Frame::text).collect();
    assert_eq!(kinds, [r#"{"type":"a"}"#, r#"{"type":"result"}"#]);
    assert_eq!((connection.take_strays(), connection.take_strays()), (4, 0));
}

#[tokio::test]
async fn every_request_is_refused_until_somebody_answers_however_many_they_are() {
    let (ours, cli) = duplex(1 << 20);
    let (output, input) = split(ours);
    let mut connection = Connection::new(output, input, 1024);
    let (cli_input, mut cli_output) = split(cli);
    // More than the outbox takes.
    let asks = |id: usize| {
        format!("{{\"type\":\"control_request\",\"request_id\":\"{id}\",\"request\":{{}}}}\n")
    };
    let all: String = (0..3 * OUTBOX_LINES).map(asks).collect();
    cli_output.write_all(all.as_bytes()).await.expect("written");
    let mut told = BufReader::new(cli_input).lines();
    let mut frames = Vec::new();
    for id in 0..3 * OUTBOX_LINES {
        let line = loop {
            tokio::select! {
                line = told.next_line() => break line.expect("open").expect("a line"),
                read = connection.read(&mut frames) => read.expect("open"),
            }
        };
        assert!(line.contains(&format!("\"request_id\":\"{id}\"")), "{line}");
    }
    assert!(frames.iter().all(|frame| frame.kind == FrameKind::Other));
    connection.pass_requests_on();
    cli_output.write_all(asks(0).as_bytes()).await.expect("written");
    frames.clear();
    connection.read(&mut frames).await.expect("open");
    assert!(matches!(frames[0].kind, FrameKind::Prompt(_)));
}

/// A connection, and what the CLI reads and prints.
fn wired() -> (Connection, Lines<BufReader<ReadHalf<DuplexStream>>>, WriteHalf<DuplexStream>) {
    let (ours, cli) = duplex(1 << 20);
    let (output, input) = split(ours);
    let (cli_input, cli_output) = split(cli);
    let connection = Connection::new(output, input, 1 << 20);
    (connection, BufReader::new(cli_input).lines(), cli_output)
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_what_comes_before_its_answer() {
    let (mut connection, mut told, mut cli_output) = wired();
    let request = ControlRequest::interrupt();
    let id = request.id.clone();
    let answers = async {
        told.next_line().await.expect("open").expect("a line");
        let answer = format!(
            r#"{{"type":"control_response","response":{{"subtype":"error","request_id":"{id}","error":"no"}}}}"#
        );
        cli_output.write_all(format!("{{\"type\":\"news\"}}\n{answer}\n").as_bytes()).await
    };
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut frames = Vec::new();
    let call = connection.call(request, deadline, Meanwhile::Keep(&mut frames));
    let (answered, written) = tokio::join!(call, answers);
    written.expect("written");
    assert_eq!(answered.expect("an answer"), Err("no".to_owned()));
    assert_eq!(frames.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_until_its_deadline_and_holds_no_flood() {
    let deadline = || Instant::now() + Duration::from_secs(3600);
    let (mut connection, _told, _cli_output) = wired();
    let late = connection.call(ControlRequest::interrupt(), deadline(), Meanwhile::Drop).await;
    assert!(matches!(late, Err(CallError::Late)), "{late:?}");

    let line = format!("{{\"type\":\"{}\"}}\n", "x".repeat(900_000));
    for keeps in [true, false] {
        let (mut connection, _told, mut cli_output) = wired();
        let floods = async { while cli_output.write_all(line.as_bytes()).await.is_ok() {} };
        let mut frames = Vec::new();
        let meanwhile = if keeps { Meanwhile::Keep(&mut frames) } else { Meanwhile::Drop };
        let flooded = tokio::select! {
            called = connection.call(ControlRequest::interrupt(), deadline(), meanwhile) => called,
            () = floods => panic!("the connection is open"),
        };
        assert!(matches!(flooded, Err(CallError::Flooded)), "{flooded:?}");
        let held: usize = frames.iter().map(|frame| frame.raw.len()).sum();
        assert!(held <= MOST_MEANWHILE + (1 << 20), "{held}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_with_the_output() {
    let (mut connection, told, cli_output) = wired();
    drop((told, cli_output));
    let deadline = Instant::now() + Duration::from_secs(1);
    let ended = connection.call(ControlRequest::interrupt(), deadline, Meanwhile::Drop).await;
    assert!(matches!(ended, Err(CallError::Broken(ConnectionError::Closed))), "{ended:?}");
}
