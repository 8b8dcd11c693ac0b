//! What is planned takes off, all of it in one flight where nothing has to be applied apart.

use std::sync::Arc;

use super::Ready;
use crate::apply::error::ApplyError;
use crate::apply::exact::{Applier, RELEASE, ROLLBACK_TO, SAVEPOINT, begin, finish, position};
use crate::apply::flight::{Flight, Step};
use crate::apply::queue::{Ahead, Batch};
use crate::change::Part;
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::{PgError, ServerError};

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
        let made = self.ready.take().filter(|made| made.end == batch.end && parts.len() == batch.transactions.len());
        let made = made.map_or_else(|| self.make_ready(parts, batch.end), |made| Ok(Some(made)))?;
        let Some(mut planned) = made else { return Ok(false) };
        let mut flight = Flight::new(&mut self.session);
        begin(&mut flight, &self.stream, self.stored)?;
        planned.load(&mut flight, self.policy, lsn(parts))?;
        if planned.apart.is_empty() {
            finish(&mut flight, &self.stream, self.stored, batch)?;
        }
        self.open = true;
        let answers = flight.take_off().await?;
        if planned.apart.is_empty()
            && let Some(next) = ahead.look()
        {
            // What cannot be made ready is found out when its turn comes.
            self.ready = self.make_ready(&next.transactions, next.end).unwrap_or(None);
        }
        if let Some((step, error)) = answers.wait(&mut self.session).await?.failed {
            self.rollback().await?;
            return self.fall_back(&planned, step, error).map(|()| false);
        }
        let Some(missing) = self.apart(&planned.apart).await? else { return Ok(false) };
        if !planned.apart.is_empty() {
            let mut flight = Flight::new(&mut self.session);
            finish(&mut flight, &self.stream, self.stored, batch)?;
            if let Some((step, error)) = flight.fly().await?.failed {
                self.rollback().await?;
                return self.fall_back(&planned, step, error).map(|()| false);
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
    pub(in crate::apply) async fn planned_piece(&mut self, part: &Arc<Part>) -> Result<bool, ApplyError> {
        let made = self.make_ready(std::slice::from_ref(part), self.stored)?;
        let Some(mut planned) = made else { return Ok(false) };
        let mut flight = Flight::new(&mut self.session);
        if !self.open {
            begin(&mut flight, &self.stream, self.stored)?;
        }
        flight.control(&SAVEPOINT, Step::Control)?;
        planned.load(&mut flight, self.policy, position(part))?;
        flight.control(&RELEASE, Step::Control)?;
        self.open = true;
        if let Some((step, error)) = flight.fly().await?.failed {
            self.fall_back(&planned, step, error)?;
            self.session.control(&ROLLBACK_TO).await?;
            self.session.control(&RELEASE).await?;
            self.session.forget().await?;
            return Ok(false);
        }
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
            match self.stepwise(part).await {
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
    fn make_ready(&mut self, parts: &[Arc<Part>], end: EndLsn) -> Result<Option<Ready>, PgError> {
        let planned = self.plan(parts);
        planned.map(|planned| Ready::new(planned, end, &self.session)).transpose()
    }

    /// Notes that a plan was refused.
    ///
    /// # Errors
    /// The refusal, if the changes are not to be tried exactly.
    fn fall_back(&mut self, planned: &Ready, step: Step, error: Box<ServerError>) -> Result<(), ApplyError> {
        let table = match step {
            Step::Group(place) => planned.group_of(place),
            _ => None,
        };
        let code = error.code.clone();
        self.give_up_on(step, error)?;
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

/// What errors say of where a TRUNCATE was found: it is planned with others.
fn lsn(parts: &[Arc<Part>]) -> Lsn {
    parts.first().map_or(Lsn::ZERO, |part| position(part))
}
