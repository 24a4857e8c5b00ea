//! How long a start keeps its turn at starting. Turns are scarce because a start takes a
//! processor; one that takes long waits for something else, such as a file that never answers,
//! and an agent can see to that in its own folders. Others do not wait for it.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::slots::{ProcessSlot, ProcessSlots};
use crate::domain::ids::TenantId;

/// How long a start keeps its turn. The real CLI was seen to take 0.3 s, and a second or two
/// where many start at once.
const LONGEST: Duration = Duration::from_secs(5);

/// The same, where another tenant waits that holds fewer turns.
const LONGEST_IF_CONTESTED: Duration = Duration::from_secs(1);

/// Does the work of a start that has its turn, and gives the turn back when the work is done or
/// takes too long.
pub async fn in_turn<T>(
    turns: &ProcessSlots,
    tenant: &TenantId,
    turn: ProcessSlot,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let longest = Instant::now() + LONGEST;
    let contested = async {
        sleep(LONGEST_IF_CONTESTED).await;
        until_contested(turns, tenant).await;
    };
    tokio::select! {
        done = &mut work => return done,
        () = contested => drop(turn),
        () = sleep_until(longest) => drop(turn),
    }
    work.await
}

/// Waits until another tenant waits that holds fewer turns.
async fn until_contested(turns: &ProcessSlots, tenant: &TenantId) {
    let joined = turns.joined();
    loop {
        let mut joins = pin!(joined.notified());
        // Before the look: nobody who joins meanwhile is missed.
        joins.as_mut().enable();
        if turns.contests().iter().any(|contest| contest.holders.contains_key(tenant)) {
            return;
        }
        joins.await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a name")
    }

    /// The work of a start that never ends.
    async fn stuck(turns: ProcessSlots, tenant: TenantId) {
        let turn = turns.take(&tenant).await;
        in_turn(&turns, &tenant, turn, std::future::pending()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_never_ends_keeps_its_turn_for_a_while_only() {
        let (turns, own) = (ProcessSlots::new(1, None), tenant("a"));
        let mut starts = tokio::task::JoinSet::new();
        starts.spawn(stuck(turns.clone(), own.clone()));
        tokio::task::yield_now().await;
        let began = Instant::now();
        let turn = turns.take(&own).await;
        assert_eq!(began.elapsed(), LONGEST);
        let done = in_turn(&turns, &own, turn, sleep(LONGEST / 2));
        timeout(LONGEST, done).await.expect("its turn is given back when it is done");
        assert_eq!(turns.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_does_not_wait_for_the_stuck_starts_of_another() {
        let turns = ProcessSlots::new(2, None);
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..20 {
            starts.spawn(stuck(turns.clone(), tenant("a")));
        }
        tokio::task::yield_now().await;
        for _ in 0..5 {
            let began = Instant::now();
            let turn = turns.take(&tenant("b")).await;
            assert!(began.elapsed() <= LONGEST_IF_CONTESTED, "{:?}", began.elapsed());
            in_turn(&turns, &tenant("b"), turn, sleep(Duration::from_millis(300))).await;
        }
    }
}
