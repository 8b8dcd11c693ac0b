//! A target's way back to the others, step by step, with positions and moments as arguments.

use super::*;
use crate::change::{PgTime, TargetId};
use crate::lsn::{DurableLsn, EndLsn, Lsn};

/// The one with a lane of its own; the other is number 0.
const ID: TargetId = TargetId(1);

const SECOND: Duration = Duration::from_secs(1);

/// Both lanes, whose targets stand at `START`.
struct Both {
    main: Account,
    own: Account,
}

const START: u64 = 1 << 30;

impl Both {
    fn new() -> Self {
        let names = ["a".to_owned(), "b".to_owned()];
        let both = Self { main: Account::new(&names), own: Account::of(ID, &names) };
        both.main.let_go(ID);
        for (account, id) in [(&both.main, TargetId(0)), (&both.own, ID)] {
            account.session_begins();
            account.stands_at(id, durable(START), None);
            account.attached(id, end(START));
            account.recognised(id);
            account.received(Lsn::new(START));
        }
        both
    }

    /// The other target has all up to here, which both lanes have received.
    fn goes_on(&self, lsn: u64) {
        self.main.received(Lsn::new(lsn));
        self.main.durable(TargetId(0), durable(lsn));
        self.own.received(Lsn::new(lsn));
    }

    /// The target was sent a position, or a transaction, that ends here.
    fn sent(&self, lsn: u64) {
        self.own.advanced(ID, end(lsn));
    }

    /// It has stored it.
    fn stored(&self, lsn: u64) {
        self.own.committed(ID, end(lsn), Some(PgTime::from_system_time(std::time::UNIX_EPOCH)));
        self.own.durable(ID, durable(lsn));
    }

    fn look(&self, joining: Joining<Duration>, now: Duration) -> (Joining<Duration>, Ask) {
        joining.look(Lanes { id: ID, main: &self.main, own: &self.own }, true, now)
    }
}

fn durable(lsn: u64) -> DurableLsn {
    DurableLsn::new(Lsn::new(lsn))
}

fn end(lsn: u64) -> EndLsn {
    EndLsn::new(Lsn::new(lsn))
}

#[test]
fn a_target_joins_in_a_stream_that_brings_it_nothing() {
    let both = Both::new();
    // Of what the source has written since then nothing was for the target: it was sent nothing, and stored nothing.
    both.goes_on(START + 100 * NEAR);
    let mut joining = Joining::Not;
    for looks in 1..=STEADY {
        let ask;
        (joining, ask) = both.look(joining, Duration::ZERO);
        assert_eq!((joining, ask), (Joining::Near(looks), Ask::Nothing));
    }
    // It counts in the main lane from now on: what is confirmed there stands still until it is there.
    let (joining, ask) = both.look(joining, Duration::ZERO);
    assert_eq!((joining, ask), (Joining::Held(JOINING), Ask::Joins));
    assert_eq!(both.look(joining, SECOND), (joining, Ask::Store));
    both.sent(START + 100 * NEAR);
    both.stored(START + 100 * NEAR);
    assert_eq!(both.look(joining, SECOND), (Joining::Ready, Ask::Detach));
}

#[test]
fn a_target_that_has_not_stored_what_it_was_sent_stays() {
    let both = Both::new();
    both.goes_on(START + 2 * NEAR);
    both.sent(START + NEAR);
    assert_eq!(both.look(Joining::Not, SECOND), (Joining::Not, Ask::Nothing));
    assert_eq!(both.look(Joining::Near(STEADY), SECOND), (Joining::Not, Ask::Nothing));
    // Not far behind it may wait for something, as everybody does under load.
    both.stored(START + NEAR + 1);
    both.sent(START + NEAR + 2);
    assert_eq!(both.look(Joining::Not, SECOND), (Joining::Near(1), Ask::Nothing));
}

#[test]
fn a_target_whose_own_lane_has_not_read_as_far_as_the_others_stays() {
    let both = Both::new();
    both.main.received(Lsn::new(START + NEAR + 1));
    assert_eq!(both.look(Joining::Not, SECOND), (Joining::Not, Ask::Nothing));
    // While nobody reads the main slot, there is nobody to be behind.
    both.main.session_ends();
    assert_eq!(both.look(Joining::Not, SECOND), (Joining::Near(1), Ask::Nothing));
}

#[test]
fn a_target_that_has_not_recognised_its_source_stays() {
    let both = Both::new();
    both.own.dispatched(ID, &commit(START + 1));
    both.stored(START + 1);
    both.own.session_begins();
    assert_eq!(both.look(Joining::Not, SECOND), (Joining::Not, Ask::Nothing));
    both.own.recognised(ID);
    assert_eq!(both.look(Joining::Not, SECOND), (Joining::Near(1), Ask::Nothing));
}

#[test]
fn a_target_that_does_not_get_there_in_time_holds_nothing_back() {
    let both = Both::new();
    both.goes_on(START + 10);
    let held = (0..=STEADY).fold(Joining::Not, |joining, _| both.look(joining, Duration::ZERO).0);
    assert_eq!(held, Joining::Held(JOINING));
    both.goes_on(START + 20);
    let confirmed = || both.main.confirmed().borrow().map(|confirmed| confirmed.lsn());
    assert_eq!(confirmed(), Some(Lsn::new(START + 10)), "it is held");
    let (failed, ask) = both.look(held, JOINING + SECOND);
    assert_eq!((failed, ask), (Joining::Failed(JOINING + SECOND + REST), Ask::Nothing));
    assert_eq!(confirmed(), Some(Lsn::new(START + 20)), "it goes on");
    assert_eq!(both.look(failed, JOINING + REST), (failed, Ask::Nothing));
    assert_eq!(both.look(failed, JOINING + REST + 2 * SECOND), (Joining::Near(1), Ask::Nothing));
}

fn commit(lsn: u64) -> crate::change::Commit {
    let time = PgTime::from_system_time(std::time::UNIX_EPOCH);
    crate::change::Commit { commit_lsn: crate::lsn::CommitLsn::new(Lsn::new(lsn - 1)), end_lsn: end(lsn), time }
}
