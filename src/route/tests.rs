//! One target's share: the border of a copy, the parts of large transactions, random streams against the definition.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::change::{Begin, Change, Commit, Message, Part, PgTime, TargetId};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::relation::{Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Cell, READ, Row};

fn relation(id: u32) -> Arc<Relation> {
    let name = TableName::new("public", format!("t{id}"));
    Arc::new(Relation {
        id: RelationId(id),
        name,
        identity: ReplicaIdentity::Default,
        columns: Vec::new(),
        binary: false,
    })
}

fn insert(relation: &Arc<Relation>) -> Change {
    let new = Row::new(Bytes::new(), Box::new([])).unwrap();
    Change::Insert { relation: Arc::clone(relation), new }
}

fn insert_of(relation: &Arc<Relation>, bytes: Bytes) -> Change {
    let cell = Cell::Text { offset: 0, length: bytes.len() as u32 };
    Change::Insert { relation: Arc::clone(relation), new: Row::new(bytes, Box::new([cell])).unwrap() }
}

fn truncate(relations: &[&Arc<Relation>]) -> Change {
    let relations = relations.iter().map(|relation| Arc::clone(relation)).collect();
    Change::Truncate { relations, cascade: true, restart_identity: true }
}

fn message() -> Change {
    let (prefix, content) = ("walferry".to_owned(), Bytes::new());
    Change::Message(Message { lsn: Lsn::new(1), transactional: true, prefix, content })
}

fn begin(commit: u64) -> Begin {
    Begin { xid: 3, commit_lsn: Some(CommitLsn::new(Lsn::new(commit))), commit_time: Some(PgTime(0)) }
}

fn part(index: u32, changes: Vec<Change>, commit: Option<u64>) -> Arc<Part> {
    let commit = commit.map(|start| Commit {
        commit_lsn: CommitLsn::new(Lsn::new(start)),
        end_lsn: EndLsn::new(Lsn::new(start + 48)),
        time: PgTime(0),
    });
    let memory = changes.iter().map(Change::memory).sum();
    Arc::new(Part { begin: begin(100), origin: None, index, changes, commit, memory })
}

fn route_to(tables: &[&str], copied: &[(u32, u64)]) -> TargetRoute {
    let tables: Vec<String> = tables.iter().map(|text| (*text).to_owned()).collect();
    let copied: HashMap<_, _> = copied.iter().map(|(id, lsn)| (relation(*id).name.clone(), Lsn::new(*lsn))).collect();
    TargetRoute::new(TargetId(0), vec![Patterns::parse(&tables).unwrap()], copied)
}

fn subset(routed: Routed) -> Arc<Part> {
    let Routed::Subset(part) = routed else { panic!("not a subset: {routed:?}") };
    part
}

#[test]
fn a_part_that_is_wanted_whole_is_shared_where_the_share_lies_dense() {
    let whole = part(0, vec![insert(&relation(1)), truncate(&[&relation(1), &relation(2)])], Some(100));
    let mut route = route_to(&["public.*"], &[]);
    let shared = |routed: Routed| matches!(routed, Routed::Whole(routed) if Arc::ptr_eq(&routed, &whole));
    let much = |id| part(0, vec![insert_of(&relation(id), vec![7; 5 * READ].into())], Some(100));
    route.route(&much(1)).unwrap();
    assert!(shared(route.route(&whole).unwrap()));
    for _ in 0..20 {
        route.pass_over(READ);
    }
    assert!(!shared(route.route(&whole).unwrap()));
}

#[test]
fn a_copied_table_counts_from_the_commit_at_its_copy_on() {
    let route = route_to(&["public.*"], &[(1, 100)]);
    let relation = relation(1);
    assert_eq!(route.wants(&relation, &begin(99)), Ok(false));
    assert_eq!(route.wants(&relation, &begin(100)), Ok(true));
    assert_eq!(route.wants(&relation, &begin(101)), Ok(true));
}

#[test]
fn a_share_of_copied_tables_only_has_no_others() {
    let route = route_to(&["public.*"], &[(1, 100)]).only_copied();
    assert_eq!(route.wants(&relation(1), &begin(100)), Ok(true));
    assert_eq!(route.wants(&relation(2), &begin(100)), Ok(false));
}

#[test]
fn a_table_copied_later_is_decided_anew() {
    let mut route = route_to(&["public.*"], &[]);
    let part = part(0, vec![insert(&relation(1))], Some(100));
    assert!(matches!(route.route(&part), Ok(Routed::Whole(_))));
    route.set_copied(relation(1).name.clone(), Lsn::new(101));
    assert_eq!(route.route(&part), Ok(Routed::Nothing));
}

#[test]
fn a_table_announced_under_another_name_is_decided_anew() {
    let mut route = route_to(&["public.t1"], &[]);
    let first = relation(1);
    assert!(matches!(route.route(&part(0, vec![insert(&first)], Some(100))), Ok(Routed::Whole(_))));
    let renamed = Arc::new(Relation { name: TableName::new("public", "t2"), ..(*first).clone() });
    assert_eq!(route.route(&part(0, vec![insert(&renamed)], Some(100))), Ok(Routed::Nothing));
}

#[test]
fn a_transaction_without_a_commit_position_is_refused_for_a_copied_table_only() {
    let route = route_to(&["public.t1", "public.t2"], &[(1, 100), (3, 100)]);
    let streamed = Begin { xid: 3, commit_lsn: None, commit_time: None };
    let table = relation(1).name.clone();
    assert_eq!(route.wants(&relation(1), &streamed), Err(RouteError::CommitUnknown { table, xid: 3 }));
    assert_eq!(route.wants(&relation(2), &streamed), Ok(true));
    assert_eq!(route.wants(&relation(3), &streamed), Ok(false));
}

#[test]
fn truncate_keeps_the_wanted_relations_and_its_options() {
    let mut route = route_to(&["public.t1"], &[]);
    let routed = subset(route.route(&part(0, vec![truncate(&[&relation(2), &relation(1)])], Some(100))).unwrap());
    assert_eq!(routed.changes, [truncate(&[&relation(1)])]);
    assert_eq!(routed.memory, routed.changes[0].memory());
    assert_eq!(route.route(&part(0, vec![truncate(&[&relation(2)])], Some(100))), Ok(Routed::Nothing));
}

#[test]
fn a_heartbeat_or_an_empty_transaction_does_not_touch_the_target() {
    let mut route = TargetRoute::new(TargetId(4), Vec::new(), HashMap::new());
    assert_eq!(route.id(), TargetId(4));
    assert_eq!(route.route(&part(0, vec![message()], Some(100))), Ok(Routed::Nothing));
    assert_eq!(route.route(&part(0, vec![], Some(100))), Ok(Routed::Nothing));
    let routed = subset(route.route(&part(0, vec![message(), insert(&relation(1))], Some(100))).unwrap());
    assert_eq!(routed.changes, [insert(&relation(1))]);
}

#[test]
fn what_was_begun_is_ended_even_without_a_change() {
    let (mine, other) = (insert(&relation(1)), insert(&relation(2)));
    let mut route = route_to(&["public.t1"], &[]);
    assert_eq!(route.route(&part(0, vec![other.clone()], None)), Ok(Routed::Nothing));
    let first = subset(route.route(&part(1, vec![mine.clone()], None)).unwrap());
    assert_eq!((first.index, first.changes.len()), (0, 1));
    assert_eq!(route.route(&part(2, vec![other.clone()], None)), Ok(Routed::Nothing));
    let last = subset(route.route(&part(3, vec![other.clone()], Some(100))).unwrap());
    assert_eq!((last.index, last.changes.len(), last.commit.is_some()), (1, 0, true));
    assert_eq!(route.route(&part(0, vec![other], Some(100))), Ok(Routed::Nothing));
}

#[test]
fn a_transaction_broken_off_and_sent_again_starts_anew() {
    let mut route = route_to(&["public.t1"], &[]);
    assert!(matches!(route.route(&part(0, vec![insert(&relation(1))], None)), Ok(Routed::Whole(_))));
    assert_eq!(route.route(&part(0, vec![insert(&relation(2))], Some(100))), Ok(Routed::Nothing));
}

/// A change by the ids of its relations: none for a message, one for a row, several for TRUNCATE.
fn ids(change: &Change) -> Vec<u32> {
    match change {
        Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
            vec![relation.id.0]
        }
        Change::Truncate { relations, .. } => relations.iter().map(|relation| relation.id.0).collect(),
        Change::Message(_) => Vec::new(),
    }
}

proptest! {
    #[test]
    fn the_share_is_the_wanted_changes_in_order_numbered_without_holes(
        parts in prop::collection::vec(prop::collection::vec(prop::collection::vec(1u32..5, 0..4), 0..6), 1..6),
        excluded in 1u32..5,
        copied in prop::option::of((1u32..5, 90u64..110)),
    ) {
        let relations: Vec<_> = (0..5).map(relation).collect();
        let mut route = route_to(&[&format!("!public.t{excluded}")], copied.as_slice());
        let wanted = |id: &u32| *id != excluded && copied.is_none_or(|(table, lsn)| table != *id || 100 >= lsn);
        let mut expected: Vec<Vec<u32>> = Vec::new();
        let mut got: Vec<Vec<u32>> = Vec::new();
        let mut ended = false;
        let mut next_index = 0;
        let last = parts.len() - 1;
        for (index, changes) in parts.into_iter().enumerate() {
            let kept = changes.iter().map(|ids| ids.iter().copied().filter(wanted).collect::<Vec<_>>());
            expected.extend(kept.filter(|ids| !ids.is_empty()));
            let changes = changes.iter().map(|ids| match &ids[..] {
                [] => message(),
                [id] => insert(&relations[*id as usize]),
                ids => truncate(&ids.iter().map(|id| &relations[*id as usize]).collect::<Vec<_>>()),
            });
            let part = part(index as u32, changes.collect(), (index == last).then_some(100));
            let routed = match route.route(&part).unwrap() {
                Routed::Nothing => continue,
                Routed::Whole(routed) | Routed::Subset(routed) => routed,
            };
            prop_assert_eq!(routed.index, next_index);
            prop_assert_eq!(routed.memory, routed.changes.iter().map(Change::memory).sum::<usize>());
            next_index += 1;
            got.extend(routed.changes.iter().map(ids));
            ended = routed.commit.is_some();
        }
        prop_assert_eq!(ended, !expected.is_empty());
        prop_assert_eq!(got, expected);
    }
}

/// The reads whose memory these parts keep alive, in bytes. Reads lie at multiples of their size in `stream`.
fn kept_alive(stream: &[u8], parts: &[Arc<Part>]) -> usize {
    let mut reads = std::collections::HashSet::new();
    for change in parts.iter().flat_map(|part| &part.changes) {
        let Change::Insert { new, .. } = change else { panic!("got {change:?}") };
        let bytes = new.share(0).unwrap();
        if stream.as_ptr_range().contains(&bytes.as_ptr()) {
            let at = bytes.as_ptr() as usize - stream.as_ptr() as usize;
            reads.extend(at / READ..=(at + bytes.len() - 1) / READ);
        }
    }
    reads.len() * READ
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Transactions of rows of t1, wanted, and t2; the memory that the target's queue keeps alive is a small multiple
    /// of what it counts, however they alternate.
    #[test]
    fn what_is_kept_alive_is_bounded_by_what_is_counted(
        phases in prop::collection::vec((1usize..2000, 1usize..3000, 0u32..400), 1..40),
    ) {
        let stream = Bytes::from(vec![0; 24 << 20]);
        let (wanted, other) = (relation(1), relation(2));
        let mut route = route_to(&["public.t1"], &[]);
        let (mut at, mut queue) = (0, Vec::new());
        'full: for (mine, others, transactions) in phases {
            for _ in 0..transactions {
                if at + mine + others > stream.len() {
                    break 'full;
                }
                let changes = vec![
                    insert_of(&wanted, stream.slice(at..at + mine)),
                    insert_of(&other, stream.slice(at + mine..at + mine + others)),
                ];
                at += mine + others;
                queue.push(subset(route.route(&part(0, changes, Some(100))).unwrap()));
            }
        }
        let counted: usize = queue.iter().map(|part| part.memory).sum();
        let alive = kept_alive(&stream, &queue);
        prop_assert!(alive <= 5 * counted + 8 * READ, "{alive} bytes are kept alive for {counted}");
    }
}
