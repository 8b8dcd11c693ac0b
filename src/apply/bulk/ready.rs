//! A plan as it goes into a flight: every value in its place, nothing borrowed. So the next batch can be made ready
//! while the present one flies.

use std::sync::Arc;

use bytes::Bytes;

use super::encode::{self, OtherFormat};
use super::{COPY, Planned};
use crate::apply::dead_letter::Lettered;
use crate::apply::error::ApplyError;
use crate::apply::exact::ConflictPolicy;
use crate::apply::flight::{Flight, Step};
use crate::apply::load::load;
use crate::apply::plan::{Action, Group, Stage};
use crate::apply::session::Session;
use crate::apply::statement::{Many, Shape, Value};
use crate::apply::table::{TargetTable, Wire};
use crate::change::{Change, Part};
use crate::lsn::Lsn;
use crate::postgres::PgError;
use crate::relation::Relation;
use crate::sql::Sql;

const HASH_JOIN: Sql = Sql::new("SET LOCAL enable_hashjoin = on");
const NO_HASH_JOIN: Sql = Sql::new("SET LOCAL enable_hashjoin = off");

/// When it is found out whether every group has touched as many rows as it was to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// As it is done: a group that has not raises.
    AtOnce,
    /// In the answers: COMMIT is not to be sent before them.
    Afterwards,
}

/// See the module.
pub(in crate::apply) struct Ready {
    /// The parts it is made of: the first one, and how many.
    first: Option<Arc<Part>>,
    length: usize,
    steps: Vec<Loaded>,
    /// Changes of tables that are applied one by one, apart from the rest.
    pub(super) apart: Vec<Arc<Part>>,
    /// How many changes are planned.
    pub(super) changes: u64,
    /// When its rows are counted.
    pub(super) count: Count,
}

enum Loaded {
    Group {
        table: Arc<TargetTable>,
        rows: Rows,
    },
    /// A TRUNCATE, the n-th change.
    Truncate(usize, Change),
}

/// A group's rows.
enum Rows {
    Copy(Vec<Bytes>),
    /// `due`: how many are to be touched, where that matters.
    Many {
        shape: Shape,
        due: Option<u64>,
        values: Vec<Bytes>,
    },
}

impl Ready {
    /// Puts every value of a plan in its place.
    ///
    /// # Errors
    /// A table that has not been matched, or a value in another format than was announced: mistakes of the program.
    pub(super) fn new(
        parts: &[Arc<Part>],
        planned: Planned<'_>,
        session: &Session,
        count: Count,
    ) -> Result<Self, PgError> {
        let mut steps = Vec::new();
        for stage in &planned.stages {
            match stage {
                Stage::Groups(groups) => {
                    for group in groups {
                        steps.push(group_rows(group, session, count)?);
                    }
                }
                Stage::Truncate(at, change) => steps.push(Loaded::Truncate(*at, Change::clone(change))),
            }
        }
        let (first, length) = (parts.first().cloned(), parts.len());
        Ok(Self { first, length, steps, apart: planned.apart, changes: planned.changes, count })
    }

    /// Whether it is made of these parts.
    pub(super) fn is_of(&self, parts: &[Arc<Part>]) -> bool {
        let same = |(one, other): (&Arc<Part>, &Arc<Part>)| Arc::ptr_eq(one, other);
        parts.len() == self.length && parts.first().zip(self.first.as_ref()).is_some_and(same)
    }

    /// Adds it to a flight: its groups are the flight's, in order.
    pub(super) fn load(
        &mut self,
        flight: &mut Flight<'_>,
        policy: ConflictPolicy,
        lettered: &Lettered,
        lsn: Lsn,
    ) -> Result<(), ApplyError> {
        for (place, step) in self.steps.iter_mut().enumerate() {
            match step {
                Loaded::Group { table, rows } => load_rows(flight, table, rows, place)?,
                Loaded::Truncate(at, change) => load(flight, policy, lettered, change, *at, lsn)?,
            }
        }
        Ok(())
    }

    /// Whose rows the n-th step has.
    pub(super) fn group_of(&self, place: usize) -> Option<Arc<Relation>> {
        match self.steps.get(place)? {
            Loaded::Group { table, .. } => Some(Arc::clone(&table.relation)),
            Loaded::Truncate(..) => None,
        }
    }
}

fn group_rows(group: &Group<'_>, session: &Session, count: Count) -> Result<Loaded, PgError> {
    let table = session.matched_table(group.relation)?;
    if group.action == Action::Insert && group.rows.len() >= COPY && table.copies() {
        let columns = table.written.iter().map(|column| column.index);
        let data = match group.relation.binary {
            false => encode::lines(&group.rows, &columns.collect::<Vec<_>>()),
            true => encode::tuples(&group.rows, &columns.map(|at| (at, table.wire(at))).collect::<Vec<_>>()),
        };
        let rows = Rows::Copy(data.map_err(other_format)?);
        return Ok(Loaded::Group { table, rows });
    }
    let all = group.rows.len() as u64;
    let (many, due) = match &group.action {
        // Rows that a foreign key of the table has removed already are no conflict.
        Action::Delete if table.info.cascaded && !session.replica_role => (Many::Delete, None),
        Action::Delete => (Many::Delete, Some(all)),
        Action::Absent => (Many::DeleteKey, Some(0)),
        Action::Update { unset, rekey } => (Many::Update { unset: unset.clone(), rekey: *rekey }, Some(all)),
        // None is left out: what leaves rows out (triggers, rules) is not applied so.
        Action::Insert => (Many::Insert, None),
        Action::DeleteEqual => (Many::DeleteEqual, Some(all)),
        Action::UpdateEqual => (Many::UpdateEqual, Some(all)),
    };
    let shape = Shape::Many { many, guarded: due.is_some() && count == Count::AtOnce };
    let values = session.values(&table, &shape);
    let values: Vec<(Value, Wire)> = values.iter().map(|value| (*value, wire(&table, *value))).collect();
    let values = encode::parameters(&group.rows, due.unwrap_or_default(), &values).map_err(other_format)?;
    Ok(Loaded::Group { table, rows: Rows::Many { shape, due, values } })
}

fn load_rows(flight: &mut Flight<'_>, table: &TargetTable, rows: &mut Rows, place: usize) -> Result<(), PgError> {
    match rows {
        Rows::Copy(lines) => flight.copy(&copy_from(table), std::mem::take(lines), Step::Group(place)),
        Rows::Many { shape, due, values } => {
            // Elsewhere every row is looked up in an index, and a plan that reads the table would be chosen by mistake
            // only.
            let reads_table = matches!(shape, Shape::Many { many: Many::DeleteEqual | Many::UpdateEqual, .. });
            if reads_table {
                flight.control(&HASH_JOIN, Step::Control)?;
            }
            let step = due.map_or(Step::Group(place), |due| Step::Exactly(place, due));
            flight.many(table, shape.clone(), step, std::mem::take(values))?;
            if reads_table {
                flight.control(&NO_HASH_JOIN, Step::Control)?;
            }
            Ok(())
        }
    }
}

fn copy_from(table: &TargetTable) -> Sql {
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let format = Sql::new(if table.relation.binary { " WITH (FORMAT binary)" } else { "" });
    Sql::format("COPY {} ({}) FROM STDIN{}", &[&Sql::table(&table.info.name), &columns, &format])
}

fn wire(table: &TargetTable, value: Value) -> Wire {
    match value {
        Value::New(index) | Value::Old(index) => table.wire(index),
        Value::Count => Wire::Text,
    }
}

fn other_format(_: OtherFormat) -> PgError {
    PgError::Usage { message: "a value that is not in the format in which its column was announced".to_owned() }
}
