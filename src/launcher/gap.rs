//! The start-up checks of positions: may this target be fed from this slot of this source? Pure.
//!
//! Every way in which WAL that a target needs can be missing, or in which a target can hold what the source never had,
//! is found here, before a row is applied. The server itself does not tell: asked to start below the slot's confirmed
//! position, it silently starts at that position (`CreateDecodingContext`, logical.c).

use crate::apply::progress::{LastCommit, Stored};
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::relation::TableName;
use crate::tablesync::{CopyState, TableState};

/// The source, as it answers now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// `IDENTIFY_SYSTEM`.
    pub system_identifier: String,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: u32,
    /// Where each earlier timeline ended: its number, and the position at which the next began.
    pub switches: Vec<(u32, Lsn)>,
    /// How far the server's WAL goes.
    pub flushed: Lsn,
    /// The database of the slot.
    pub database: String,
    /// The slot's name.
    pub slot: String,
    /// The slot's confirmed position.
    pub confirmed: Option<Lsn>,
}

/// Why a target must not be fed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// WAL the target needs is gone.
    #[error(
        "the slot \"{slot}\" has been confirmed up to {confirmed}, but the target has applied only up to {stored}: \
         {missing} bytes of WAL that the target needs are gone"
    )]
    SlotAhead { slot: String, confirmed: Lsn, stored: Lsn, missing: u64 },
    /// The target was copied to and has lost its progress row.
    #[error(
        "table {table} of the target was copied as of {copied}, but the target's row in walferry.progress is gone: how \
         much it has applied since, of what the slot \"{slot}\" has confirmed up to {confirmed}, is not known"
    )]
    ProgressLost { table: TableName, copied: Lsn, slot: String, confirmed: String },
    /// Another cluster answers under the source's name.
    #[error("the source's system identifier is {found}, but the target has followed {stored}: it is another server")]
    OtherSystem { found: String, stored: String },
    /// Another database of the same cluster.
    #[error("the source database is \"{found}\", but the target has followed \"{stored}\"")]
    OtherDatabase { found: String, stored: String },
    /// The source is a server promoted before it had received what the target has applied.
    #[error(
        "the source is on timeline {timeline}, which left timeline {stored_timeline} at {switch}, but the target has \
         applied up to {stored}: it holds transactions that this source never had"
    )]
    PromotedBehind { timeline: u32, stored_timeline: u32, switch: Lsn, stored: Lsn },
    /// The source is on an older timeline than the target has followed.
    #[error(
        "the source is on timeline {timeline}, but the target has followed timeline {stored_timeline}: the source is \
         an old primary, or was restored from a backup"
    )]
    OldTimeline { timeline: u32, stored_timeline: u32 },
    /// The source's WAL is not the one that the target has followed.
    #[error(
        "the last transaction that the target has applied committed at {last}; {}: the source was restored from a \
         backup, and has written other transactions since",
        .found.map_or_else(
            || "the source's WAL holds no transaction there".to_owned(),
            |found| format!("what the source's WAL holds instead committed at {found}"),
        )
    )]
    OtherHistory { last: LastCommit, found: Option<LastCommit> },
    /// The source's WAL ends before what the target has applied.
    #[error(
        "the source's WAL ends at {flushed}, but the target has applied up to {stored}: the source was restored from a \
         backup, or is a server promoted behind the target"
    )]
    TargetAhead { flushed: Lsn, stored: Lsn },
}

impl Judged for Gap {
    fn verdict(&self) -> Verdict {
        let again = "have its tables copied again: `walferry target resync` with its name; or, where that is so for all \
                     targets, stop walferry and run `walferry slot reset`";
        match self {
            Gap::SlotAhead { .. } => Verdict::halt(format!(
                "The slot was dropped and made again or moved by another client, or the target was restored from a \
                 backup. What is missing cannot be had back; {again}."
            )),
            Gap::ProgressLost { .. } => Verdict::halt(format!(
                "Somebody deleted the row, or restored part of the target: put the row back as it was, or {again}."
            )),
            Gap::OtherSystem { .. } | Gap::OtherDatabase { .. } => {
                Verdict::halt(format!("Check source.url. If the source has been replaced on purpose, {again}."))
            }
            Gap::PromotedBehind { .. }
            | Gap::OldTimeline { .. }
            | Gap::OtherHistory { .. }
            | Gap::TargetAhead { .. } => Verdict::halt(format!(
                "Check that source.url leads to the right server. If this source is the one to follow from now on, the \
                 target's surplus has to go: {again}."
            )),
        }
    }
}

/// Checks a target's stored progress against the source. `Ok` with the position to read from.
///
/// # Errors
/// The gap, if there is one.
pub fn check(stored: &Stored, end: EndLsn, source: &SourceFacts) -> Result<(), Gap> {
    if stored.system_identifier != source.system_identifier {
        return Err(Gap::OtherSystem {
            found: source.system_identifier.clone(),
            stored: stored.system_identifier.clone(),
        });
    }
    if stored.database != source.database {
        return Err(Gap::OtherDatabase { found: source.database.clone(), stored: stored.database.clone() });
    }
    let end = end.lsn();
    if source.timeline < stored.timeline {
        return Err(Gap::OldTimeline { timeline: source.timeline, stored_timeline: stored.timeline });
    }
    // The first switch away from the timeline that the target has followed.
    let switch = source.switches.iter().filter(|(timeline, _)| *timeline >= stored.timeline).map(|(_, at)| *at).min();
    if let Some(switch) = switch.filter(|_| source.timeline > stored.timeline)
        && end > switch
    {
        let (timeline, stored_timeline) = (source.timeline, stored.timeline);
        return Err(Gap::PromotedBehind { timeline, stored_timeline, switch, stored: end });
    }
    if end > source.flushed {
        return Err(Gap::TargetAhead { flushed: source.flushed, stored: end });
    }
    match source.confirmed {
        Some(confirmed) if confirmed > end => Err(Gap::SlotAhead {
            slot: source.slot.clone(),
            confirmed,
            stored: end,
            missing: confirmed.bytes_since(end),
        }),
        _ => Ok(()),
    }
}

/// Checks a target without stored progress: as the first position is stored before the first table is copied, no table
/// may be there that is.
///
/// # Errors
/// [`Gap::ProgressLost`].
pub fn check_new(tables: &[TableState], source: &SourceFacts) -> Result<(), Gap> {
    match tables.iter().find(|table| table.state == CopyState::Done) {
        None => Ok(()),
        Some(table) => Err(Gap::ProgressLost {
            table: table.name.clone(),
            copied: table.copy_lsn,
            slot: source.slot.clone(),
            confirmed: source.confirmed.map_or_else(|| "nowhere".to_owned(), |lsn| lsn.to_string()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SourceFacts {
        SourceFacts {
            system_identifier: "7".to_owned(),
            timeline: 3,
            switches: vec![(1, Lsn::new(100)), (2, Lsn::new(200))],
            flushed: Lsn::new(1000),
            database: "app".to_owned(),
            slot: "walferry".to_owned(),
            confirmed: Some(Lsn::new(500)),
        }
    }

    fn stored(timeline: u32) -> Stored {
        Stored {
            system_identifier: "7".to_owned(),
            timeline,
            database: "app".to_owned(),
            slot: "walferry".to_owned(),
            publication: None,
            end_lsn: None,
            last: None,
            paused_at: None,
        }
    }

    fn checked(timeline: u32, end: u64) -> Result<(), Gap> {
        check(&stored(timeline), EndLsn::new(Lsn::new(end)), &source())
    }

    #[test]
    fn a_target_between_the_slot_and_the_end_of_wal_is_fed() {
        for end in [500, 501, 1000] {
            assert_eq!(checked(3, end), Ok(()));
        }
    }

    #[test]
    fn a_target_behind_the_slot_has_lost_wal() {
        let gap = checked(3, 499).unwrap_err();
        assert!(matches!(gap, Gap::SlotAhead { missing: 1, .. }));
        assert!(gap.to_string().contains("0/1F4") && gap.to_string().contains("0/1F3"), "{gap}");
    }

    #[test]
    fn another_server_or_database_is_refused() {
        let mut other = stored(3);
        other.system_identifier = "8".to_owned();
        let end = EndLsn::new(Lsn::new(600));
        assert!(matches!(check(&other, end, &source()), Err(Gap::OtherSystem { .. })));
        let mut other = stored(3);
        other.database = "b".to_owned();
        assert!(matches!(check(&other, end, &source()), Err(Gap::OtherDatabase { .. })));
    }

    #[test]
    fn a_server_promoted_before_it_had_what_the_target_has_is_refused() {
        let mut early = source();
        early.confirmed = Some(Lsn::new(10));
        let check = |timeline, end| check(&stored(timeline), EndLsn::new(Lsn::new(end)), &early);
        assert_eq!(check(2, 200), Ok(()));
        assert_eq!(check(1, 100), Ok(()));
        assert!(matches!(check(2, 201), Err(Gap::PromotedBehind { switch, .. }) if switch == Lsn::new(200)));
        assert!(matches!(check(1, 150), Err(Gap::PromotedBehind { switch, .. }) if switch == Lsn::new(100)));
    }

    #[test]
    fn an_older_source_is_refused() {
        assert!(matches!(checked(4, 600), Err(Gap::OldTimeline { .. })));
        assert!(matches!(checked(3, 1001), Err(Gap::TargetAhead { .. })));
    }

    #[test]
    fn a_target_that_was_copied_to_has_a_position() {
        let name = || TableName::new("s", "t");
        let table =
            |state| TableState { name: name(), state, copy_lsn: Lsn::new(0x77), rows: 1, origin: None, error: None };
        assert_eq!(check_new(&[], &source()), Ok(()));
        assert_eq!(check_new(&[table(CopyState::Copying)], &source()), Ok(()));
        let gap = check_new(&[table(CopyState::Copying), table(CopyState::Done)], &source()).unwrap_err();
        assert!(gap.to_string().contains("0/77") && gap.to_string().contains("0/1F4"), "{gap}");
    }

    #[test]
    fn every_gap_says_how_to_get_out() {
        for gap in [checked(3, 1), checked(4, 600), checked(3, 5000)] {
            let Verdict::Halt { hint } = gap.unwrap_err().verdict() else { panic!("a gap does not pass") };
            assert!(hint.contains("walferry slot reset"), "{hint}");
        }
    }
}
