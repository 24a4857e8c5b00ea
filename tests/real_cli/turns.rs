//! Turns: memory in one process, text in pieces, several sessions at once.

use session_pool::proto::{
    InputBlock, InputMedia, QueryRequest, TurnOrigin, input_block, stream_event::Delta,
    turn_event::Kind,
};

use crate::{
    bed::{Bed, Version, each_version, in_pieces, init, kinds, origin},
    lossless,
    support::service::query,
};

each_version!(
    two_turns_share_a_process_and_a_memory,
    text_arrives_in_pieces,
    sessions_side_by_side_get_their_own_answers,
    an_image_and_a_block_of_another_kind_reach_the_model,
);

async fn two_turns_share_a_process_and_a_memory(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "the key is under the mat").await;
    assert_eq!(first.result().result, "You said: \"the key is under the mat\".");
    let second = bed.query("a", "where is the key?").await;
    let answer = "You said: \"where is the key?\". Earlier in this conversation you said: \
                  \"the key is under the mat\".";
    assert_eq!(second.text(), answer);
    assert_eq!(second.result().result, answer);

    assert_eq!(origin(&first), TurnOrigin::Created);
    assert_eq!(origin(&second), TurnOrigin::Reused);
    let (first, second) = (first.started(), second.started());
    assert_eq!(first.client_id, second.client_id);
    assert_eq!(first.cli_session_id, second.cli_session_id);
    assert_ne!(first.turn_id, second.turn_id);
    assert_eq!(bed.service.processes().len(), 1);
    assert_eq!(bed.service.processes(), [bed.pid("a").await]);
    bed.stop().await;
}

async fn text_arrives_in_pieces(version: Version) {
    let bed = Bed::start(version).await;
    // Nothing more is said before the caller has read the first words.
    let mut turn = bed.open(in_pieces(query("a", "[[words 5 every 100]]"))).await;
    turn.until_text("word1").await;
    assert!(!kinds(&turn).any(|kind| matches!(kind, Kind::Assistant(_))), "all at once");
    turn.finish().await;
    lossless::check(&turn);

    let pieces = kinds(&turn).filter_map(|kind| match kind {
        Kind::StreamEvent(event) => Some(event),
        _ => None,
    });
    let pieces: Vec<_> = pieces.collect();
    let texts: Vec<&str> = pieces
        .iter()
        .filter_map(|piece| match piece.delta.as_ref()? {
            Delta::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert!(texts.len() >= 5, "{texts:?}");
    assert_eq!(texts.concat(), turn.text());
    assert_eq!(turn.result().result, "word1 word2 word3 word4 word5");
    let mut types: Vec<&str> = pieces.iter().map(|piece| piece.event_type.as_str()).collect();
    types.dedup();
    let wanted = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types, wanted);
    bed.stop().await;
}

async fn sessions_side_by_side_get_their_own_answers(version: Version) {
    let bed = Bed::start(version).await;
    let ask = |session: &'static str| bed.query(session, session);
    // The second round finds all of them warm.
    for round in 1..=2 {
        let (a, b, c, d) = tokio::join!(ask("ann"), ask("bob"), ask("cid"), ask("dora"));
        for (turn, session) in [(a, "ann"), (b, "bob"), (c, "cid"), (d, "dora")] {
            let mut answer = format!("You said: \"{session}\".");
            if round == 2 {
                answer += &format!(" Earlier in this conversation you said: \"{session}\".");
            }
            assert_eq!(turn.result().result, answer);
            assert_eq!(turn.started().session_id, session);
            assert!(init(&turn).cwd.ends_with(&format!("s-{session}")), "{:?}", init(&turn));
        }
    }
    assert_eq!(bed.service.processes().len(), 4);
    bed.stop().await;
}

async fn an_image_and_a_block_of_another_kind_reach_the_model(version: Version) {
    const IMAGE: &[u8] = &[
        137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 1, 0, 0, 0, 1, 8, 6,
        0, 0, 0, 31, 21, 196, 137, 0, 0, 0, 13, 73, 68, 65, 84, 120, 218, 99, 252, 207, 192, 80,
        15, 0, 4, 133, 1, 128, 132, 169, 140, 33, 0, 0, 0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
    ];
    let bed = Bed::start(version).await;
    let block = |block| InputBlock { block: Some(block) };
    let image = InputMedia { media_type: "image/png".into(), data: IMAGE.to_vec() };
    let plain = InputMedia { media_type: "text/plain".into(), data: b"first notes".to_vec() };
    let other = r#"{"type":"document","title":"notes","source":
        {"type":"text","media_type":"text/plain","data":"a plain document"}}"#;
    let turn = bed
        .run(QueryRequest {
            session_id: "a".into(),
            content: vec![
                block(input_block::Block::Text("what is this?".into())),
                block(input_block::Block::Image(image)),
                block(input_block::Block::Document(plain)),
                block(input_block::Block::BlockJson(other.into())),
            ],
            ..QueryRequest::default()
        })
        .await;
    // 2.1.330 adds a text about the image.
    assert!(turn.result().result.contains("\"what is this?\""), "{}", turn.result().result);
    let request = bed.last_request(&turn.started().cli_session_id);
    let said = request.body["messages"].as_array().expect("messages").iter();
    let blocks: Vec<_> = said.flat_map(|message| message["content"].as_array()).flatten().collect();
    let image = blocks.iter().find(|block| block["type"] == "image").expect("an image");
    assert_eq!(image["source"]["media_type"], "image/png");
    let sent = image["source"]["data"].as_str().expect("base64");
    assert!(sent.starts_with("iVBORw0KGgo"), "{sent}");
    let mut documents = blocks.iter().filter(|block| block["type"] == "document");
    let plain = &documents.next().expect("a document")["source"];
    assert_eq!((&plain["type"], &plain["data"]), (&"text".into(), &"first notes".into()));
    let document = documents.next().expect("another document");
    assert_eq!(document["source"]["data"], "a plain document");
    assert_eq!(document["title"], "notes");
    bed.stop().await;
}
