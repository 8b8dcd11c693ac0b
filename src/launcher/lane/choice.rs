//! Which slot feeds a target, and its steps from one lane to the other: what is decided, and what the accounts of both
//! lanes are told. No server, no clock: slots, positions and moments are arguments. `lane.rs` says why it is right.

use std::ops::Add;
use std::time::Duration;

use crate::change::TargetId;
use crate::launcher::account::Account;
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::source::slot::Slot;

/// So little may be lacking in a target that joins: what all others would be read again, and skip.
const NEAR: u64 = 1 << 20;

/// Looks in a row that must find it near.
const STEADY: u32 = 4;

/// How long a target may take to get as far as what the others had when it began to join.
const JOINING: Duration = Duration::from_secs(10);

/// After an attempt that did not succeed.
const REST: Duration = Duration::from_secs(30);

/// Whether a slot has all that a target needs which stands here.
pub fn keeps(slot: Option<&Slot>, stored: Option<EndLsn>) -> bool {
    let confirmed = slot.filter(|slot| !slot.is_lost()).and_then(|slot| slot.confirmed_flush);
    confirmed.is_some_and(|confirmed| stored.is_none_or(|stored| confirmed <= stored.lsn()))
}

/// Which lane feeds a target that attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The main one, as before. Whether there is a slot of its own, which it needs no more.
    Main { left_over: bool },
    /// Its own, which another daemon has made.
    Found,
    /// Its own, as before.
    Own,
    /// The main one from now on, in which it counts already.
    Join,
    /// The main one from now on: its own slot is gone, or has not what it needs.
    Back,
}

/// Chooses for a target that stands here; `joining` if it has a lane of its own.
pub fn choose<T>(
    joining: Option<&Joining<T>>,
    own: Option<&Slot>,
    main: Option<&Slot>,
    stored: Option<EndLsn>,
) -> Choice {
    let (has_own, has_main) = (keeps(own, stored), keeps(main, stored));
    match joining {
        None if has_own && !has_main => Choice::Found,
        None => Choice::Main { left_over: own.is_some() },
        Some(Joining::Ready) if has_main => Choice::Join,
        Some(_) if has_own => Choice::Own,
        Some(_) => Choice::Back,
    }
}

/// A target, and the accounts of the lanes that may feed it.
#[derive(Clone, Copy)]
pub struct Lanes<'a> {
    pub id: TargetId,
    pub main: &'a Account,
    pub own: &'a Account,
}

impl Lanes<'_> {
    /// It is fed by its own lane from now on, whose slot is confirmed up to here, if that keeps what it needs.
    pub fn isolate(self, confirmed: Lsn) -> bool {
        let keeps = self.main.durable_lsn(self.id).is_none_or(|durable| durable.end_lsn().lsn() >= confirmed);
        if keeps {
            self.own.take_in(self.id, self.main);
            self.main.hand_over(self.id, self.own);
        }
        keeps
    }

    /// It counts in the main lane from now on, where it goes back to without having joined.
    pub fn go_back(self) {
        self.main.take_in(self.id, self.own);
    }

    /// What it has, in its own lane.
    fn durable(self) -> Option<Lsn> {
        self.own.durable_lsn(self.id).map(|durable| durable.end_lsn().lsn())
    }

    /// Whether it has recognised its source, and lacks little of what either lane has received. What it was never sent
    /// it does not lack: where nothing comes for it, what it has on its disk stays behind.
    fn is_near(self) -> bool {
        let Some((durable, received)) = self.durable().zip(self.own.received_lsn()) else { return false };
        let ahead = self.main.received_lsn().filter(|_| self.main.session().is_some()).unwrap_or(received);
        let has = if self.own.has_stored_all(self.id) { durable.max(received) } else { durable };
        self.own.has_recognised(self.id) && ahead.max(received).bytes_since(has) <= NEAR
    }
}

/// Whether the main slot certainly has what a target needs, so that the one of its own may be dropped: while this
/// daemon streams from the main slot, nobody else moves it, and it is confirmed no further than what the target has.
pub fn may_drop(main: &Account, id: TargetId, slot: Option<&Slot>) -> bool {
    let durable = main.durable_lsn(id).map(DurableLsn::end_lsn);
    main.session().is_some() && durable.is_some() && keeps(slot, durable)
}

/// How far a target with a lane of its own is on its way back to the others. `T` is a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining<T> {
    /// It is not near enough.
    Not,
    /// So many looks in a row found it near.
    Near(u32),
    /// Nothing more is confirmed to the source, through the others' slot, than what it has. Until then it may try.
    Held(T),
    /// It has what was confirmed before, and is to be fed by the main lane once it attaches.
    Ready,
    /// It did not succeed; not before then.
    Failed(T),
}

/// What a look at a target that may join asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Nothing,
    /// It counts in the main lane now, too.
    Joins,
    /// Have it store how far it was served: where nothing comes for it, its progress moves only if it is asked to.
    Store,
    /// Have its path let go of it.
    Detach,
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Joining<T> {
    /// After a look at how it stands; `keeps_up` if it gets on and is not late.
    pub fn look(self, lanes: Lanes<'_>, keeps_up: bool, now: T) -> (Self, Ask) {
        let is_near = keeps_up && lanes.is_near();
        match self {
            Joining::Failed(until) if now < until => (self, Ask::Nothing),
            Joining::Not | Joining::Failed(_) if is_near => (Joining::Near(1), Ask::Nothing),
            Joining::Near(looks) if is_near && looks < STEADY => (Joining::Near(looks + 1), Ask::Nothing),
            Joining::Near(_) if is_near => {
                lanes.main.take_in(lanes.id, lanes.own);
                (Joining::Held(now + JOINING), Ask::Joins)
            }
            Joining::Held(until) => {
                let confirmed = lanes.main.confirmed().borrow().map_or(Lsn::ZERO, |confirmed| confirmed.lsn());
                if lanes.durable().is_some_and(|durable| durable >= confirmed) {
                    (Joining::Ready, Ask::Detach)
                } else if now > until {
                    lanes.main.let_go(lanes.id);
                    (Joining::Failed(now + REST), Ask::Nothing)
                } else {
                    (self, Ask::Store)
                }
            }
            Joining::Ready => (self, Ask::Nothing),
            Joining::Not | Joining::Near(_) | Joining::Failed(_) => (Joining::Not, Ask::Nothing),
        }
    }

    /// It does not join now: it stays in its own lane, and holds nothing back in the main one.
    pub fn give_up(self, main: &Account, id: TargetId, now: T) -> Self {
        match self {
            Joining::Held(_) | Joining::Ready => {
                main.let_go(id);
                Joining::Failed(now + REST)
            }
            Joining::Not | Joining::Near(_) | Joining::Failed(_) => self,
        }
    }
}

#[cfg(test)]
mod tests;
