//! When a target gets a lane of its own, and when it joins the others again (`lane.rs` says why each step is safe).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Shared, TargetTask};
use crate::apply::progress::Stored;
use crate::change::TargetId;
use crate::config::OnRetained;
use crate::error::chain;
use crate::launcher::dispatch::Command;
use crate::launcher::error::LaunchError;
use crate::launcher::lane::OwnLane;
use crate::launcher::lane::choice::{self, Ask, Choice, Lanes};
use crate::launcher::wish::Wish;
use crate::lsn::{DurableLsn, Lsn};
use crate::postgres::Client;
use crate::source::SourceError;
use crate::source::slot;
use crate::tablesync;
use crate::telemetry::state::TargetState;

/// Between two looks at how a target stands to the others.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// How long the source may take to make or drop a slot: nothing is applied meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// After an attempt that did not succeed, and had the stream read again for all.
const LONG_REST: Duration = Duration::from_secs(300);

/// Between two attempts to drop a slot.
const DROPPING: Duration = Duration::from_secs(5);

/// A slot that was asked for by somebody who did not wait for it, or was killed, may be made as much later.
const LATER: Duration = Duration::from_secs(30);

/// How far a target is on its way back to the others.
pub(super) type Joining = choice::Joining<Instant>;

/// Waits until the target, which is not fed since then, is to be isolated.
pub(super) async fn due(shared: &Shared, id: TargetId, away: Instant) {
    while !(is_long(shared, id, away) && shared.board.main().feeds_another(id)) {
        sleep(LOOK).await;
    }
}

/// Whether a target's own slot keeps more than it may, and is to be dropped for that.
fn keeps_too_much(shared: &Shared, id: TargetId) -> bool {
    let source = &shared.setup.config.source;
    let kept = shared.board.kept_by_own_slot(id);
    shared.board.is_fed_alone(id)
        && source.on_max_retained_wal == OnRetained::DropLane
        && source.max_retained_wal > 0
        && kept.is_some_and(|kept| kept > source.max_retained_wal)
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
        if !choice::keeps(there.as_ref(), durable) && !choice::keeps(found.as_ref(), durable) {
            return Err(lacks(confirmed).into());
        }
        let confirmed = slot::lane::ensure(&source, stream, &own.slot).await?;
        let (connect, name) = (&shared.setup.source, shared.setup.application_name());
        if let Err(error) = slot::failover::inherit(&source, connect, &name, stream, &own.slot).await {
            warn!(slot = own.slot, "a failover of the source would lose it: {}", chain(&error));
        }
        // The copy keeps what the target needs from here on.
        if !(Lanes { id, main, own: &own.account }).isolate(confirmed) {
            return Err(lacks(Some(confirmed)).into());
        }
        shared.board.fed_by(id, &own.account);
        let slot = own.slot.clone();
        (self.own, self.joining, self.left_over) = (Some(own), Joining::Not, None);
        Ok(slot)
    }

    /// Waits until the slot of its own, if it has one, keeps more of the source's WAL than it may.
    pub(super) fn overdue(&self) -> impl Future<Output = ()> + use<> {
        let (shared, id) = (Arc::clone(&self.shared), self.target().id);
        async move {
            // It may get one meanwhile.
            while !keeps_too_much(&shared, id) {
                sleep(LOOK).await;
            }
        }
    }

    /// Whether the slot of its own keeps more than it may.
    pub(super) fn is_overdue(&self) -> bool {
        self.own.is_some() && keeps_too_much(&self.shared, self.target().id)
    }

    /// Drops the slot of its own, with what it keeps for the target, which has to be copied again.
    pub(super) async fn give_up_slot(&mut self) {
        let Some(own) = &mut self.own else { return };
        own.end().await;
        let (target, slot) = (self.shared.setup.targets[self.place].name.clone(), own.slot.clone());
        let dropped = async {
            let source = Client::connect(&self.shared.setup.source, &self.shared.setup.application_name()).await?;
            match slot::drop(&source, &slot).await {
                Ok(()) | Err(SourceError::SlotMissing { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        match in_time(dropped).await {
            Ok(()) => {
                warn!(
                    target,
                    slot,
                    "kept more WAL than source.max_retained_wal, and was dropped: the target's tables are copied again \
                     once it is back"
                );
                self.shared.board.own_slot_keeps(self.target().id, None);
                self.shared.board.fed_by(self.target().id, self.shared.board.main());
                (self.own, self.given_up) = (None, true);
            }
            Err(error) => {
                warn!(target, slot, "keeps too much WAL, and cannot be dropped: {}", chain(&error));
                sleep(DROPPING).await;
            }
        }
    }

    /// Whether it is to be copied from the beginning: its slot was given up, or somebody wants it.
    pub(super) fn begins_again(&self) -> bool {
        self.given_up || self.wanted.is(Wish::Resync)
    }

    /// Has it begin from nothing, as a target that is new; it counts in the main lane from now on.
    pub(super) async fn begin_again(&mut self, client: &Client) -> Result<(), LaunchError> {
        let (id, name) = (self.target().id, self.target().name.clone());
        self.incoming.clear();
        tablesync::state::begin_again(client, &self.shared.setup.stream).await?;
        let main = Arc::clone(self.shared.board.main());
        match self.own.take() {
            Some(mut own) => {
                own.end().await;
                main.take_in(id, &own.account);
            }
            None if self.given_up => main.take_in_unknown(id),
            None => {}
        }
        self.shared.board.fed_by(id, &main);
        (self.joining, self.left_over, self.given_up) = (Joining::Not, Some(Instant::now()), false);
        (self.refused, self.stood) = (None, None);
        self.wanted.noted(Wish::Resync);
        info!(target = name, "begins from nothing: all its tables are copied again");
        Ok(())
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
        let joining = self.own.as_ref().map(|_| &self.joining);
        match choice::choose(joining, own.as_ref(), main.as_ref(), stored.end_lsn) {
            // Another daemon has made it, which was the active one until a moment ago.
            Choice::Found => self.found_own(),
            Choice::Main { left_over } => {
                self.left_over = Some(Instant::now() + if left_over { Duration::ZERO } else { LATER });
            }
            Choice::Join => self.join().await,
            Choice::Own => self.give_up_joining(),
            Choice::Back => {
                if let Some(own) = &self.own {
                    let (target, slot) = (&self.target().name, &own.slot);
                    warn!(target, slot, "its own slot is gone, or has not what it needs: it goes back to the others'");
                    Lanes { id, main: self.shared.board.main(), own: &own.account }.go_back();
                }
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
        self.joining = self.joining.give_up(self.shared.board.main(), self.target().id, Instant::now());
    }

    /// Looks whether a target with a lane of its own can join the others; asks its path to let go of it when it can.
    pub(super) fn look_at_joining(&mut self, commands: &mpsc::UnboundedSender<Command>) {
        let (board, id) = (&self.shared.board, self.target().id);
        let Some(own) = &self.own else { return };
        let keeps_up = board.is(id, TargetState::Applying)
            && own.account.lag(id, true, std::time::SystemTime::now()).1.is_some_and(|lag| lag < 1.0);
        let lanes = Lanes { id, main: board.main(), own: &own.account };
        let (joining, ask) = self.joining.look(lanes, keeps_up, Instant::now());
        let command = match ask {
            Ask::Nothing => None,
            Ask::Joins => {
                info!(target = self.target().name, "has caught up, and joins the others");
                None
            }
            Ask::Store => Some(Command::Store(id)),
            Ask::Detach => Some(Command::Detach(id)),
        };
        if let Some(command) = command {
            // A path that is gone lets go of everybody.
            let _: Result<(), mpsc::error::SendError<Command>> = commands.send(command);
        }
        self.joining = joining;
    }

    /// Looks for a slot of its own, and drops it once the main one certainly has what the target needs.
    pub(super) async fn drop_left_over(&mut self) {
        if self.left_over.is_none_or(|look| Instant::now() < look) || self.shared.board.main().session().is_none() {
            return;
        }
        let (target, slot) = (&self.target().name, slot::lane::name(&self.shared.setup.stream, &self.target().name));
        self.left_over = match in_time(self.try_drop(&slot)).await {
            Ok(Dropping::NotYet) => Some(Instant::now() + LOOK),
            Ok(Dropping::NotThere) => None,
            Ok(Dropping::Done) => {
                info!(target, slot, "has caught up, and is fed with the others again");
                Some(Instant::now() + LATER)
            }
            Err(error) => {
                warn!(target, slot, "of no use any more, and cannot be dropped yet: {}", chain(&error));
                Some(Instant::now() + DROPPING)
            }
        };
    }

    async fn try_drop(&self, own: &str) -> Result<Dropping, LaunchError> {
        let (setup, main) = (&self.shared.setup, self.shared.board.main());
        let source = Client::connect(&setup.source, &setup.application_name()).await?;
        let found = slot::inspect(&source, &setup.stream).await?;
        if !choice::may_drop(main, self.target().id, found.as_ref()) {
            return Ok(Dropping::NotYet);
        }
        if slot::inspect(&source, own).await?.is_none() {
            return Ok(Dropping::NotThere);
        }
        match slot::drop(&source, own).await {
            Ok(()) => Ok(Dropping::Done),
            Err(SourceError::SlotMissing { .. }) => Ok(Dropping::NotThere),
            Err(error) => Err(error.into()),
        }
    }
}

/// What came of dropping a slot.
enum Dropping {
    NotYet,
    NotThere,
    Done,
}

async fn in_time<T>(work: impl Future<Output = Result<T, LaunchError>>) -> Result<T, LaunchError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(LaunchError::SourceSilent { waited: PATIENCE }))
}
