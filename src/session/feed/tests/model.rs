//! Anything that can happen to a session and to one who follows it, in any order: each event is
//! told once and in order, and what is missing is told.

use proptest::prelude::*;

use super::*;

/// What happens to a session and to one who follows it.
#[derive(Debug, Clone, Copy)]
enum Act {
    Begin,
    Happen,
    End,
    Aside,
    Forget,
    Unload,
    Read,
    Reconnect,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    use Act::{Begin, End, Forget, Happen, Read, Reconnect, Unload};
    let act = prop_oneof![
        3 => Just(Begin), 8 => Just(Happen), 3 => Just(End), 2 => Just(Act::Aside),
        2 => Just(Forget), 1 => Just(Unload), 6 => Just(Read), 3 => Just(Reconnect),
    ];
    proptest::collection::vec(act, 0..120)
}

/// One who follows a session, reconnects and believes what it is told.
async fn follow(acts: Vec<Act>) -> Result<(), TestCaseError> {
    let mut bed = Bed::new();
    let mut watch = bed.watch(&From::Start);
    let (mut told, mut running, mut names) = (Vec::new(), None::<TurnLog>, 0);
    for act in acts {
        match act {
            Act::Begin if running.is_none() => {
                names += 1;
                running = Some(bed.begin(&format!("t{names}")));
            }
            Act::Happen => {
                if let Some(log) = &running {
                    bed.happen(log, Class::Other);
                }
            }
            Act::End => drop(running.take().map(|log| log.end(Ok(())))),
            Act::Aside if running.is_none() => bed.aside(),
            Act::Forget if bed.turns.len() > usize::from(running.is_some()) => {
                let turn = bed.turns.pop_front().expect("one");
                bed.feed.forget(turn.id());
            }
            Act::Unload if running.is_none() => {
                bed.turns.clear();
                bed.feed.unload();
            }
            Act::Read => told.extend(watch.all().await),
            Act::Reconnect => {
                let Some(last) = watch.cursors.last().cloned() else { continue };
                watch = match bed.resume(&last) {
                    Ok(watch) => watch,
                    Err(_) => {
                        told.push(Gap);
                        let kept = first_kept(bed.resume(&last));
                        bed.resume(&kept).expect("the first that is kept")
                    }
                };
                watch.cursors.push(last);
            }
            Act::Begin | Act::Aside | Act::Forget | Act::Unload => {}
        }
    }
    told.extend(watch.all().await);
    let (mut last, mut gap) = (0, false);
    for seen in told {
        match seen {
            Seen::Event(number) | Aside(number) => {
                prop_assert!(number > last, "twice or out of order: {number} behind {last}");
                prop_assert!(gap || number == last + 1, "missing between {last} and {number}");
                (last, gap) = (number, false);
            }
            Gap => gap = true,
            Seen::Started(_) | Live => {}
            Seen::Failed(_) | Over(_) => prop_assert!(false, "{seen:?}"),
        }
    }
    prop_assert!(gap || last == bed.happened, "missing behind {last} of {}", bed.happened);
    Ok(())
}

proptest! {
    #[test]
    fn each_event_is_told_once_and_in_order_and_what_is_missing_is_told(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(follow(acts))?;
    }
}
