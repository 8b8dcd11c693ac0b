//! Making sure that there is a publication: in go its name and which tables are wanted, out comes the publication, or
//! an error with the statement a DBA runs.
//!
//! One that exists is never altered. Neither is one made, nor the making of one advised, that would break the source's
//! application: the source refuses UPDATE and DELETE on a published table without a replica identity
//! (`CheckCmdReplicaIdentity` in execReplication.c). One that is missing is created for exactly the chosen tables, with
//! `publish_via_partition_root`: whoever chooses a partitioned table by name means its rows in partitions to come as
//! well, and those would arrive under names nobody chose. (The price: TRUNCATE of a single partition is then not
//! published, documentation: CREATE PUBLICATION.)

use std::collections::{HashMap, HashSet};

use super::read::IDENTITY_INDEX;
use super::{Publication, read};
use crate::postgres::Client;
use crate::relation::TableName;
use crate::source::SourceError;
use crate::source::answer::get;
use crate::source::identity::in_recovery;
use crate::sql::Sql;

/// Which tables are wanted.
pub type Chosen<'a> = &'a (dyn Fn(&TableName) -> bool + Send + Sync);

/// The publication as it is, or as it was just created.
///
/// With `chosen`, every existing table that is chosen must be in it. Without, it must exist.
///
/// # Errors
/// [`SourceError::Publication`], with the statement that mends it.
pub async fn ensure(client: &Client, name: &str, chosen: Option<Chosen<'_>>) -> Result<Publication, SourceError> {
    match make(client, name, chosen).await {
        Ok((publication, made)) => {
            if made {
                tracing::info!(publication = name, tables = publication.tables.len(), "publication created");
            }
            Ok(publication)
        }
        Err(error) if is_duplicate(&error) => read(client, name).await?.ok_or(error),
        Err(error) => Err(error),
    }
}

/// What [`ensure`] would come to, and whether it would create it: done in a transaction that is always rolled back,
/// also by the server when this side goes away. It waits for other sessions' locks only briefly.
///
/// # Errors
/// As [`ensure`]; SQLSTATE 55P03 when a table is locked.
pub async fn rehearse(
    client: &Client,
    name: &str,
    chosen: Option<Chosen<'_>>,
) -> Result<(Publication, bool), SourceError> {
    let doing = || SourceError::during(format!("looking at what publication \"{name}\" would hold"));
    if let (Some(publication), None) = (read(client, name).await?, chosen) {
        return Ok((publication, false));
    }
    // A standby takes no READ WRITE, and nothing can be created there anyway.
    let writes = match in_recovery(client).await.map_err(doing())? {
        true => Sql::new("BEGIN"),
        false => Sql::new("BEGIN READ WRITE"),
    };
    client.batch(&Sql::format("{}; SET LOCAL lock_timeout = '2s'", &[&writes])).await.map_err(doing())?;
    let made = make(client, name, chosen).await;
    client.batch(&Sql::new("ROLLBACK")).await.map_err(doing())?;
    match made {
        Err(error) if is_duplicate(&error) => Ok((read(client, name).await?.ok_or(error)?, false)),
        made => made,
    }
}

/// duplicate_object: somebody else was faster, and it is read like any other.
fn is_duplicate(error: &SourceError) -> bool {
    matches!(error, SourceError::Postgres { source, .. } if source.code() == Some("42710"))
}

/// The publication, and whether it was created just now.
async fn make(client: &Client, name: &str, chosen: Option<Chosen<'_>>) -> Result<(Publication, bool), SourceError> {
    let existing = read(client, name).await?;
    let Some(chosen) = chosen else { return Ok((existing.ok_or_else(|| for_all_tables(name))?, false)) };
    let candidates = candidates(client, name).await?;
    let (chosen, unlogged): (Vec<&Candidate>, Vec<&Candidate>) =
        candidates.iter().filter(|table| chosen(&table.name)).partition(|table| table.permanent);
    if !unlogged.is_empty() {
        let tables = listed(&unlogged);
        tracing::warn!(publication = name, tables, "unlogged tables are not in the WAL: they are not replicated");
    }
    if let Some(publication) = existing {
        let changes = publication.update || publication.delete;
        return match lacking(&publication, &candidates, &chosen).as_slice() {
            [] => Ok((publication, false)),
            lacking => {
                let faceless = if changes { faceless(&candidates, lacking) } else { Vec::new() };
                Err(lacks(name, lacking, &family(&candidates, lacking, &faceless)))
            }
        };
    }
    let tables = topmost(&chosen);
    let faceless = faceless(&candidates, &tables);
    if !faceless.is_empty() {
        return Err(without_identity(name, &faceless, &family(&candidates, &tables, &faceless)));
    }
    create(client, name, &tables).await?;
    Ok((read(client, name).await?.ok_or_else(|| for_all_tables(name))?, true))
}

/// A table that could be published.
#[derive(Debug)]
struct Candidate {
    oid: u32,
    name: TableName,
    partitioned: bool,
    /// Not unlogged.
    permanent: bool,
    /// Whether the current role has the owner's rights.
    owned: bool,
    /// Whether UPDATE and DELETE can say which row they mean; of a partitioned table its leaves decide.
    identifiable: bool,
    /// The partitioned tables it is a partition of, at any distance.
    ancestors: Vec<u32>,
}

async fn candidates(client: &Client, publication: &str) -> Result<Vec<Candidate>, SourceError> {
    // 16384 is FirstNormalObjectId: what initdb made is not publishable (`is_publishable_class` in pg_publication.c).
    let sql = Sql::format(
        "SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' AS partitioned, c.relpersistence = 'p' AS permanent, \
         pg_has_role(c.relowner, 'USAGE') AS owned, \
         c.relkind = 'p' OR CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false \
         ELSE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND {}) END AS identifiable, \
         ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid) AS ancestors \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384 \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'walferry') \
         ORDER BY n.nspname, c.relname",
        &[&IDENTITY_INDEX],
    );
    let rows = client.query(&sql, &[]).await;
    let rows = rows.map_err(SourceError::during(format!("listing tables for publication \"{publication}\"")))?;
    let candidate = |row| {
        Ok(Candidate {
            oid: get(row, "oid")?,
            name: TableName::new(get::<String>(row, "nspname")?, get::<String>(row, "relname")?),
            partitioned: get(row, "partitioned")?,
            permanent: get(row, "permanent")?,
            owned: get(row, "owned")?,
            identifiable: get(row, "identifiable")?,
            ancestors: get(row, "ancestors")?,
        })
    };
    rows.iter().map(candidate).collect()
}

/// Chosen tables whose rows the publication does not hold. A table is held by name, through a partitioned table above
/// it, or by all leaves below it. (A partitioned table without partitions has no rows to miss; it is looked at
/// again at the next start.)
fn lacking<'a>(publication: &Publication, all: &[Candidate], chosen: &[&'a Candidate]) -> Vec<&'a Candidate> {
    if publication.all_tables {
        return Vec::new();
    }
    let published: HashSet<u32> = publication.tables.iter().map(|table| table.oid).collect();
    let by_itself = |table: &Candidate| {
        published.contains(&table.oid) || table.ancestors.iter().any(|ancestor| published.contains(ancestor))
    };
    let mut leaves_held: HashMap<u32, bool> = HashMap::new();
    for leaf in all.iter().filter(|table| !table.partitioned && table.permanent) {
        for ancestor in &leaf.ancestors {
            *leaves_held.entry(*ancestor).or_insert(true) &= by_itself(leaf);
        }
    }
    let by_leaves = |table: &Candidate| table.partitioned && leaves_held.get(&table.oid).copied().unwrap_or(true);
    topmost(chosen).into_iter().filter(|table| !by_itself(table) && !by_leaves(table)).collect()
}

/// The chosen tables without those whose partitioned table is chosen too.
fn topmost<'a>(chosen: &[&'a Candidate]) -> Vec<&'a Candidate> {
    let oids: HashSet<u32> = chosen.iter().map(|table| table.oid).collect();
    let under_another = |table: &Candidate| table.ancestors.iter().any(|ancestor| oids.contains(ancestor));
    chosen.iter().filter(|table| !under_another(table)).copied().collect()
}

/// The tables, or leaves of them, on which the source would refuse UPDATE and DELETE once `tables` are published.
fn faceless<'a>(all: &'a [Candidate], tables: &[&Candidate]) -> Vec<&'a Candidate> {
    all.iter().filter(|table| table.permanent && !table.identifiable && is_under(table, tables)).collect()
}

/// Whether it is one of these tables or lies under one.
fn is_under(table: &Candidate, tables: &[&Candidate]) -> bool {
    tables.iter().any(|above| above.oid == table.oid || table.ancestors.contains(&above.oid))
}

/// The tables that need REPLICA IDENTITY FULL for `faceless` ones to be published: the stream announces the identity of
/// a partitioned table for all its leaves, so all of that tree.
fn family<'a>(all: &'a [Candidate], tables: &[&Candidate], faceless: &[&Candidate]) -> Vec<&'a Candidate> {
    let roots: Vec<&Candidate> =
        tables.iter().filter(|table| faceless.iter().any(|found| is_under(found, &[table]))).copied().collect();
    all.iter().filter(|table| table.permanent && is_under(table, &roots)).collect()
}

/// Creates the publication when the role may: it takes CREATE on the database and the ownership of every table.
async fn create(client: &Client, name: &str, tables: &[&Candidate]) -> Result<(), SourceError> {
    if tables.is_empty() {
        return Err(SourceError::Publication {
            name: name.to_owned(),
            problem: "does not exist, and no existing table matches `tables`, so that it could be created".to_owned(),
            remedy: "check `tables` in the configuration, and that the connection is to the right database".to_owned(),
            sql: Vec::new(),
        });
    }
    let sql = create_sql(name, tables);
    let doing = || SourceError::during(format!("creating publication \"{name}\""));
    if in_recovery(client).await.map_err(doing())? {
        return Err(SourceError::Publication {
            name: name.to_owned(),
            problem: "does not exist, and cannot be created on a standby".to_owned(),
            remedy: format!("run on the primary: {sql};"),
            sql: Vec::new(),
        });
    }
    let asked = Sql::new("SELECT has_database_privilege(current_database(), 'CREATE') AS may");
    let may_create: bool = get(&client.query_one(&asked, &[]).await.map_err(doing())?, "may")?;
    let foreign: Vec<&Candidate> = tables.iter().filter(|table| !table.owned).copied().collect();
    if !may_create || !foreign.is_empty() {
        let why = if may_create {
            format!("does not own {}", listed(&foreign))
        } else {
            "has no CREATE privilege on the database".to_owned()
        };
        return Err(SourceError::Publication {
            name: name.to_owned(),
            problem: format!("does not exist, and walferry's role may not create it: it {why}"),
            remedy: format!("run on the source, as a role that may: {sql};"),
            sql: vec![sql],
        });
    }
    client.batch(&sql).await.map_err(doing())
}

fn create_sql(name: &str, tables: &[&Candidate]) -> Sql {
    Sql::format(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
        &[&Sql::ident(name), &only(tables)],
    )
}

/// `ONLY`: an inheritance child is published when it is chosen itself, not for its parent's sake. (Partitions always
/// are.)
fn only(tables: &[&Candidate]) -> Sql {
    let tables: Vec<Sql> = tables.iter().map(|table| Sql::format("ONLY {}", &[&Sql::table(&table.name)])).collect();
    Sql::join(&tables, ", ")
}

/// For messages: not more names than a person reads.
fn listed(tables: &[&Candidate]) -> String {
    const SHOWN: usize = 10;
    let names: Vec<String> = tables.iter().take(SHOWN).map(|table| table.name.to_string()).collect();
    let more = tables.len().saturating_sub(SHOWN);
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}

/// The statements that give these tables an identity.
fn full_identity(tables: &[&Candidate]) -> Vec<Sql> {
    let alter = |table: &&Candidate| Sql::format("ALTER TABLE {} REPLICA IDENTITY FULL", &[&Sql::table(&table.name)]);
    tables.iter().map(alter).collect()
}

/// For messages.
fn script(statements: &[Sql]) -> String {
    statements.iter().map(|sql| format!("{sql};")).collect::<Vec<_>>().join(" ")
}

/// `altered`: what has to be changed for `faceless` ones.
fn without_identity(name: &str, faceless: &[&Candidate], altered: &[&Candidate]) -> SourceError {
    let sql = full_identity(altered);
    let leave_out = faceless.first().map(|table| format!("\"!{}\"", table.name)).unwrap_or_default();
    SourceError::Publication {
        name: name.to_owned(),
        problem: format!(
            "does not exist and is not created: the source would then refuse UPDATE and DELETE on tables without a \
             replica identity: {}",
            listed(faceless)
        ),
        remedy: format!(
            "give each a primary key, or run on the source: {} Or leave them out of `tables` (such as {leave_out}), or \
             create the publication yourself (such as one WITH (publish = 'insert, truncate'))",
            script(&sql)
        ),
        sql,
    }
}

/// `altered`: what has to be changed before that.
fn lacks(name: &str, tables: &[&Candidate], altered: &[&Candidate]) -> SourceError {
    let mut statements = full_identity(altered);
    let sql = Sql::format("ALTER PUBLICATION {} ADD TABLE {}", &[&Sql::ident(name), &only(tables)]);
    let first = match altered.is_empty() {
        true => String::new(),
        false => format!(
            "{} (or a primary key: without either, the source refuses UPDATE and DELETE on what is published) ",
            script(&statements)
        ),
    };
    statements.push(sql.clone());
    SourceError::Publication {
        name: name.to_owned(),
        problem: format!("lacks tables that `tables` chooses: {}", listed(tables)),
        remedy: format!("run on the source: {first}{sql}; or take them out of `tables`"),
        sql: statements,
    }
}

/// It existed, and does not any more.
pub fn missing(name: &str) -> SourceError {
    SourceError::Publication {
        name: name.to_owned(),
        problem: "does not exist any more".to_owned(),
        remedy: "changes made while it is missing are not sent, and are lost to the targets: create it again and run \
                 `walferry slot reset`"
            .to_owned(),
        sql: Vec::new(),
    }
}

fn for_all_tables(name: &str) -> SourceError {
    let sql = Sql::format("CREATE PUBLICATION {} FOR ALL TABLES", &[&Sql::ident(name)]);
    SourceError::Publication {
        name: name.to_owned(),
        problem: "does not exist, and without `tables` in the configuration walferry does not know what to publish"
            .to_owned(),
        remedy: format!(
            "run on the source, as a superuser: {sql}; or set `tables` under [source]. Tables without a primary key \
             need ALTER TABLE … REPLICA IDENTITY FULL before that: the source refuses UPDATE and DELETE on what is \
             published without an identity"
        ),
        sql: vec![sql],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PublishedTable, TableKind};
    use super::*;
    use crate::error::{Judged, Verdict};
    use crate::relation::ReplicaIdentity;

    fn table(oid: u32, name: &str, partitioned: bool, ancestors: &[u32]) -> Candidate {
        let (name, ancestors) = (TableName::new("public", name), ancestors.to_vec());
        Candidate { oid, name, partitioned, permanent: true, owned: true, identifiable: true, ancestors }
    }

    /// orders(1) ─ y2024(2), y2025(3) ─ q1(4); plain(5)
    fn tree() -> Vec<Candidate> {
        vec![
            table(1, "orders", true, &[]),
            table(2, "y2024", false, &[1]),
            table(3, "y2025", true, &[1]),
            table(4, "q1", false, &[3, 1]),
            table(5, "plain", false, &[]),
        ]
    }

    fn publishing(oids: &[u32]) -> Publication {
        let published = |oid: &u32| PublishedTable {
            name: TableName::new("public", "t"),
            oid: *oid,
            kind: TableKind::Plain,
            columns: Vec::new(),
            unsent: Vec::new(),
            row_filter: None,
            identity: ReplicaIdentity::Default,
            identity_columns: Vec::new(),
            identifiable: true,
            falsely_full: false,
            entries: vec![1],
            bytes: 0,
            leaves: Vec::new(),
        };
        Publication {
            name: "p".to_owned(),
            via_root: false,
            all_tables: false,
            insert: true,
            update: true,
            delete: true,
            truncate: true,
            tables: oids.iter().map(published).collect(),
        }
    }

    fn missing(published: &[u32], chosen: &[u32]) -> Vec<u32> {
        let all = tree();
        let chosen: Vec<&Candidate> = all.iter().filter(|table| chosen.contains(&table.oid)).collect();
        lacking(&publishing(published), &all, &chosen).iter().map(|table| table.oid).collect()
    }

    #[test]
    fn a_table_is_held_by_name_from_above_or_by_all_its_leaves() {
        assert_eq!(missing(&[1, 5], &[1, 2, 3, 4, 5]), [0_u32; 0]);
        assert!(missing(&[2, 4], &[1]).is_empty());
        assert_eq!(missing(&[2], &[1]), [1]);
        assert!(missing(&[1], &[4]).is_empty());
        assert_eq!(missing(&[2], &[4]), [4]);
        assert_eq!(missing(&[1], &[5]), [5]);
        assert!(missing(&[4], &[3]).is_empty());
    }

    #[test]
    fn all_tables_lack_nothing() {
        let all = tree();
        let publication = Publication { all_tables: true, ..publishing(&[]) };
        assert!(lacking(&publication, &all, &all.iter().collect::<Vec<_>>()).is_empty());
    }

    #[test]
    fn a_partition_comes_with_its_root() {
        let all = tree();
        let sql = create_sql("wal\"ferry", &topmost(&all.iter().collect::<Vec<_>>()));
        assert_eq!(
            sql.as_str(),
            "CREATE PUBLICATION \"wal\"\"ferry\" FOR TABLE ONLY \"public\".\"orders\", ONLY \"public\".\"plain\" \
             WITH (publish_via_partition_root = true)"
        );
    }

    #[test]
    fn what_is_lacking_comes_with_the_statement_that_adds_it() {
        let all = tree();
        let Verdict::Halt { hint } = lacks("p", &[&all[4]], &[]).verdict() else {
            panic!("it does not pass by itself")
        };
        assert!(hint.contains("ALTER PUBLICATION \"p\" ADD TABLE ONLY \"public\".\"plain\";"), "{hint}");
    }

    #[test]
    fn a_table_without_identity_is_found_with_its_partitioned_tables() {
        let mut all = tree();
        let oids = |tables: Vec<&Candidate>| -> Vec<u32> { tables.iter().map(|table| table.oid).collect() };
        let found = |all: &[Candidate], chosen: &[usize]| {
            let chosen: Vec<&Candidate> = chosen.iter().map(|place| &all[*place]).collect();
            let faceless = faceless(all, &chosen);
            (oids(faceless.clone()), oids(family(all, &chosen, &faceless)))
        };
        assert_eq!(found(&all, &[0, 4]), (vec![], vec![]));
        (all[3].identifiable, all[4].identifiable) = (false, false);
        assert_eq!(found(&all, &[0]), (vec![4], vec![1, 2, 3, 4]), "the whole tree announces one identity");
        assert_eq!(found(&all, &[1, 4]), (vec![5], vec![5]), "y2024 has one");
        assert_eq!(found(&all, &[3]), (vec![4], vec![4]), "what is not published need not change");
    }

    #[test]
    fn an_identity_comes_before_what_publishes_the_table() {
        let mut all = tree();
        all[4].identifiable = false;
        let hint = |error: SourceError| match error.verdict() {
            Verdict::Halt { hint } => hint,
            Verdict::Retry => panic!("it does not pass by itself"),
        };
        let lacks = hint(lacks("p", &[&all[4]], &[&all[4]]));
        let alter = "ALTER TABLE \"public\".\"plain\" REPLICA IDENTITY FULL;";
        assert!(lacks.find(alter).unwrap() < lacks.find("ALTER PUBLICATION").unwrap(), "{lacks}");
        let refused = hint(without_identity("p", &[&all[4]], &[&all[4]]));
        assert!(refused.contains(alter) && refused.contains("\"!public.plain\""), "{refused}");
    }
}
