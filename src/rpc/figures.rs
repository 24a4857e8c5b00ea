//! The figures of several nodes: what each says of itself, and the sums. What is in the database
//! that nodes share is no node's own, and is in the sums once.

use super::{others::Member, snapshot};
use crate::{
    pool::{Beyond, PoolStats},
    proto::{GetStatsResponse, NodeStats, PoolCounters, StoreStatus, Usage},
};

/// A node, and what it has told.
#[derive(Debug)]
pub struct Row {
    /// As callers are told.
    pub told: NodeStats,
    /// Whether it has told what is its own; a node of an earlier version does not.
    is_own: bool,
}

impl Row {
    /// A node that has told what is its own.
    pub fn own(told: NodeStats) -> Self {
        Self { told, is_own: true }
    }

    /// Another node, by its answer.
    pub fn of(node: &Member, answer: Result<GetStatsResponse, String>) -> Self {
        let empty = empty_row(node);
        let told = |told| Self { told, is_own: false };
        match answer {
            Err(reason) => told(NodeStats { reached: false, reason, ..empty }),
            Ok(mut answer) => match answer.nodes.pop() {
                // Whom it takes itself for matters less than who was asked.
                Some(own) => Self::own(NodeStats {
                    name: empty.name,
                    address: empty.address,
                    reached: true,
                    reason: String::new(),
                    ..own
                }),
                None => told(NodeStats { draining: answer.draining, stats: Some(answer), ..empty }),
            },
        }
    }
}

fn empty_row(node: &Member) -> NodeStats {
    NodeStats {
        name: node.name.to_string(),
        address: node.address.as_deref().unwrap_or_default().to_owned(),
        incarnation: node.incarnation.clone(),
        draining: node.draining,
        reached: true,
        ..NodeStats::default()
    }
}

/// What this node says of itself: of all that it `told` what is its own.
pub fn own_row(
    node: &Member,
    stats: &PoolStats,
    counts_as: Option<String>,
    told: &GetStatsResponse,
) -> NodeStats {
    let elsewhere = stats.total_sessions.saturating_sub(stats.live_sessions);
    let spent = stats.counted_here.spent();
    let own = GetStatsResponse {
        total_sessions: snapshot::count(stats.live_sessions),
        hibernated_sessions: snapshot::count(stats.hibernated_sessions.saturating_sub(elsewhere)),
        total_messages: stats.counted_here.messages.get(),
        counters: Some(snapshot::counters(&stats.counted_here)),
        total_cost_usd: spent.cost_usd,
        usage: Some(snapshot::usage(&spent.usage)),
        nodes: Vec::new(),
        ..told.clone()
    };
    NodeStats {
        draining: node.draining || stats.draining,
        stats: Some(own),
        stored_sessions: snapshot::count(stats.stored_sessions),
        counts_as: counts_as.unwrap_or_default(),
        ..empty_row(node)
    }
}

/// How many of the sessions in the store nodes have told of, and by which names those count.
pub fn told_of(rows: &[Row]) -> (usize, Vec<String>) {
    let own = || rows.iter().filter(|row| row.is_own);
    let stored = own().map(|row| row.told.stored_sessions as usize).sum();
    let named = own().map(|row| row.told.counts_as.clone()).filter(|name| !name.is_empty());
    (stored, named.collect())
}

/// The sums of what nodes have told, and of what there is beyond. `asked` is what the node that is
/// asked says of itself.
pub fn sum(asked: GetStatsResponse, rows: Vec<Row>, beyond: &Beyond) -> GetStatsResponse {
    let spent = beyond.counted.spent();
    let mut all = GetStatsResponse {
        max_sessions: asked.max_sessions,
        total_sessions: snapshot::count(beyond.sessions),
        total_messages: beyond.counted.messages.get(),
        counters: Some(snapshot::counters(&beyond.counted)),
        total_cost_usd: spent.cost_usd,
        usage: Some(snapshot::usage(&spent.usage)),
        store: asked.store.map(|store| StoreStatus { failed_transactions: 0, ..store }),
        ..GetStatsResponse::default()
    };
    // Sessions that have a process, or are about to.
    let mut awake = 0_u32;
    for row in &rows {
        let Some(stats) = &row.told.stats else { continue };
        add_what_is_there(&mut all, stats);
        awake += stats.total_sessions.saturating_sub(stats.hibernated_sessions);
        // What others say of these is in the database, too.
        if row.is_own {
            all.total_sessions = all.total_sessions.saturating_add(stats.total_sessions);
            add_what_was_counted(&mut all, stats);
        }
    }
    // Of an earlier version's new sessions nothing else is known.
    all.total_sessions = all.total_sessions.max(awake);
    all.hibernated_sessions = all.total_sessions.saturating_sub(awake);
    all.nodes = rows.into_iter().map(|row| row.told).collect();
    all
}

/// Adds the values of these fields.
macro_rules! add {
    ($sum:expr, $more:expr; $($field:ident),* $(,)?) => {
        $($sum.$field += $more.$field;)*
    };
}

fn add_what_is_there(sum: &mut GetStatsResponse, more: &GetStatsResponse) {
    sum.enabled |= more.enabled;
    add!(sum, more;
        active_sessions, processes, spares, spares_starting, starting_processes, streaming_turns,
        queued_turns, process_memory_bytes, tasks, memory_used_bytes, spill_used_bytes,
        dropped_turns, memory_refusals,
    );
    if let (Some(sum), Some(more)) = (&mut sum.store, &more.store) {
        sum.failed_transactions += more.failed_transactions;
    }
}

fn add_what_was_counted(sum: &mut GetStatsResponse, more: &GetStatsResponse) {
    add!(sum, more; total_messages, total_cost_usd);
    if let (Some(sum), Some(more)) = (&mut sum.counters, &more.counters) {
        add_counters(sum, more);
    }
    if let (Some(sum), Some(more)) = (&mut sum.usage, &more.usage) {
        add_usage(sum, more);
    }
}

fn add_usage(sum: &mut Usage, more: &Usage) {
    add!(sum, more;
        input_tokens, output_tokens, cache_creation_input_tokens, cache_read_input_tokens,
    );
}

fn add_counters(sum: &mut PoolCounters, more: &PoolCounters) {
    add!(sum, more;
        turns, turns_completed, turns_failed, sessions_created, sessions_reused, sessions_resumed,
        from_spare, cold_starts, interrupted, first_chunk_timeouts, stalled, expired, idle_removed,
        stuck, cli_exits, capacity_refusals, connect_failures, interrupt_escalations, hibernations,
        frames, hibernations_under_pressure, spare_misses_none_ready, spare_misses_options,
        spare_misses_conversation, spare_misses_folder, spare_misses_failed, stray_lines,
        credentials_refused, background_work_ended,
    );
    add_time(&mut sum.cold_start_time, more.cold_start_time);
    add_time(&mut sum.resume_time, more.resume_time);
}

fn add_time(sum: &mut Option<prost_types::Duration>, more: Option<prost_types::Duration>) {
    let (mine, theirs) = (sum.unwrap_or_default(), more.unwrap_or_default());
    let seconds = mine.seconds.saturating_add(theirs.seconds);
    let mut together = prost_types::Duration { seconds, nanos: mine.nanos + theirs.nanos };
    together.normalize();
    *sum = Some(together);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    /// A message in which every number and every time is one.
    fn all_ones<M: prost::Message + Default>(name: &str) -> M {
        let set = FileDescriptorSet::decode(crate::proto::DESCRIPTORS).expect("descriptors");
        let mut messages = set.file.iter().flat_map(|file| &file.message_type);
        let message = messages.find(|message| message.name() == name).expect("the message");
        let mut bytes = Vec::new();
        for field in &message.field {
            let key = |wire: u8| {
                let key = u32::try_from(field.number()).expect("a number") << 3 | u32::from(wire);
                let mut text = Vec::new();
                prost::encoding::encode_varint(key.into(), &mut text);
                text
            };
            match field.r#type() {
                Type::Uint64 => bytes.extend([key(0), vec![1]].concat()),
                Type::Message => bytes.extend([key(2), vec![2, 8, 1]].concat()),
                other => panic!("{}: {other:?}", field.name()),
            }
        }
        M::decode(&*bytes).expect("a message")
    }

    #[test]
    fn no_counter_is_left_out_of_a_sum() {
        let one: PoolCounters = all_ones("PoolCounters");
        let mut two = one;
        add_counters(&mut two, &one);
        let told = format!("{two:?}");
        let numbers: Vec<&str> = told.split(|c: char| !c.is_ascii_digit()).collect();
        assert!(numbers.contains(&"2") && !numbers.contains(&"1"), "{told}");
    }

    fn told(sessions: u32, hibernated: u32, turns: u64) -> GetStatsResponse {
        GetStatsResponse {
            total_sessions: sessions,
            hibernated_sessions: hibernated,
            counters: Some(PoolCounters { turns, ..PoolCounters::default() }),
            streaming_turns: 1,
            ..GetStatsResponse::default()
        }
    }

    fn member(name: &str) -> Member {
        let name = name.into();
        Member { name, address: None, incarnation: "i".to_owned(), draining: false }
    }

    fn node(name: &str, stored: u32, stats: GetStatsResponse) -> GetStatsResponse {
        let own = NodeStats {
            stats: Some(stats),
            stored_sessions: stored,
            counts_as: name.to_owned(),
            ..empty_row(&member(name))
        };
        GetStatsResponse { nodes: vec![own], ..told(100, 100, 100) }
    }

    fn beyond(sessions: usize, turns: u64) -> Beyond {
        let counted = crate::counters::Counters::default();
        counted.turns.add(turns);
        Beyond { sessions, counted }
    }

    #[test]
    fn what_is_in_the_database_is_in_the_sum_once() {
        let one = Row::of(&member("one"), Ok(node("one", 3, told(4, 1, 10))));
        let two = Row::of(&member("two"), Ok(node("two", 2, told(2, 2, 20))));
        // It runs a turn, says of all sessions what it has read, and what it has counted is
        // in the database alone.
        let old = Row::of(&member("old"), Ok(told(50, 49, 999)));
        let gone = Row::of(&member("gone"), Err("it is gone".to_owned()));
        let rows = vec![one, two, old, gone];
        assert_eq!(told_of(&rows), (5, vec!["one".to_owned(), "two".to_owned()]));
        // Beyond the five that they told of, seven are in the database.
        let sum = sum(told(100, 100, 100), rows, &beyond(7, 5));
        assert_eq!(sum.total_sessions, 4 + 2 + 7);
        assert_eq!(sum.hibernated_sessions, 13 - 3 - 1);
        assert_eq!(sum.counters.expect("counted").turns, 10 + 20 + 5);
        assert_eq!(sum.streaming_turns, 3, "of those that have answered");
        let reached: Vec<_> = sum.nodes.iter().map(|row| (&*row.name, row.reached)).collect();
        assert_eq!(reached, [("one", true), ("two", true), ("old", true), ("gone", false)]);
        assert_eq!(sum.nodes[3].reason, "it is gone");
        assert!(sum.uptime.is_none() && sum.service_version.is_empty() && sum.max_processes == 0);
    }
}
