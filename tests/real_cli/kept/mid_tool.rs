//! The CLI is killed anywhere in a turn with tool calls: as it thinks, while a call arrives,
//! while a command runs, between a result and the next request. What is resumed has to be a
//! history that the API takes: a call without its result would end the conversation for
//! ever. The stand-in refuses what the API refuses.

use fastrand::Rng;
use session_pool::proto::turn_event::Kind;
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, in_pieces},
    support::{eventually, failure, processes::kill_if_there, service::query},
};

each_version!(within LONG: newest: killed_at_random_points, killed_while_a_command_runs);

/// Kills in one conversation, each of which leaves something behind for the next.
const KILLS: usize = 6;

/// Events of the script below before its result.
const EVENTS: usize = 60;

const SCRIPT: &str = "[[think what to do]] [[say first]] [[bash echo one]] \
                      [[think and then]] [[bash sleep 0.2; echo two]] [[say done]]";

async fn killed_at_random_points(version: Version) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let bed = Bed::start(version).await;
    bed.query("a", "the beginning").await;
    for round in 0..KILLS {
        let mut turn = bed.open(in_pieces(query("a", &format!("round {round} {SCRIPT}")))).await;
        turn.until_init().await;
        let pid = bed.pid("a").await;
        for _ in 0..random.usize(..EVENTS) {
            let ended = |kind: Option<&Kind>| matches!(kind, None | Some(Kind::Result(_)));
            if ended(turn.next().await.and_then(|event| event.kind).as_ref()) {
                break;
            }
        }
        kill_if_there(pid);
        turn.finish().await;
        let noticed = async || (bed.pid("a").await != pid).then_some(());
        eventually("the loss is noticed", noticed).await;
        goes_on(&bed, &format!("after round {round}")).await;
    }
    bed.stop().await;
}

async fn killed_while_a_command_runs(version: Version) {
    let bed = Bed::start(version).await;
    bed.query("a", "the beginning").await;
    let prompt = "[[think hm]] [[bash echo one]] [[bash echo x; sleep 304]]";
    let mut turn = bed.open(in_pieces(query("a", prompt))).await;
    bed.until_running("sleep 304").await;
    let pid = bed.pid("a").await;
    kill_if_there(pid);
    turn.finish().await;
    let metadata = failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!(metadata.get("tool_use_seen").map(String::as_str), Some("true"));
    goes_on(&bed, "and then?").await;
    bed.stop().await;
}

/// The conversation goes on from its beginning, and the API takes it.
async fn goes_on(bed: &Bed, prompt: &str) {
    let next = bed.query("a", prompt).await;
    assert_eq!(bed.api.refused(), [] as [&str; 0]);
    assert!(!next.result().is_error, "{:?}", next.result());
    let told = next.text();
    assert!(told.contains(prompt) && told.contains("the beginning"), "{told}");
}
