//! When a standby that has just come, or has just begun to synchronize the stream's slot, needs the slot to move. Pure.
//!
//! A standby takes a slot over for good once the primary's has moved beyond what the standby itself would still have
//! kept for it (`update_and_persist_local_synced_slot` in slotsync.c); before that, the slot is gone with a promotion.
//! Under load it moves by itself. On a quiet source it would not for hours: nothing is stored on the targets, and so
//! nothing confirmed, before so many bytes of WAL have passed (`apply.progress_bytes`). So for a while it is done
//! often.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// For this long. A standby looks every 30 s at the latest (`MAX_SLOTSYNC_WORKER_NAPTIME_MS` in slotsync.c), and a slot
/// can move beyond what is written every 15 s (`LOG_SNAPSHOT_INTERVAL_MS` in bgwriter.c).
const LONG_ENOUGH: Duration = Duration::from_secs(120);

/// The standbys that are known, and until when the slot is to move for the last that came.
#[derive(Debug, Default)]
pub struct Sharing {
    known: BTreeSet<String>,
    until: Option<Instant>,
}

impl Sharing {
    /// Whether the slot is to move, now that these standbys are there.
    pub fn is_due(&mut self, standbys: BTreeSet<String>, now: Instant) -> bool {
        if !standbys.is_subset(&self.known) {
            self.until = Some(now + LONG_ENOUGH);
        }
        self.known = standbys;
        !self.known.is_empty() && self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_moves_for_a_while_after_each_standby_that_comes_or_comes_back() {
        let standbys = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (mut sharing, begun) = (Sharing::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!sharing.is_due(standbys(&[]), at(0)));
        assert!(sharing.is_due(standbys(&["a"]), at(10)));
        assert!(sharing.is_due(standbys(&["a"]), at(129)));
        assert!(!sharing.is_due(standbys(&["a"]), at(130)));
        assert!(sharing.is_due(standbys(&["a", "b"]), at(200)));
        assert!(!sharing.is_due(standbys(&["a", "b"]), at(320)));
        assert!(!sharing.is_due(standbys(&["b"]), at(330)));
        assert!(sharing.is_due(standbys(&["a", "b"]), at(340)));
    }
}
