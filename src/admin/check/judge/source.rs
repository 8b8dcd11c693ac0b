//! The checks of the source's settings and of the slot. Pure.

use super::facts::source::SourceFacts;
use super::{Code, Finding, publication, server};
use crate::error::{Judged, Verdict};
use crate::relation::Displayed;
use crate::source::slot::failover;
use crate::sql::Sql;

type Check = fn(&SourceFacts) -> Vec<Finding>;

const CHECKS: &[Check] = &[
    |facts| server::judge(&facts.server, "source.url", sessions(facts)),
    wal_level,
    recovery,
    replication,
    slot,
    foreign_slot,
    slot_user,
    free_slots,
    free_senders,
    prepared,
    keep_size,
    sender_timeout,
    idle_slot_timeout,
    standbys,
    publication::judge,
    not_carried,
];

/// All findings.
pub fn judge(facts: &SourceFacts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts)).map(|finding| finding.on("source")).collect()
}

/// Sessions besides the stream's WAL sender: lock, watch and heartbeat; for each target that is copied to, what reads
/// the catalogue and the rows.
fn sessions(facts: &SourceFacts) -> i64 {
    3 + facts.copying * (2 + facts.copy_workers)
}

fn wal_level(facts: &SourceFacts) -> Vec<Finding> {
    if facts.wal_level == "logical" {
        return vec![];
    }
    vec![
        Finding::new(Code::WalLevel, "wal_level", format!("is {}", facts.wal_level))
            .why("the WAL lacks what decoding needs")
            .restarted("wal_level", &Sql::new("logical")),
    ]
}

fn recovery(facts: &SourceFacts) -> Vec<Finding> {
    let (code, why) = match facts.in_recovery {
        false => return vec![],
        true if facts.server.version < 160_000 => {
            (Code::StandbyCannotDecode, "before PostgreSQL 16 a standby cannot decode")
        }
        true => (
            Code::StandbySource,
            "there is no heartbeat, and a slot's creation waits for pg_log_standby_snapshot() on the primary",
        ),
    };
    vec![Finding::new(code, "source.url", "leads to a standby").why(why).advice("Connect to the primary.")]
}

fn replication(facts: &SourceFacts) -> Vec<Finding> {
    let Some(found) = &facts.no_replication else { return vec![] };
    let error = &found.error;
    if found.crowded {
        let (most, used) = facts.senders;
        return match used >= most {
            true => vec![
                Finding::new(Code::WalSendersTaken, "max_wal_senders", format!("{used} of {most} are taken: {error}"))
                    .why("the stream needs one")
                    .restarted("max_wal_senders", &Sql::number(used.max(most) + 4)),
            ],
            false => vec![
                Finding::new(Code::ConnectionsTaken, "connections", format!("are all taken: {error}"))
                    .why("the stream needs one")
                    .advice("Raise max_connections, or the role's or the database's CONNECTION LIMIT."),
            ],
        };
    }
    let role = &facts.server.role;
    let finding = Finding::new(
        Code::ReplicationRefused,
        format!("role {}", Displayed(role)),
        format!("cannot replicate: {error}"),
    )
    .why("the stream is a replication connection");
    if facts.may_replicate {
        let advice = "Connect to the server itself, and see its pg_hba.conf for this database and role.";
        return vec![finding.advice(found.hint.clone().unwrap_or_else(|| advice.to_owned()))];
    }
    vec![
        finding
            .sql(&Sql::format("ALTER ROLE {} REPLICATION", &[&Sql::ident(role)]))
            .advice("Managed servers have their own grant for it; and a connection pooler never carries replication."),
    ]
}

fn slot(facts: &SourceFacts) -> Vec<Finding> {
    let (Some(slot), Some(position)) = (&facts.slot, &facts.position) else { return vec![] };
    let object = format!("slot {}", Displayed(&slot.name));
    if let Err(error) = slot.check_usable(&position.database) {
        let advice = match error.verdict() {
            Verdict::Halt { hint } => hint,
            Verdict::Retry if slot.awaits_promotion => "Wait for the server's promotion.".to_owned(),
            Verdict::Retry => "Wait for its creation to end.".to_owned(),
        };
        let finding = Finding::new(Code::SlotUnusable, object, error.to_string());
        return vec![finding.why("the stream comes from it alone").advice(advice)];
    }
    if slot.is_at_risk() {
        let what = "may lose WAL that it needs at the next checkpoint (wal_status unreserved)";
        return vec![
            Finding::new(Code::SlotAtRisk, object, what)
                .why("then everything has to be copied again")
                .advice("Start the daemon, or raise max_slot_wal_keep_size."),
        ];
    }
    if facts.server.version >= failover::SINCE && !slot.failover && !facts.in_recovery {
        let statement = failover::statement(&slot.name);
        return vec![
            Finding::new(Code::SlotNotFailover, object, "is not synchronized to standbys (failover is off)")
                .why("a server that is promoted would not have it, and everything would have to be copied again")
                .advice(format!(
                    "Stop walferry, which has the slot in use, and run, as a role with REPLICATION: psql \"dbname={} \
                     replication=database\" -c '{}'",
                    position.database,
                    statement.as_str(),
                )),
        ];
    }
    vec![]
}

/// What `walferry run` refuses.
fn foreign_slot(facts: &SourceFacts) -> Vec<Finding> {
    let (Some(slot), Some(position), Some(false)) = (&facts.slot, &facts.position, facts.known) else { return vec![] };
    if slot.check_usable(&position.database).is_err() {
        return vec![];
    }
    let object = format!("slot {}", Displayed(&slot.name));
    vec![
        Finding::new(Code::SlotUnknown, object, "exists, but no target has ever been fed from it")
            .why("it may be that of another program, and following it would take its changes away")
            .advice(
                "Set source.slot to another name; or, if it is left over: walferry slot reset, which drops it, creates \
                 it anew and has the tables copied",
            ),
    ]
}

fn slot_user(facts: &SourceFacts) -> Vec<Finding> {
    let (Some(slot), Some(user)) = (&facts.slot, &facts.slot_user) else { return vec![] };
    // One that has ended meanwhile uses it no more.
    let Some((application, _)) = user.session.as_ref().filter(|(name, _)| *name != facts.daemon) else { return vec![] };
    if facts.known == Some(false) {
        return vec![];
    }
    vec![
        Finding::new(Code::SlotInUse, format!("slot {}", Displayed(&slot.name)), format!("is in use by {user}"))
            .why(format!("walferry run waits until {} lets go of it", Displayed(application)))
            .advice("Stop that program, or set source.slot to another name."),
    ]
}

fn free_slots(facts: &SourceFacts) -> Vec<Finding> {
    let (most, used) = facts.slots;
    let needed = i64::from(facts.slot.is_none()) + facts.copying;
    if most - used >= needed {
        return vec![];
    }
    let (code, why) = match most - used < 1 && facts.slot.is_none() {
        true => (Code::SlotsTaken, "there is no room for walferry's slot".to_owned()),
        false => (Code::SlotsFew, needed_while_copying(needed)),
    };
    vec![
        Finding::new(code, "max_replication_slots", format!("{used} of {most} are taken"))
            .why(why)
            .restarted("max_replication_slots", &Sql::number(used + needed + 2)),
    ]
}

fn free_senders(facts: &SourceFacts) -> Vec<Finding> {
    // Said already.
    if facts.no_replication.as_ref().is_some_and(|found| found.crowded) {
        return vec![];
    }
    let (most, used) = facts.senders;
    let streams = facts.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    let needed = i64::from(!streams) + facts.copying;
    if most - used >= needed {
        return vec![];
    }
    let (code, why) = match most - used < 1 && !streams {
        true => (Code::WalSendersTaken, "the stream needs one".to_owned()),
        false => (Code::WalSendersFew, needed_while_copying(needed)),
    };
    vec![
        Finding::new(code, "max_wal_senders", format!("{used} of {most} are taken"))
            .why(why)
            .restarted("max_wal_senders", &Sql::number(used + needed + 2)),
    ]
}

fn needed_while_copying(needed: i64) -> String {
    format!("{needed} are needed while tables are copied: the stream's, and for a while one for each target")
}

/// A slot's first position is one at which no transaction is open.
fn prepared(facts: &SourceFacts) -> Vec<Finding> {
    if facts.prepared == 0 || (facts.slot.is_some() && facts.copying == 0) {
        return vec![];
    }
    vec![
        Finding::new(Code::PreparedTransactions, "pg_prepared_xacts", format!("has {}", facts.prepared))
            .why("a slot's creation waits until each of them has ended, whatever its database")
            .advice("End each by COMMIT PREPARED or ROLLBACK PREPARED; whoever prepared it knows which."),
    ]
}

fn keep_size(facts: &SourceFacts) -> Vec<Finding> {
    let object = "max_slot_wal_keep_size";
    match facts.keep_megabytes {
        megabytes if megabytes < 0 => vec![
            Finding::new(Code::WalKeepUnlimited, object, "is not limited")
                .why("while a target is down, the source keeps WAL until its disk is full: watch walferry's metrics")
                .reloaded(object, &Sql::literal("100GB"))
                .advice("Choose what the source's disk has room for."),
        ],
        megabytes if megabytes < 1024 => vec![
            Finding::new(Code::WalKeepSmall, object, format!("is {megabytes} MB"))
                .why("a short stop of walferry or of a target loses the slot, and everything is copied again")
                .reloaded(object, &Sql::literal("20GB")),
        ],
        _ => vec![],
    }
}

fn sender_timeout(facts: &SourceFacts) -> Vec<Finding> {
    if !(1..5000).contains(&facts.sender_timeout) {
        return vec![];
    }
    let what = format!("is {} ms", facts.sender_timeout);
    vec![
        Finding::new(Code::SenderTimeoutShort, "wal_sender_timeout", what)
            .why("a short pause of the network or of this machine ends the stream")
            .reloaded("wal_sender_timeout", &Sql::literal("60s")),
    ]
}

fn idle_slot_timeout(facts: &SourceFacts) -> Vec<Finding> {
    if facts.idle_slot_timeout == 0 {
        return vec![];
    }
    let (name, what) = ("idle_replication_slot_timeout", format!("is {} s", facts.idle_slot_timeout));
    vec![
        Finding::new(Code::IdleSlotTimeout, name, what)
            .why("a stop of walferry for that long loses the slot, and everything is copied again")
            .reloaded(name, &Sql::number(0)),
    ]
}

/// Only where the slot would be on the standby.
fn standbys(facts: &SourceFacts) -> Vec<Finding> {
    let is_kept = facts.slot.as_ref().is_none_or(|slot| slot.failover);
    if facts.unawaited.is_empty() || facts.server.version < failover::SINCE || !is_kept {
        return vec![];
    }
    let named = facts.unawaited.iter().map(|name| Displayed(name).to_string()).collect::<Vec<_>>().join(", ");
    vec![
        Finding::new(Code::StandbyNotAwaited, "synchronized_standby_slots", format!("does not name {named}"))
            .why("a target can be ahead of that standby, and halts if it is promoted after a crash")
            .advice(
                "Name the slots of the standbys that may be promoted, and reload; one that is away then holds up the \
                 stream.",
            ),
    ]
}

fn not_carried(facts: &SourceFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.sequences > 0 {
        let what = format!("{} belong to published tables; their values are not replicated", facts.sequences);
        findings.push(
            Finding::new(Code::SequencesNotCarried, "sequences", what)
                .why("logical decoding does not carry them")
                .advice("Before an application writes to a target, set its sequences above the highest values."),
        );
    }
    if facts.large_objects > 0 {
        let what = format!("{} exist; they are not replicated", facts.large_objects);
        findings.push(
            Finding::new(Code::LargeObjectsNotCarried, "large objects", what)
                .why("logical decoding does not carry them")
                .advice("Copy them by other means where a target needs them."),
        );
    }
    findings
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
