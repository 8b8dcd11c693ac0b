//! The assembler against random valid streams, and against each way a stream can contradict itself.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::change::{self, Change, Commit, Delivery, Part, PgTime};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::pgoutput::Message;
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Cell, OldRow, Row};

const TIME: PgTime = PgTime(7);

fn begin(lsn: u64) -> Message {
    Message::Begin { final_lsn: CommitLsn::new(Lsn::new(lsn)), commit_time: TIME, xid: 9 }
}

fn commit(start: u64, end: u64) -> Message {
    let (commit_lsn, end_lsn) = (CommitLsn::new(Lsn::new(start)), EndLsn::new(Lsn::new(end)));
    Message::Commit { commit: Commit { commit_lsn, end_lsn, time: TIME } }
}

fn relation(id: u32, columns: usize) -> Relation {
    let column = |at| Column { name: format!("c{at}"), type_oid: 25, type_modifier: -1, is_key: at == 0 };
    Relation {
        id: RelationId(id),
        name: TableName::new("public", format!("t{id}")),
        identity: ReplicaIdentity::Default,
        columns: (0..columns).map(column).collect(),
        binary: false,
    }
}

fn announce(id: u32, columns: usize) -> Message {
    Message::Relation { xid: None, relation: relation(id, columns) }
}

/// A row of one value of `length` bytes.
fn row(length: usize) -> Row {
    let cell = Cell::Text { offset: 0, length: length as u32 };
    Row::new(vec![b'x'; length].into(), Box::new([cell])).unwrap()
}

fn insert(id: u32, length: usize) -> Message {
    Message::Insert { xid: None, relation: RelationId(id), new: row(length) }
}

fn logical(transactional: bool) -> Message {
    let message = change::Message { lsn: Lsn::new(5), transactional, prefix: "walferry".into(), content: Bytes::new() };
    Message::Logical { xid: None, message }
}

fn push_all(assembler: &mut Assembler, messages: Vec<Message>) -> Result<Vec<Delivery>, AssemblyError> {
    let mut out = Vec::new();
    for message in messages {
        assembler.push(message, Lsn::new(0x30), &mut out)?;
    }
    Ok(out)
}

fn assemble(messages: Vec<Message>) -> Result<Vec<Delivery>, AssemblyError> {
    push_all(&mut Assembler::new(1 << 20), messages)
}

fn fault(messages: Vec<Message>) -> Fault {
    assemble(messages).unwrap_err().fault
}

fn parts(deliveries: Vec<Delivery>) -> Vec<Part> {
    deliveries
        .into_iter()
        .filter_map(|delivery| if let Delivery::Part(part) = delivery { Some(part) } else { None })
        .collect()
}

#[test]
fn a_small_transaction_is_one_part() {
    let delivered = assemble(vec![begin(10), announce(1, 1), insert(1, 3), insert(1, 4), commit(10, 20)]).unwrap();
    let [part] = parts(delivered).try_into().unwrap();
    assert!(part.is_whole());
    assert_eq!(part.changes.len(), 2);
    assert_eq!(part.begin.commit_lsn, Some(CommitLsn::new(Lsn::new(10))));
    assert_eq!(part.commit.unwrap().end_lsn, EndLsn::new(Lsn::new(20)));
    assert_eq!(part.memory, part.changes.iter().map(Change::memory).sum::<usize>());
}

#[test]
fn an_empty_transaction_is_delivered_for_its_position() {
    let [part] = parts(assemble(vec![begin(10), commit(10, 20)]).unwrap()).try_into().unwrap();
    assert!(part.is_whole() && part.changes.is_empty());
}

#[test]
fn one_change_larger_than_a_part_travels_alone() {
    let mut assembler = Assembler::new(1000);
    let messages =
        vec![begin(1), announce(1, 1), insert(1, 1), insert(1, 5000), insert(1, 1), insert(1, 1), commit(1, 2)];
    let parts = parts(push_all(&mut assembler, messages).unwrap());
    let shape: Vec<_> = parts.iter().map(|part| (part.index, part.changes.len(), part.commit.is_some())).collect();
    assert_eq!(shape, [(0, 1, false), (1, 1, false), (2, 2, true)]);
}

#[test]
fn a_keepalive_means_something_between_transactions_only() {
    let mut assembler = Assembler::new(1000);
    let quiet = |lsn| Some(Delivery::Quiet(EndLsn::new(Lsn::new(lsn))));
    assert_eq!(assembler.keepalive(Lsn::ZERO), None);
    assert_eq!(assembler.keepalive(Lsn::new(8)), quiet(8));
    push_all(&mut assembler, vec![begin(10)]).unwrap();
    assert!(assembler.open());
    assert_eq!(assembler.keepalive(Lsn::new(9)), None);
    push_all(&mut assembler, vec![commit(10, 20)]).unwrap();
    assert!(!assembler.open());
    assert_eq!(assembler.keepalive(Lsn::new(19)), None);
    assert_eq!(assembler.keepalive(Lsn::new(20)), quiet(20));
    assert_eq!(assembler.keepalive(Lsn::new(30)), quiet(30));
    let late = push_all(&mut assembler, vec![begin(29)]).unwrap_err();
    let (commit, complete) = (CommitLsn::new(Lsn::new(29)), Lsn::new(30));
    assert_eq!(late.fault, Fault::OutOfOrder { commit, complete });
}

#[test]
fn an_origin_goes_with_the_parts_of_its_transaction() {
    let origin = Message::Origin { lsn: Some(Lsn::new(3)), name: "elsewhere".into() };
    let delivered = assemble(vec![begin(10), origin, commit(10, 20), begin(30), commit(30, 40)]).unwrap();
    let [first, second] = parts(delivered).try_into().unwrap();
    assert_eq!(first.origin.unwrap().name, "elsewhere");
    assert_eq!(second.origin, None);
}

#[test]
fn a_message_belongs_to_its_transaction_or_comes_at_once() {
    let delivered = assemble(vec![logical(false), begin(10), logical(false), logical(true), commit(10, 20)]).unwrap();
    let [Delivery::Message(_), Delivery::Message(inside), Delivery::Part(part)] = &delivered[..] else {
        panic!("delivered {delivered:?}")
    };
    assert!(!inside.transactional);
    assert!(matches!(&part.changes[..], [Change::Message(message)] if message.transactional));
}

#[test]
fn a_relation_repeated_keeps_its_identity_and_a_changed_one_does_not() {
    let messages = vec![
        begin(1),
        announce(1, 1),
        insert(1, 1),
        announce(1, 1),
        insert(1, 1),
        announce(1, 2),
        Message::Truncate { xid: None, relations: vec![RelationId(1)], cascade: true, restart_identity: false },
        commit(1, 2),
    ];
    let [part] = parts(assemble(messages).unwrap()).try_into().unwrap();
    let [
        Change::Insert { relation: first, .. },
        Change::Insert { relation: second, .. },
        Change::Truncate { relations, cascade: true, restart_identity: false },
    ] = &part.changes[..]
    else {
        panic!("changes {:?}", part.changes)
    };
    assert!(Arc::ptr_eq(first, second));
    assert_eq!((first.columns.len(), relations[0].columns.len()), (1, 2));
}

#[test]
fn a_type_keeps_its_name() {
    let mut assembler = Assembler::new(1000);
    let message = Message::Type { xid: None, oid: 16_384, schema: "public".into(), name: "mood".into() };
    push_all(&mut assembler, vec![message]).unwrap();
    assert_eq!(assembler.type_name(16_384), Some(("public", "mood")));
    assert_eq!(assembler.type_name(1), None);
}

#[test]
fn what_has_no_transaction_is_refused() {
    assert_eq!(fault(vec![announce(1, 1), insert(1, 1)]), Fault::NoTransaction);
    assert_eq!(fault(vec![commit(1, 2)]), Fault::NoTransaction);
    assert_eq!(fault(vec![logical(true)]), Fault::NoTransaction);
    assert_eq!(fault(vec![Message::Origin { lsn: None, name: "o".into() }]), Fault::NoTransaction);
    assert_eq!(fault(vec![begin(1), begin(2)]), Fault::AlreadyOpen);
}

#[test]
fn a_commit_that_contradicts_its_begin_or_the_order_is_refused() {
    let at = |lsn| CommitLsn::new(Lsn::new(lsn));
    assert_eq!(fault(vec![begin(10), commit(11, 20)]), Fault::OtherCommit { begin: at(10), commit: at(11) });
    let (start, end) = (Lsn::new(10), Lsn::new(10));
    assert_eq!(fault(vec![begin(10), commit(10, 10)]), Fault::EmptyCommitRecord { start, end });
    let complete = Lsn::new(20);
    assert_eq!(fault(vec![begin(10), commit(10, 20), begin(19)]), Fault::OutOfOrder { commit: at(19), complete });
}

#[test]
fn a_row_must_fit_a_relation_that_was_announced() {
    let id = RelationId(1);
    assert_eq!(fault(vec![begin(1), insert(1, 1)]), Fault::UnknownRelation(id));
    let table = TableName::new("public", "t1");
    let misfit = Fault::ColumnCount { table, row: 1, relation: 2 };
    let old = OldRow::Key(row(1));
    assert_eq!(fault(vec![begin(1), announce(1, 2), insert(1, 1)]), misfit);
    let delete = Message::Delete { xid: None, relation: id, old: old.clone() };
    assert_eq!(fault(vec![begin(1), announce(1, 2), delete]), misfit);
    let two = Row::new(Bytes::new(), Box::new([Cell::Null, Cell::Null])).unwrap();
    let update = Message::Update { xid: None, relation: id, old: Some(old), new: two };
    assert_eq!(fault(vec![begin(1), announce(1, 2), update]), misfit);
    let truncate = |relations| Message::Truncate { xid: None, relations, cascade: false, restart_identity: false };
    assert_eq!(fault(vec![begin(1), truncate(vec![id])]), Fault::UnknownRelation(id));
    assert_eq!(fault(vec![begin(1), truncate(vec![])]), Fault::EmptyTruncate);
}

#[test]
fn what_was_not_asked_for_is_named() {
    assert_eq!(fault(vec![Message::StreamStart { xid: 1, first: true }]), Fault::Streaming);
    assert_eq!(fault(vec![Message::Relation { xid: Some(1), relation: relation(1, 1) }]), Fault::Streaming);
    let Message::Commit { commit } = commit(1, 2) else { panic!("not a commit") };
    assert_eq!(fault(vec![Message::CommitPrepared { commit, xid: 1, gid: "g".into() }]), Fault::TwoPhase);
}

#[test]
fn the_error_says_where() {
    let error = assemble(vec![begin(0x10), insert(77, 1)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the source sent Insert out of place at 0/30 in the transaction that commits at 0/10: relation 77 \
         was not announced"
    );
}

/// A transaction's changes: relation and size of each.
type Changes = Vec<(u32, usize)>;

/// Transactions, each with WAL before it and a keepalive after it or not.
fn stream() -> impl Strategy<Value = Vec<(Changes, u64, bool)>> {
    let changes = prop::collection::vec((0u32..3, 0usize..400), 0..30);
    prop::collection::vec((changes, 0u64..50, any::<bool>()), 0..8)
}

proptest! {
    #[test]
    fn the_parts_are_the_transactions_in_order_and_within_bounds(stream in stream(), part_bytes in 0usize..4000) {
        let mut assembler = Assembler::new(part_bytes);
        let mut out = Vec::new();
        let mut expected = Vec::new();
        let mut at = 100;
        for id in 0..3 {
            assembler.push(announce(id, 1), Lsn::ZERO, &mut out).unwrap();
        }
        for (changes, gap, keepalive) in stream {
            let (start, end) = (at + gap, at + gap + 48);
            at = end;
            let mut messages = vec![begin(start)];
            messages.extend(changes.iter().map(|(id, length)| insert(*id, *length)));
            messages.push(commit(start, end));
            for message in messages {
                assembler.push(message, Lsn::ZERO, &mut out).unwrap();
            }
            if keepalive {
                out.extend(assembler.keepalive(Lsn::new(at)));
            }
            expected.push((end, changes));
        }

        let mut delivered = Vec::new();
        let mut gathered = Vec::new();
        let mut next_index = 0;
        let mut position = 0;
        for delivery in out {
            let part = match delivery {
                Delivery::Part(part) => part,
                Delivery::Quiet(end) => {
                    prop_assert!(end.lsn().as_u64() >= position && next_index == 0);
                    position = end.lsn().as_u64();
                    continue;
                }
                Delivery::Message(message) => panic!("no message was sent, got {message:?}"),
            };
            prop_assert!(part.memory <= part_bytes || part.changes.len() == 1 || part.changes.is_empty());
            prop_assert_eq!(part.memory, part.changes.iter().map(Change::memory).sum::<usize>());
            prop_assert_eq!(part.index, next_index);
            next_index += 1;
            for change in &part.changes {
                let Change::Insert { relation, new } = change else { panic!("got {change:?}") };
                gathered.push((relation.id.0, new.share(0).unwrap().len()));
            }
            if let Some(commit) = part.commit {
                prop_assert!(commit.commit_lsn.lsn().as_u64() >= position);
                position = commit.end_lsn.lsn().as_u64();
                delivered.push((position, std::mem::take(&mut gathered)));
                next_index = 0;
            }
        }
        prop_assert_eq!(delivered, expected);
    }
}
