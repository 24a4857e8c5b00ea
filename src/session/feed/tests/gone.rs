//! What is not kept any more: who comes back too late, and who reads too slowly.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_has_gone_behind_a_cursor_is_said_at_once_with_what_is_kept() {
    let mut bed = Bed::new();
    let mut watch = bed.watch(&From::Now);
    bed.turn("a", 2);
    bed.turn("b", 1);
    bed.turn("c", 1);
    watch.all().await;
    let [_live, _started, first, last, ..] = &watch.cursors[..] else { panic!() };
    bed.feed.forget(bed.turns[0].id());
    let kept = first_kept(bed.resume(first));
    let mut again = bed.resume(&kept).expect("the first that is kept");
    let rest = seen(&[&[started("b")], &events(3..=3), &[started("c")], &events(4..=4), &[Live]]);
    assert_eq!(again.all().await, rest);
    // Who had all of it has lost nothing.
    assert_eq!(bed.resume(last).expect("nothing is missing").all().await, rest);
    bed.feed.forget(bed.turns[1].id());
    let kept = first_kept(bed.resume(last));
    let rest = seen(&[&[started("c")], &events(4..=4), &[Live]]);
    assert_eq!(bed.resume(&kept).expect("kept").all().await, rest);
}

#[tokio::test(start_paused = true)]
async fn who_had_all_of_a_session_that_was_unloaded_has_lost_nothing() {
    let mut bed = Bed::new();
    let mut watch = bed.watch(&From::Now);
    bed.turn("a", 1);
    watch.all().await;
    let [before, .., last] = &watch.cursors[..] else { panic!("{:?}", watch.cursors) };
    bed.feed.unload();
    first_kept(bed.resume(before));
    let mut again = bed.resume(last).expect("nothing is missing");
    assert_eq!(again.all().await, [Live]);
    bed.turn("b", 1);
    assert_eq!(again.all().await, seen(&[&[started("b")], &events(2..=2)]));
    assert_eq!(watch.all().await, seen(&[&[started("b")], &events(2..=2)]));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_another_feed_is_told_as_a_gap() {
    let mut earlier = Bed::new();
    let mut watch = earlier.watch(&From::Now);
    earlier.turn("a", 1);
    watch.all().await;
    let cursor = watch.cursors.last().expect("one");
    let mut bed = Bed::new();
    let mut empty = bed.resume(cursor).expect("taken");
    assert_eq!(empty.all().await, [Gap, Live]);
    bed.turn("b", 1);
    let mut again = bed.resume(cursor).expect("taken");
    let rest = seen(&[&[started("b")], &events(1..=1)]);
    assert_eq!(again.all().await, seen(&[&[Gap], &rest, &[Live]]));
    assert_eq!(empty.all().await, rest, "and goes on");
    // The place behind the gap is one to go on from.
    assert_eq!(bed.resume(&again.cursors[0]).expect("taken").all().await, seen(&[&rest, &[Live]]));
}

#[tokio::test(start_paused = true)]
async fn who_is_too_slow_is_told_what_is_missing() {
    let mut bed = Bed::new();
    let mut watch = bed.watch(&From::Now);
    assert_eq!(watch.all().await, [Live]);
    bed.turn("a", 1);
    bed.turn("b", 1);
    bed.turn("c", 1);
    bed.feed.forget(bed.turns[0].id());
    bed.feed.forget(bed.turns[1].id());
    assert_eq!(watch.all().await, seen(&[&[Gap, started("c")], &events(3..=3)]));
    bed.turn("d", 1);
    bed.feed.forget(bed.turns[2].id());
    bed.feed.forget(bed.turns[3].id());
    assert_eq!(watch.all().await, [Gap], "nothing is kept");
    let before = watch.cursors.last().expect("one").clone();
    bed.turn("e", 0);
    assert_eq!(watch.all().await, [started("e")]);
    assert_eq!(bed.resume(&before).expect("kept").all().await, [started("e"), Live]);
}

#[tokio::test(start_paused = true)]
async fn who_is_too_slow_in_a_turn_goes_on_with_what_is_kept_of_it() {
    let mut bed = Bed::with(2048);
    let mut watch = bed.watch(&From::Now);
    let log = bed.begin("a");
    assert_eq!(watch.all().await, [Live, started("a")]);
    (0..100).for_each(|_| bed.happen(&log, Class::Other));
    let told = watch.all().await;
    let Some((Gap, rest)) = told.split_first() else { panic!("{told:?}") };
    let Some(Seen::Event(first)) = rest.first() else { panic!("{told:?}") };
    assert!(*first > 1);
    assert_eq!(rest, events(*first..=100));
    // From the start there is the same to be had, and a cursor of what is lost is refused.
    assert_eq!(bed.watch(&From::Start).all().await, seen(&[&[Gap], rest, &[Live]]));
    let lost = watch.cursors[1].clone();
    let kept = first_kept(bed.resume(&lost));
    assert_eq!(bed.resume(&kept).expect("kept").all().await, seen(&[rest, &[Live]]));
}
