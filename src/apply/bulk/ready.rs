//! A plan as it goes into a flight: every value in its place, nothing borrowed. So the next batch can be made ready
//! while the present one flies.

use std::sync::Arc;

use bytes::Bytes;

use super::encode::{self, NotText};
use super::{COPY, Planned};
use crate::apply::error::ApplyError;
use crate::apply::exact::{ConflictPolicy, load};
use crate::apply::flight::{Flight, Step};
use crate::apply::plan::{Action, Group, Stage};
use crate::apply::session::Session;
use crate::apply::statement::{Many, Shape};
use crate::apply::table::TargetTable;
use crate::change::{Change, Part};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::PgError;
use crate::relation::Relation;
use crate::sql::Sql;

const HASH_JOIN: Sql = Sql::new("SET LOCAL enable_hashjoin = on");
const NO_HASH_JOIN: Sql = Sql::new("SET LOCAL enable_hashjoin = off");

/// See the module.
pub(in crate::apply) struct Ready {
    /// The end of the batch it is made of.
    pub(super) end: EndLsn,
    steps: Vec<Loaded>,
    /// Changes of tables that are applied one by one, apart from the rest.
    pub(super) apart: Vec<Arc<Part>>,
    /// How many changes are planned.
    pub(super) changes: u64,
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
    Many(Many, Vec<Bytes>),
}

impl Ready {
    /// Puts every value of a plan in its place.
    ///
    /// # Errors
    /// A table that has not been matched, or a value in binary form: mistakes of the program.
    pub(super) fn new(planned: Planned<'_>, end: EndLsn, session: &Session) -> Result<Self, PgError> {
        let mut steps = Vec::new();
        for stage in &planned.stages {
            match stage {
                Stage::Groups(groups) => {
                    for group in groups {
                        steps.push(group_rows(group, session)?);
                    }
                }
                Stage::Truncate(at, change) => steps.push(Loaded::Truncate(*at, Change::clone(change))),
            }
        }
        Ok(Self { end, steps, apart: planned.apart, changes: planned.changes })
    }

    /// Adds it to a flight: its groups are the flight's, in order.
    pub(super) fn load(&mut self, flight: &mut Flight<'_>, policy: ConflictPolicy, lsn: Lsn) -> Result<(), ApplyError> {
        for (place, step) in self.steps.iter_mut().enumerate() {
            match step {
                Loaded::Group { table, rows } => load_rows(flight, table, rows, Step::Group(place))?,
                Loaded::Truncate(at, change) => load(flight, policy, change, *at, lsn)?,
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

fn group_rows(group: &Group<'_>, session: &Session) -> Result<Loaded, PgError> {
    let table = session.matched_table(group.relation)?;
    if group.action == Action::Insert && group.rows.len() >= COPY {
        let columns: Vec<usize> = table.written.iter().map(|column| column.index).collect();
        let rows = Rows::Copy(encode::lines(&group.rows, &columns).map_err(binary)?);
        return Ok(Loaded::Group { table, rows });
    }
    let many = match &group.action {
        // Rows that a foreign key of the table has removed already are no conflict.
        Action::Delete => Many::Delete { counted: !table.info.cascaded || session.replica_role },
        Action::Absent => Many::DeleteKey,
        Action::Update { unset, rekey } => Many::Update { unset: unset.clone(), rekey: *rekey },
        Action::Insert => Many::Insert,
        Action::DeleteEqual => Many::DeleteEqual,
        Action::UpdateEqual => Many::UpdateEqual,
    };
    let touched = if group.action == Action::Absent { 0 } else { group.rows.len() };
    let values = session.values(&table, &Shape::Many(many.clone()));
    let values = values.iter().map(|value| encode::parameter(&group.rows, touched, *value).map_err(binary));
    let rows = Rows::Many(many, values.collect::<Result<_, _>>()?);
    Ok(Loaded::Group { table, rows })
}

fn load_rows(flight: &mut Flight<'_>, table: &TargetTable, rows: &mut Rows, step: Step) -> Result<(), PgError> {
    match rows {
        Rows::Copy(lines) => flight.copy(&copy_from(table), std::mem::take(lines), step),
        Rows::Many(many, values) => {
            // Elsewhere every row is looked up in an index, and a plan that reads the table would be chosen by mistake
            // only.
            let reads_table = matches!(many, Many::DeleteEqual | Many::UpdateEqual);
            if reads_table {
                flight.control(&HASH_JOIN, Step::Control)?;
            }
            flight.many(table, Shape::Many(many.clone()), step, std::mem::take(values))?;
            if reads_table {
                flight.control(&NO_HASH_JOIN, Step::Control)?;
            }
            Ok(())
        }
    }
}

fn copy_from(table: &TargetTable) -> Sql {
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    Sql::format("COPY {} ({}) FROM STDIN", &[&Sql::table(&table.info.name), &columns])
}

fn binary(_: NotText) -> PgError {
    PgError::Usage { message: "a value in binary form where text was asked for".to_owned() }
}
