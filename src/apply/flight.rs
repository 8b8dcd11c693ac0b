//! A flight: statements sent together and ended by one Sync; the server's answers tell which step failed.
//!
//! After an error the server skips everything up to the Sync (docs: Message Flow, Pipelining), so a COMMIT in the
//! flight is reached only if every step before it succeeded.

use std::sync::Arc;

use bytes::Bytes;
use postgres_protocol::message::frontend;

use super::progress::{Page, Touch};
use super::session::{self, Session};
use super::statement::{Shape, Value};
use super::table::TargetTable;
use crate::postgres::wire::{Frame, Param, Progress};
use crate::postgres::{PgError, ServerError};
use crate::relation::Relation;
use crate::row::{Datum, Row};
use crate::sql::Sql;

/// What a step of a flight does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// BEGIN, SAVEPOINT, RELEASE, …
    Control,
    /// The n-th change of the flight.
    Change(usize),
    /// As [`Step::Change`], an INSERT or DELETE that is reported when it touches no row.
    Counted(usize),
    /// The n-th group of a plan.
    Group(usize),
    /// As [`Step::Group`], and not done unless it touches so many rows.
    Exactly(usize, u64),
    /// Asks something: see [`Landed::answer`].
    Ask,
    /// Holds or moves the progress row.
    Progress,
    /// COMMIT.
    Commit,
}

/// How a flight went.
#[derive(Debug)]
pub struct Landed {
    /// The step that failed, and why. Nothing after it was done.
    pub failed: Option<(Step, Box<ServerError>)>,
    /// Changes that touched no row: DELETEs that found none, INSERTs that a trigger or rule left out.
    pub missing: Vec<usize>,
    /// Rows of the last step that counted any (INSERT, UPDATE, DELETE).
    pub rows: u64,
    /// The first group that touched another number of rows than it was to.
    pub miscounted: Option<usize>,
    /// The first column of the last row that a [`Step::Ask`] has given; `None` when that is NULL.
    pub answer: Option<String>,
}

/// A flight being loaded.
pub struct Flight<'a> {
    session: &'a mut Session,
    steps: Vec<Step>,
    flown: bool,
}

/// A flight that was loaded and not sent, because a change could not be encoded, leaves its beginning in the
/// connection's buffer.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.session.broken |= !self.flown && !self.steps.is_empty();
    }
}

/// The rows a change's parameters are taken from.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// After the change.
    pub new: Option<&'a Row>,
    /// Before the change.
    pub old: Option<&'a Row>,
    /// Whether values missing from the new row are in the old one.
    pub old_is_full: bool,
    /// Whether the row on the target is as after the change already, and to be found by that.
    pub by_new: bool,
}

impl<'a> Values<'a> {
    /// Of a row that is there as the change leaves it.
    pub fn of(new: &'a Row) -> Self {
        Self { new: Some(new), old: None, old_is_full: false, by_new: true }
    }
}

impl Values<'_> {
    fn get(&self, value: Value) -> Param {
        let (row, index) = match value {
            Value::New(index) => match self.new.and_then(|row| row.get(index)) {
                Some(Datum::Unchanged) if self.old_is_full => (self.old, index),
                _ => (self.new, index),
            },
            Value::Old(index) if self.by_new => return self.get(Value::New(index)),
            Value::Old(index) => (self.old.or(self.new), index),
            Value::Count => return Param::Null,
        };
        let Some(row) = row else { return Param::Null };
        match (row.get(index), row.share(index)) {
            (Some(Datum::Text(_)), Some(bytes)) => Param::Text(bytes),
            (Some(Datum::Binary(_)), Some(bytes)) => Param::Binary(bytes),
            _ => Param::Null,
        }
    }
}

impl<'a> Flight<'a> {
    /// An empty flight.
    pub fn new(session: &'a mut Session) -> Self {
        Self { session, steps: Vec::new(), flown: false }
    }

    /// The target's side of a relation that was matched before the flight.
    ///
    /// # Errors
    /// When it was not: a mistake of the program.
    pub fn table(&self, relation: &Arc<Relation>) -> Result<Arc<TargetTable>, PgError> {
        self.session.matched_table(relation)
    }

    /// See [`Session::cascades_from`].
    pub fn cascades_from(&self, table: &TargetTable) -> bool {
        self.session.cascades_from(table)
    }

    /// Whether triggers and foreign keys are off.
    pub fn replica_role(&self) -> bool {
        self.session.replica_role
    }

    /// Adds a statement without parameters that frames others (BEGIN, SAVEPOINT, …), and is kept prepared.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn control(&mut self, sql: &Sql, step: Step) -> Result<(), PgError> {
        self.frame(sql, &[], &mut std::iter::empty(), step)
    }

    /// Adds a statement without parameters that is not worth keeping.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn once(&mut self, sql: &Sql, step: Step) -> Result<(), PgError> {
        session::parse(&mut self.session.wire, "", sql, &[])?;
        self.session.wire.writer.bind_execute("", &mut std::iter::empty())?;
        self.steps.push(step);
        Ok(())
    }

    /// Adds a statement that comes again and again, the same to a letter, and is kept prepared.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn frame(
        &mut self,
        sql: &Sql,
        types: &[u32],
        params: &mut dyn ExactSizeIterator<Item = Param>,
        step: Step,
    ) -> Result<(), PgError> {
        let name = self.session.frame(sql, types)?;
        self.session.wire.writer.bind_execute(&name, params)?;
        self.steps.push(step);
        Ok(())
    }

    /// Adds what is done with the progress row, where the session knows it to lie.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn progress(&mut self, touch: impl FnOnce(Option<Page>) -> Touch) -> Result<(), PgError> {
        let Touch { sql, types, params } = touch(self.session.progress_lies.page());
        self.frame(&sql, types, &mut params.into_iter(), Step::Progress)
    }

    /// Adds a change by its prepared statement.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn change(&mut self, table: &TargetTable, shape: Shape, row: Values<'_>, step: Step) -> Result<(), PgError> {
        let prepared = self.session.prepare(table, shape)?;
        let mut params = prepared.values.iter().map(|value| row.get(*value));
        self.session.wire.writer.bind_execute(&prepared.name, &mut params)?;
        self.steps.push(step);
        Ok(())
    }

    /// Adds a statement for many rows, with the values of its parameters in binary form.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn many(&mut self, table: &TargetTable, shape: Shape, step: Step, values: Vec<Bytes>) -> Result<(), PgError> {
        let prepared = self.session.prepare(table, shape)?;
        let mut params = values.into_iter().map(Param::Binary);
        self.session.wire.writer.bind_execute(&prepared.name, &mut params)?;
        self.steps.push(step);
        Ok(())
    }

    /// Adds `COPY … FROM STDIN` with its data. The server takes data that comes right after Execute (it reads on when
    /// it is in copy mode), and passes over it when an earlier step has failed (documentation: "COPY Operations").
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn copy(&mut self, sql: &Sql, data: Vec<Bytes>, step: Step) -> Result<(), PgError> {
        session::parse(&mut self.session.wire, "", sql, &[])?;
        let writer = &mut self.session.wire.writer;
        writer.bind_execute("", &mut std::iter::empty())?;
        data.into_iter().try_for_each(|stretch| writer.copy_data(stretch))?;
        frontend::copy_done(writer.buffer());
        self.steps.push(step);
        Ok(())
    }

    /// Sends the flight and waits for every answer.
    ///
    /// # Errors
    /// When the connection breaks: then nothing is known of what was done. What the server refuses is in [`Landed`].
    pub async fn fly(mut self) -> Result<Landed, PgError> {
        let answers = self.sealed();
        answers.wait(self.session).await
    }

    /// Sends the flight; the answers are to be waited for before anything else is done with the session.
    ///
    /// # Errors
    /// As [`Self::fly`].
    pub async fn take_off(mut self) -> Result<Answers, PgError> {
        let mut answers = self.sealed();
        let sent = self.session.wire.flush_and(|frame| {
            answers.take(&frame);
            Ok(())
        });
        let sent = sent.await;
        self.session.broken |= sent.is_err();
        sent.map(|()| answers)
    }

    fn sealed(&mut self) -> Answers {
        self.flown = true;
        frontend::sync(self.session.wire.writer.buffer());
        let landed = Landed { failed: None, missing: Vec::new(), rows: 0, miscounted: None, answer: None };
        Answers { steps: std::mem::take(&mut self.steps), done: 0, landed, page: None, ended: false }
    }
}

/// A flight's answers, as they come in.
#[derive(Debug)]
pub struct Answers {
    steps: Vec<Step>,
    done: usize,
    landed: Landed,
    /// Where the progress row lies.
    page: Option<Page>,
    ended: bool,
}

impl Answers {
    /// Waits for those that are due.
    ///
    /// # Errors
    /// As [`Flight::fly`].
    pub async fn wait(mut self, session: &mut Session) -> Result<Landed, PgError> {
        if !self.ended {
            let exchanged = session.wire.exchange(|frame: Frame| {
                self.take(&frame);
                Ok(if self.ended { Progress::Done } else { Progress::More })
            });
            let exchanged = exchanged.await;
            session.broken |= exchanged.is_err();
            exchanged?;
        }
        // Where it was held it lies, whatever was refused after that; where it was moved to, once that is committed.
        let undone = matches!(self.landed.failed, Some((Step::Progress | Step::Commit, _)));
        if let Some(page) = self.page.filter(|_| !undone) {
            session.progress_lies.seen(page);
        }
        Ok(self.landed)
    }

    fn take(&mut self, frame: &Frame) {
        match frame.tag {
            b'C' => {
                let rows = rows(&frame.body);
                self.landed.rows = rows.unwrap_or(self.landed.rows);
                match (self.steps.get(self.done), rows) {
                    (Some(Step::Counted(at)), Some(0)) => self.landed.missing.push(*at),
                    (Some(Step::Exactly(group, due)), Some(rows)) if rows != *due => {
                        self.landed.miscounted = self.landed.miscounted.or(Some(*group));
                    }
                    _ => {}
                }
                self.done += 1;
            }
            b'E' => {
                let step = self.steps.get(self.done).copied().unwrap_or(Step::Control);
                self.landed.failed = Some((step, Box::new(ServerError::parse(&frame.body))));
            }
            b'D' => match self.steps.get(self.done) {
                Some(Step::Ask) => self.landed.answer = first_column(&frame.body),
                Some(Step::Progress) => self.page = first_column(&frame.body).as_deref().and_then(Page::of),
                _ => {}
            },
            b'Z' => self.ended = true,
            _ => {}
        }
    }
}

/// The first column of a DataRow: the number of columns in two bytes, then each one's length in four (-1 is NULL) and
/// its bytes (documentation: "Message Formats").
fn first_column(body: &[u8]) -> Option<String> {
    let length: [u8; 4] = body.get(2..6)?.try_into().ok()?;
    let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
    Some(String::from_utf8_lossy(body.get(6..6 + length)?).into_owned())
}

/// The row count of a CommandComplete: `DELETE 3`, `INSERT 0 1`; `None` for commands without one.
fn rows(body: &[u8]) -> Option<u64> {
    let tag = body.strip_suffix(&[0])?;
    let counted = [&b"INSERT "[..], b"UPDATE ", b"DELETE "].iter().any(|command| tag.starts_with(command));
    let digits = tag.rsplit(|byte| *byte == b' ').next().filter(|_| counted)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_rows_first_column() {
        assert_eq!(first_column(b"\0\x01\0\0\0\x02ab").as_deref(), Some("ab"));
        assert_eq!(first_column(b"\0\x01\xff\xff\xff\xff"), None);
        assert_eq!(first_column(b"\0\x01\0\0\0\x09ab"), None);
    }

    #[test]
    fn row_counts_are_read_from_command_tags() {
        assert_eq!(rows(b"DELETE 0\0"), Some(0));
        assert_eq!(rows(b"INSERT 0 12\0"), Some(12));
        assert_eq!(rows(b"UPDATE 7\0"), Some(7));
        assert_eq!(rows(b"COMMIT\0"), None);
        assert_eq!(rows(b"SELECT 1\0"), None);
        assert_eq!(rows(b"DELETE"), None);
    }
}
