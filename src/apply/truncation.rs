//! TRUNCATE on the target: of the tables that the source emptied, and of no others.
//!
//! A source's TRUNCATE … CASCADE names every table it emptied (`ExecuteTruncateGuts` logs them all), so CASCADE is
//! never repeated here: it would empty tables that only the target has, and such as were copied later. PostgreSQL's
//! own logical replication leaves it out as well (`apply_handle_truncate`). What the target refuses then is done
//! otherwise where that comes to the same:
//! - tables outside refer to it (0A000): partitioned tables all of whose partitions are emptied are named as well, as
//!   foreign keys are theirs; else with the replica role DELETE empties it and touches nothing else;
//! - the role does not own what RESTART IDENTITY restarts (42501): sequences are not replicated, the rows are;
//! - constraints checked before it fail for rows of other tables (class 23): they are checked at the end as well.

use std::sync::Arc;

use super::conflict::{RELEASE, SAVEPOINT, refused};
use super::error::ApplyError;
use super::exact::{Applier, position};
use super::flight::{Flight, Step};
use super::table::TargetTable;
use crate::change::{Change, Part};
use crate::postgres::{PgError, ServerError};
use crate::relation::TableName;
use crate::sql::Sql;

/// Constraints that may be deferred are checked at the end of the transaction, as they may have been on the source.
pub(super) const DEFER: Sql = Sql::new("SET CONSTRAINTS ALL DEFERRED");
/// TRUNCATE is refused (55006) while checks of the table's rows are pending, which earlier transactions of the batch
/// may have left. The source, which allowed it, had none pending.
pub(super) const CHECK: Sql = Sql::new("SET CONSTRAINTS ALL IMMEDIATE");

/// The sequences that RESTART IDENTITY restarts: those owned by columns of the table or of its partitions.
const OWNED: Sql = Sql::new(
    "SELECT n.nspname::text, s.relname::text
     FROM pg_depend d
     JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
     JOIN pg_namespace n ON n.oid = s.relnamespace
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
       AND (d.refobjid = $1 OR d.refobjid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass)))",
);

/// The partitioned tables all of whose leaves are among these tables.
const WHOLE: Sql = Sql::new(
    "SELECT DISTINCT n.nspname::text, c.relname::text
     FROM unnest($1::oid[]) AS named (oid) CROSS JOIN LATERAL pg_partition_ancestors(named.oid::regclass) AS above
     JOIN pg_class c ON c.oid = above.relid AND c.relkind = 'p' JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid <> ALL ($1::oid[]) AND NOT EXISTS
       (SELECT FROM pg_partition_tree(c.oid::regclass) AS part
        WHERE part.isleaf AND part.relid::oid <> ALL ($1::oid[]))",
);

/// How tables are emptied.
#[derive(Clone, Copy, Debug)]
struct Way {
    restart: bool,
    check: bool,
    whole: bool,
    delete: bool,
}

/// TRUNCATE of these tables.
pub(super) fn truncate(tables: &[Arc<TargetTable>], restart_identity: bool) -> Sql {
    truncate_named(tables.iter().map(|table| table.only()).collect(), restart_identity)
}

fn truncate_named(names: Vec<Sql>, restart_identity: bool) -> Sql {
    let identity = Sql::new(if restart_identity { " RESTART IDENTITY" } else { "" });
    Sql::format("TRUNCATE {}{}", &[&Sql::join(&names, ", "), &identity])
}

impl Applier {
    /// Empties the tables of a TRUNCATE that was refused, in the first other way that the target allows.
    pub(super) async fn empty(
        &mut self,
        part: &Part,
        change: &Change,
        refusal: Box<ServerError>,
    ) -> Result<(), ApplyError> {
        let Change::Truncate { relations, restart_identity, .. } = change else {
            return Err(refused(change, part, refusal));
        };
        let mut tables = Vec::with_capacity(relations.len());
        for relation in relations {
            tables.push(self.session.table(relation, position(part)).await?);
        }
        let mut way = Way { restart: *restart_identity, check: true, whole: false, delete: false };
        let mut refusal = refusal;
        loop {
            match refusal.code.as_str() {
                "0A000" if !way.whole => way.whole = true,
                "0A000" if self.session.replica_role && !way.delete => way.delete = true,
                "42501" if way.restart => way.restart = false,
                code if code.starts_with("23") && way.check => way.check = false,
                _ => return Err(refused(change, part, refusal)),
            }
            match self.try_to_empty(&tables, way).await? {
                Some(error) => refusal = error,
                None => break,
            }
        }
        if *restart_identity && !way.restart {
            let table = relations.first().map(|relation| relation.name.to_string()).unwrap_or_default();
            tracing::warn!(
                table,
                "emptied without RESTART IDENTITY: the role does not own the table's sequences on the target"
            );
        }
        Ok(())
    }

    async fn try_to_empty(
        &mut self,
        tables: &[Arc<TargetTable>],
        way: Way,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        let mut statements = Vec::new();
        if way.delete {
            statements.extend(tables.iter().map(|table| Sql::format("DELETE FROM {}", &[&table.only()])));
            if way.restart {
                statements.extend(self.restarts(tables).await?);
            }
        } else {
            if way.check {
                statements.push(CHECK);
            }
            let mut names: Vec<Sql> = tables.iter().map(|table| table.only()).collect();
            if way.whole {
                names.extend(self.whole(tables).await?);
            }
            statements.push(truncate_named(names, way.restart));
            statements.push(DEFER);
        }
        let mut flight = Flight::new(&mut self.session);
        flight.control(&SAVEPOINT, Step::Control)?;
        for statement in &statements {
            flight.once(statement, Step::Change(0))?;
        }
        flight.control(&RELEASE, Step::Control)?;
        let landed = flight.fly().await?;
        self.roll_back_if_refused(&landed).await?;
        Ok(landed.failed.map(|(_, error)| error))
    }

    async fn whole(&self, tables: &[Arc<TargetTable>]) -> Result<Vec<Sql>, PgError> {
        let oids: Vec<u32> = tables.iter().map(|table| table.info.oid).collect();
        let rows = self.session.client.query(&WHOLE, &[&oids]).await?;
        Ok(rows
            .iter()
            .map(|row| Sql::table(&TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))))
            .collect())
    }

    async fn restarts(&self, tables: &[Arc<TargetTable>]) -> Result<Vec<Sql>, PgError> {
        let mut restarts = Vec::new();
        for table in tables {
            for row in self.session.client.query(&OWNED, &[&table.info.oid]).await? {
                let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
                restarts.push(Sql::format("ALTER SEQUENCE {} RESTART", &[&Sql::table(&name)]));
            }
        }
        Ok(restarts)
    }
}
