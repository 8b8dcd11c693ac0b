//! When a target gets a lane of its own, and when it joins the others again (`lane.rs` says why each step is safe).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Shared, TargetTask};
use crate::apply::progress::Stored;
use crate::change::TargetId;
use crate::error::chain;
use crate::launcher::dispatch::Command;
use crate::launcher::error::LaunchError;
use crate::launcher::lane::OwnLane;
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::postgres::Client;
use crate::source::SourceError;
use crate::source::slot::{self, Slot};
use crate::telemetry::state::TargetState;

/// Between two looks at how a target stands to the others.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// So little may be lacking in a target that joins: what all others would be read again, and skip.
const NEAR: u64 = 1 << 20;

/// Looks in a row that must find it near.
const STEADY: u32 = 4;

/// How long a target may take to get as far as what the others had when it began to join.
const JOINING: Duration = Duration::from_secs(10);

/// How long the source may take to make or drop a slot: nothing is applied meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// After an attempt that did not succeed.
const REST: Duration = Duration::from_secs(30);

/// The same where each attempt has the stream read again for all.
const LONG_REST: Duration = Duration::from_secs(300);

/// Between two attempts to drop a slot.
const DROPPING: Duration = Duration::from_secs(5);

/// How far a target is on its way back to the others.
#[derive(Debug, Default)]
pub(super) enum Joining {
    /// It is not near enough, or not for long enough: so many looks in a row found it near.
    #[default]
    Not,
    Near(u32),
    /// Nothing more is confirmed to the source, through the others' slot, than what it has. Since when.
    Held(Instant),
    /// It has what was confirmed before, and is to be fed by the main lane once it attaches.
    Ready,
    /// It did not succeed; not before then.
    Failed(Instant),
}

/// Waits until the target, which is not fed since then, is to be isolated.
pub(super) async fn due(shared: &Shared, id: TargetId, away: Instant) {
    while !(is_long(shared, id, away) && shared.board.main().feeds_another(id)) {
        sleep(LOOK).await;
    }
}

/// Whether a target that is away since then has been so for long, or has made the source keep much.
fn is_long(shared: &Shared, id: TargetId, away: Instant) -> bool {
    let apply = &shared.setup.config.apply;
    let kept = || shared.board.main().lag(id, true, std::time::SystemTime::now()).0;
    let is_long = |after| away.elapsed() >= after || kept().is_some_and(|kept| kept >= apply.isolate_at);
    apply.isolate_after.is_some_and(is_long)
}

impl TargetTask {
    /// The slot that the target is fed from.
    pub(super) fn slot(&self) -> &str {
        self.own.as_ref().map_or(&self.shared.setup.stream, |own| &own.slot)
    }

    /// The way to the path that feeds the target.
    pub(super) fn commands(&mut self) -> Result<mpsc::UnboundedSender<Command>, LaunchError> {
        let id = self.target().id;
        match &mut self.own {
            Some(own) => own.commands(&self.shared, id),
            None => Ok(self.shared.commands.clone()),
        }
    }

    /// A slot of its own was found at the start.
    pub(super) fn found_own(&mut self) {
        let id = self.target().id;
        let own = OwnLane::new(&self.shared, id);
        self.shared.board.main().let_go(id);
        self.shared.board.fed_by(id, &own.account);
        info!(target = self.target().name, slot = own.slot, "is fed from a slot of its own until it has caught up");
        self.own = Some(own);
    }

    /// Whether a target that is fed with the others has been failing for so long that it is to be isolated; `failing`:
    /// since when, as far as was seen.
    pub(super) fn keeps_failing(&self, failing: &mut Option<Instant>) -> bool {
        let (shared, id) = (&self.shared, self.target().id);
        let fails = shared.board.is(id, TargetState::Retrying) || shared.board.is(id, TargetState::Halted);
        let since = *failing.get_or_insert_with(Instant::now);
        if !fails || self.own.is_some() {
            *failing = None;
        }
        failing.is_some() && is_long(shared, id, since) && shared.board.main().feeds_another(id)
    }

    /// Gives it a lane of its own; if that is not possible now, it stays with the others, and it is said why.
    pub(super) async fn isolate(&mut self, why: &str) {
        let target = self.target().name.clone();
        self.away = Instant::now();
        match in_time(self.try_isolate()).await {
            Ok(slot) => info!(target, slot, "{why}: it is fed from a slot of its own until it has caught up"),
            Err(error) => {
                self.patient_until = Instant::now() + LONG_REST;
                warn!(target, "{why}, and gets no slot of its own: {}", chain(&error));
            }
        }
    }

    async fn try_isolate(&mut self) -> Result<String, LaunchError> {
        let (shared, id) = (&self.shared, self.target().id);
        let own = OwnLane::new(shared, id);
        let source = Client::connect(&shared.setup.source, &shared.setup.application_name()).await?;
        let (stream, main) = (&shared.setup.stream, shared.board.main());
        let durable = main.durable_lsn(id).map(DurableLsn::end_lsn);
        let lacks = |confirmed: Option<Lsn>| {
            let confirmed = confirmed.map_or_else(|| "nowhere".to_owned(), |lsn| lsn.to_string());
            let durable = durable.map_or_else(|| "nothing".to_owned(), |end| end.to_string());
            let why = format!("it is confirmed up to {confirmed}, and the target has {durable}");
            SourceError::SlotUnusable { slot: stream.clone(), why, remedy: "run `walferry slot reset`".to_owned() }
        };
        // What a copy would lack is nothing to keep.
        let (there, found) = (slot::inspect(&source, &own.slot).await?, slot::inspect(&source, stream).await?);
        let confirmed = found.as_ref().and_then(|slot| slot.confirmed_flush);
        if !keeps(there, durable) && !keeps(found, durable) {
            return Err(lacks(confirmed).into());
        }
        let confirmed = slot::lane::ensure(&source, stream, &own.slot).await?;
        let (connect, name) = (&shared.setup.source, shared.setup.application_name());
        if let Err(error) = slot::failover::inherit(&source, connect, &name, stream, &own.slot).await {
            warn!(slot = own.slot, "a failover of the source would lose it: {}", chain(&error));
        }
        if durable.is_some_and(|durable| durable.lsn() < confirmed) {
            return Err(lacks(Some(confirmed)).into());
        }
        // The copy keeps what the target needs from here on.
        own.account.take_in(id, main);
        main.hand_over(id, &own.account);
        shared.board.fed_by(id, &own.account);
        let slot = own.slot.clone();
        (self.own, self.joining, self.left_over) = (Some(own), Joining::Not, None);
        Ok(slot)
    }

    /// Which lane feeds a target that stands here, and has this on its disk: it counts there from now on.
    pub(super) async fn choose_lane(
        &mut self,
        source: &Client,
        stored: &Stored,
        durable: Option<DurableLsn>,
    ) -> Result<(), LaunchError> {
        let (id, stream) = (self.target().id, &self.shared.setup.stream);
        let name = slot::lane::name(stream, &self.target().name);
        let (own, main) = (slot::inspect(source, &name).await?, slot::inspect(source, stream).await?);
        let (is_there, has_own, has_main) = (own.is_some(), keeps(own, stored.end_lsn), keeps(main, stored.end_lsn));
        match &self.own {
            // Another daemon has made it, which was the active one until a moment ago.
            None if has_own && !has_main => self.found_own(),
            None => self.left_over = is_there.then(Instant::now),
            Some(_) if has_main && matches!(self.joining, Joining::Ready) => self.join().await,
            Some(_) if has_own => self.give_up_joining(),
            Some(own) => {
                let (target, slot) = (&self.target().name, &own.slot);
                warn!(target, slot, "its own slot is gone, or has not what it needs: it goes back to the others'");
                self.shared.board.main().take_in(id, &own.account);
                self.join().await;
            }
        }
        if let Some(durable) = durable {
            self.shared.board.stands_at(id, durable, stored.last);
        }
        Ok(())
    }

    /// It is fed by the main lane, in which it counts already.
    async fn join(&mut self) {
        self.shared.board.fed_by(self.target().id, self.shared.board.main());
        (self.joining, self.left_over) = (Joining::Not, Some(Instant::now()));
        if let Some(mut own) = self.own.take() {
            own.end().await;
        }
    }

    /// It does not join now: it stays in its own lane, and holds nothing back in the main one.
    pub(super) fn give_up_joining(&mut self) {
        if matches!(self.joining, Joining::Held(_) | Joining::Ready) {
            self.shared.board.main().let_go(self.target().id);
            self.joining = Joining::Failed(Instant::now() + REST);
        }
    }

    /// Looks whether a target with a lane of its own can join the others; asks its path to let go of it when it can.
    pub(super) fn look_at_joining(&mut self, commands: &mpsc::UnboundedSender<Command>) {
        let (board, id) = (&self.shared.board, self.target().id);
        let Some(own) = &self.own else { return };
        let (main, durable) = (board.main(), own.account.durable_lsn(id).map(|durable| durable.end_lsn().lsn()));
        let ahead = main.received_lsn().filter(|_| main.session().is_some());
        let is_near = board.is(id, TargetState::Applying)
            && own.account.has_recognised(id)
            && durable.zip(own.account.received_lsn()).is_some_and(|(durable, received)| {
                received.bytes_since(durable) <= NEAR
                    && ahead.is_none_or(|ahead| ahead.bytes_since(durable) <= NEAR)
                    && own.account.lag(id, true, std::time::SystemTime::now()).1.is_some_and(|lag| lag < 1.0)
            });
        self.joining = match std::mem::take(&mut self.joining) {
            Joining::Failed(until) if Instant::now() < until => Joining::Failed(until),
            Joining::Not | Joining::Failed(_) if is_near => Joining::Near(1),
            Joining::Near(looks) if is_near && looks < STEADY => Joining::Near(looks + 1),
            Joining::Near(_) if is_near => {
                info!(target = self.target().name, "has caught up, and joins the others");
                main.take_in(id, &own.account);
                Joining::Held(Instant::now())
            }
            Joining::Held(since) => {
                let confirmed = main.confirmed().borrow().map_or(Lsn::ZERO, |confirmed| confirmed.lsn());
                if durable.is_some_and(|durable| durable >= confirmed) {
                    // A path that is gone lets go of everybody.
                    let _: Result<(), mpsc::error::SendError<Command>> = commands.send(Command::Detach(id));
                    Joining::Ready
                } else if since.elapsed() > JOINING {
                    main.let_go(id);
                    Joining::Failed(Instant::now() + REST)
                } else {
                    // Where nothing comes for it, its progress moves only if it is asked to.
                    let _: Result<(), mpsc::error::SendError<Command>> = commands.send(Command::Store(id));
                    Joining::Held(since)
                }
            }
            Joining::Ready => Joining::Ready,
            Joining::Not | Joining::Near(_) | Joining::Failed(_) => Joining::Not,
        };
    }

    /// Drops the slot of its own once the main one certainly has what the target needs: while this daemon streams from
    /// that, nobody else moves it, and it is confirmed no further than what the target has.
    pub(super) async fn drop_left_over(&mut self) {
        if self.left_over.is_none_or(|look| Instant::now() < look) || self.shared.board.main().session().is_none() {
            return;
        }
        let (target, slot) = (&self.target().name, slot::lane::name(&self.shared.setup.stream, &self.target().name));
        self.left_over = match in_time(self.try_drop(&slot)).await {
            Ok(false) => Some(Instant::now() + LOOK),
            Ok(true) => {
                info!(target, slot, "has caught up, and is fed with the others again");
                None
            }
            Err(error) => {
                warn!(target, slot, "of no use any more, and cannot be dropped yet: {}", chain(&error));
                Some(Instant::now() + DROPPING)
            }
        };
    }

    /// Tells whether it is gone.
    async fn try_drop(&self, own: &str) -> Result<bool, LaunchError> {
        let (setup, main) = (&self.shared.setup, self.shared.board.main());
        let source = Client::connect(&setup.source, &setup.application_name()).await?;
        let found = slot::inspect(&source, &setup.stream).await?;
        let durable = main.durable_lsn(self.target().id).map(DurableLsn::end_lsn);
        if main.session().is_none() || durable.is_none() || !keeps(found, durable) {
            return Ok(false);
        }
        match slot::drop(&source, own).await {
            Ok(()) | Err(SourceError::SlotMissing { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, LaunchError>>) -> Result<T, LaunchError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(LaunchError::SourceSilent { waited: PATIENCE }))
}

/// Whether a slot has all that a target needs which stands here.
fn keeps(slot: Option<Slot>, stored: Option<EndLsn>) -> bool {
    let confirmed = slot.filter(|slot| !slot.is_lost()).and_then(|slot| slot.confirmed_flush);
    confirmed.is_some_and(|confirmed| stored.is_none_or(|stored| confirmed <= stored.lsn()))
}
