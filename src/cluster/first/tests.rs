//! The id is found however a request is cut, and what follows is what the caller sent.

use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::proto;

const LARGEST: u64 = 1 << 20;

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn body_of(pieces: Vec<Result<Bytes, Status>>) -> Body {
    let frames = pieces.into_iter().map(|piece| piece.map(Frame::data));
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

/// Looks at a request that comes in pieces of a length; returns the id and the body behind it.
async fn looked_at(request: &[u8], piece: usize) -> (Option<String>, Vec<u8>) {
    let pieces = request.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let (id, body) = look(body_of(pieces.collect()), LARGEST).await;
    let whole = body.collect().await.expect("no error").to_bytes();
    (id.map(|id| id.to_string()), whole.to_vec())
}

fn query(id: &str, prompt: &str) -> Vec<u8> {
    let request = proto::QueryRequest {
        session_id: id.into(),
        prompt: prompt.into(),
        ..proto::QueryRequest::default()
    };
    framed(&request.encode_to_vec())
}

#[tokio::test]
async fn the_id_is_found_however_the_request_is_cut() {
    let request = query("session-1", "a prompt");
    for piece in 1..=request.len() {
        let found = looked_at(&request, piece).await;
        assert_eq!(found, (Some("session-1".into()), request.clone()), "in pieces of {piece}");
    }
}

#[tokio::test]
async fn no_more_is_read_than_the_id_needs() {
    let request = query("s", &"x".repeat(100_000));
    let (beginning, _) = request.split_at(16);
    let endless = tokio_stream::StreamExt::chain(
        tokio_stream::iter([Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(beginning)))]),
        tokio_stream::pending(),
    );
    let (id, _) = look(Body::new(StreamBody::new(endless)), LARGEST).await;
    assert_eq!(id.expect("found").as_str(), "s");
}

#[tokio::test]
async fn the_id_is_found_behind_other_fields() {
    // Encoders of every kind: an unknown number, a fixed one, a long text, then the id.
    let mut message = vec![0x78, 0x96, 0x01, 0x81, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];
    message.extend([0x12, 0xac, 0x02]);
    message.extend([b'p'; 300]);
    message.extend([0x0d + 0x78, 0x01, 1, 2, 3, 4]);
    message.extend(b"\x0a\x02id\x0a\x05other");
    let request = framed(&message);
    for piece in [1, 7, request.len()] {
        assert_eq!(looked_at(&request, piece).await, (Some("id".into()), request.clone()));
    }
}

#[tokio::test]
async fn what_cannot_be_read_names_no_session_and_goes_on_as_it_is() {
    let good = query("session-1", "x");
    let mut compressed = good.clone();
    compressed[0] = 1;
    let late = framed(&[&[0x12, 0x80, 0x80, 0x08][..], &[b'p'; 0x2_0000], b"\x0a\x01s"].concat());
    let large = u32::try_from(LARGEST + 1).expect("small").to_be_bytes();
    for (what, request) in [
        ("nothing", Vec::new()),
        ("an empty message", framed(b"")),
        ("no id", query("", "prompt")),
        ("compressed", compressed),
        ("too large", [&[0], &large[..], b"\x0a\x01s"].concat()),
        ("cut off", good[..8].to_vec()),
        ("cut off in the prefix", good[..3].to_vec()),
        ("a number as the id", framed(b"\x08\x01")),
        ("an id beyond the message", framed(b"\x0a\x10s")),
        ("an endless tag", framed(&[0xff; 16])),
        ("a group", framed(b"\x13\x0a\x01s\x14")),
        ("the field number 0", framed(b"\x02\x01s\x0a\x01s")),
        ("an endless length", framed(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")),
        ("no name", framed(b"\x0a\x03a b")),
        ("no text", framed(b"\x0a\x02\xff\xfe")),
        ("an id behind all that is looked at", late),
    ] {
        for piece in [1, 5, 16 * 1024] {
            let found = looked_at(&request, piece).await;
            assert_eq!(found.0, None, "{what}");
            assert!(found.1 == request, "{what} is passed on as it is");
        }
    }
}

#[tokio::test]
async fn a_body_that_fails_fails_for_whoever_reads_it_next() {
    let pieces = vec![Ok(Bytes::from_static(b"\0\0")), Err(Status::deadline_exceeded("late"))];
    let (id, mut body) = look(body_of(pieces), LARGEST).await;
    assert_eq!(id, None);
    let first = body.frame().await.expect("a frame").expect("good");
    assert_eq!(first.into_data().expect("data"), &b"\0\0"[..]);
    let failed = body.frame().await.expect("a frame").expect_err("the error");
    assert_eq!(failed.message(), "late");
    assert!(body.frame().await.is_none());
}

proptest! {
    /// Whatever comes: it ends, it does not depend on the pieces, and nothing is lost.
    #[test]
    fn nothing_is_lost_whatever_comes(
        message in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            ("[a-z.:-]{0,130}", ".{0,80}", any::<u64>()).prop_map(|(session_id, prompt, seq)| {
                let request = proto::AttachRequest {
                    session_id,
                    turn_id: prompt,
                    from_sequence: seq,
                    ..proto::AttachRequest::default()
                };
                framed(&request.encode_to_vec())
            }),
        ],
        pieces in (1_usize..50, 1_usize..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (one, other) =
                (looked_at(&message, pieces.0).await, looked_at(&message, pieces.1).await);
            assert_eq!(one.0, other.0);
            assert!(one.1 == message && other.1 == message);
        });
    }

    /// What the decoder makes of a request is what is found in it, where it is the first id.
    #[test]
    fn the_id_is_the_one_that_the_decoder_sees(
        id in "[A-Za-z0-9._:-]{1,128}",
        prompt in ".{0,300}",
        piece in 1_usize..400,
    ) {
        let request = query(&id, &prompt);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (found, _) = runtime.block_on(looked_at(&request, piece));
        assert_eq!(found, Some(id));
    }
}
