//! What is planned takes off: in one flight, with its COMMIT, where nothing has to be applied apart and the statements
//! count their rows themselves; else COMMIT follows in another one.

use std::sync::Arc;

use super::Ready;
use super::ready::Count;
use crate::apply::error::ApplyError;
use crate::apply::exact::{Applier, RELEASE, ROLLBACK_TO, SAVEPOINT, begin, finish, position};
use crate::apply::flight::{Flight, Landed, Step};
use crate::apply::queue::{Ahead, Batch};
use crate::apply::statement::GUARD;
use crate::change::Part;
use crate::error::{Judged, Verdict};
use crate::lsn::Lsn;
use crate::postgres::{PgError, ServerError};
use crate::sql::Sql;

/// From so many changes on, rows are counted in the answers, before COMMIT is sent: that costs a round trip, counting
/// them in the statements up to 0.4 µs a row.
const MANY: u64 = 4_000;

/// Between two flights the target waits for the daemon, and holds what others may want: the progress row first of all.
/// A daemon that stands still there loses its session.
const IDLE: Sql = Sql::new("SET LOCAL idle_in_transaction_session_timeout = '5s'");

/// Why a plan was not applied.
enum Refusal {
    Error(Step, Box<ServerError>),
    /// This group touched another number of rows than it was to.
    Rows(usize),
}

impl Applier {
    /// Applies whole transactions as planned, in one target transaction. Tells whether it did; if not, nothing is done.
    ///
    /// # Errors
    /// What does not come from the plan: nothing is done then either.
    pub(in crate::apply) async fn planned_batch(
        &mut self,
        batch: &Batch,
        parts: &[Arc<Part>],
        ahead: &mut Ahead<'_>,
    ) -> Result<bool, ApplyError> {
        let Some(mut planned) = self.take_ready(parts)? else { return Ok(false) };
        let at_once = planned.apart.is_empty() && planned.count == Count::AtOnce;
        let mut flight = Flight::new(&mut self.session);
        begin(&mut flight, &self.stream, self.epoch, self.stored)?;
        if !at_once {
            flight.control(&IDLE, Step::Control)?;
        }
        planned.load(&mut flight, self.policy, &self.lettered, lsn(parts))?;
        if at_once {
            finish(&mut flight, &self.stream, self.stored, batch)?;
        }
        self.open = true;
        let answers = flight.take_off().await?;
        if planned.apart.is_empty() {
            self.look_ahead(ahead);
        }
        if let Some(refusal) = Refusal::of(answers.wait(&mut self.session).await?) {
            self.rollback().await?;
            return self.fall_back(&planned, refusal).map(|()| false);
        }
        let Some(missing) = self.apart(&planned.apart).await? else { return Ok(false) };
        if !at_once {
            let mut flight = Flight::new(&mut self.session);
            finish(&mut flight, &self.stream, self.stored, batch)?;
            if let Some(refusal) = Refusal::of(flight.fly().await?) {
                self.rollback().await?;
                return self.fall_back(&planned, refusal).map(|()| false);
            }
        }
        self.bench.succeeded();
        self.committed(batch.end, batch.commit, parts, &[]);
        self.observer.in_bulk(planned.changes);
        self.report_apart(&planned.apart, &missing);
        Ok(true)
    }

    /// Applies a piece of a transaction as planned, within the open target transaction, which it opens for the first
    /// piece. Tells whether it did; if not, nothing of the piece is done.
    ///
    /// # Errors
    /// What does not come from the plan.
    pub(in crate::apply) async fn planned_piece(
        &mut self,
        part: &Arc<Part>,
        ahead: &mut Ahead<'_>,
    ) -> Result<bool, ApplyError> {
        let Some(mut planned) = self.take_ready(std::slice::from_ref(part))? else { return Ok(false) };
        let mut flight = Flight::new(&mut self.session);
        if !self.open {
            begin(&mut flight, &self.stream, self.epoch, self.stored)?;
        }
        flight.control(&SAVEPOINT, Step::Control)?;
        planned.load(&mut flight, self.policy, &self.lettered, position(part))?;
        self.open = true;
        let answers = flight.take_off().await?;
        if planned.apart.is_empty() {
            self.look_ahead(ahead);
        }
        if let Some(refusal) = Refusal::of(answers.wait(&mut self.session).await?) {
            self.fall_back(&planned, refusal)?;
            self.session.control(&ROLLBACK_TO).await?;
            self.session.control(&RELEASE).await?;
            self.forget().await?;
            return Ok(false);
        }
        self.session.control(&RELEASE).await?;
        // What is refused here is refused in exact order as well.
        let mut missing = Vec::new();
        for part in &planned.apart {
            missing.push(self.stepwise(part).await?);
        }
        self.bench.succeeded();
        self.observer.in_bulk(planned.changes);
        self.report_apart(&planned.apart, &missing);
        Ok(true)
    }

    /// Applies the changes that are apart, one by one; gives those of each part that touched no row. `None`: one was
    /// refused, and all is rolled back.
    async fn apart(&mut self, apart: &[Arc<Part>]) -> Result<Option<Vec<Vec<usize>>>, ApplyError> {
        let mut missing = Vec::with_capacity(apart.len());
        for part in apart {
            // In exact order it may not be refused.
            self.may_set_aside = false;
            let applied = self.stepwise(part).await;
            self.may_set_aside = true;
            match applied {
                Ok(none) => missing.push(none),
                Err(error) => {
                    if !self.session.is_open() {
                        return Err(error);
                    }
                    self.rollback().await?;
                    return if error.verdict() == Verdict::Retry { Err(error) } else { Ok(None) };
                }
            }
        }
        Ok(Some(missing))
    }

    /// The parts, whose tables have been matched, planned and with every value in its place; `None` where they are to
    /// be applied exactly.
    fn take_ready(&mut self, parts: &[Arc<Part>]) -> Result<Option<Ready>, PgError> {
        match self.ready.take().filter(|made| made.is_of(parts)) {
            None => self.make_ready(parts),
            made => Ok(made),
        }
    }

    /// What comes next is made ready while the present flies, if it is there. What cannot be made ready is found out
    /// when its turn comes.
    fn look_ahead(&mut self, ahead: &mut Ahead<'_>) {
        if let Some(next) = ahead.look() {
            self.ready = self.make_ready(next.parts()).unwrap_or(None);
        }
    }

    fn make_ready(&mut self, parts: &[Arc<Part>]) -> Result<Option<Ready>, PgError> {
        // A row that is missing may wait in a dead letter: that must be noticed.
        if self.lettered.may_miss(parts, &self.session) {
            return Ok(None);
        }
        let Some(planned) = self.plan(parts) else { return Ok(None) };
        // Of a piece COMMIT comes in another flight anyway.
        let afterwards = planned.changes >= MANY || parts.iter().any(|part| !part.is_whole());
        let count = if afterwards { Count::Afterwards } else { Count::AtOnce };
        Ready::new(parts, planned, &self.session, count).map(Some)
    }

    /// Notes that a plan was refused.
    ///
    /// # Errors
    /// The refusal, if the changes are not to be tried exactly.
    fn fall_back(&mut self, planned: &Ready, refusal: Refusal) -> Result<(), ApplyError> {
        let (place, code) = match refusal {
            Refusal::Rows(place) => (Some(place), GUARD.to_owned()),
            Refusal::Error(step, error) => {
                let code = error.code.clone();
                self.give_up_on(step, error)?;
                let place = match step {
                    Step::Group(place) | Step::Exactly(place, _) => Some(place),
                    _ => None,
                };
                (place, code)
            }
        };
        let table = place.and_then(|place| planned.group_of(place));
        self.bench.failed(table.as_ref().map(|table| table.id));
        self.observer.fell_back(table.as_ref().map(|table| &table.name), &code);
        Ok(())
    }

    /// Reports the changes apart from the plan that touched no row.
    fn report_apart(&self, apart: &[Arc<Part>], missing: &[Vec<usize>]) {
        for (part, missing) in apart.iter().zip(missing) {
            self.report_missing(std::slice::from_ref(part), missing);
        }
    }
}

impl Refusal {
    fn of(landed: Landed) -> Option<Self> {
        match landed.failed {
            Some((step, error)) => Some(Self::Error(step, error)),
            None => landed.miscounted.map(Self::Rows),
        }
    }
}

/// What errors say of where a TRUNCATE was found: it is planned with others.
fn lsn(parts: &[Arc<Part>]) -> Lsn {
    parts.first().map_or(Lsn::ZERO, |part| position(part))
}
