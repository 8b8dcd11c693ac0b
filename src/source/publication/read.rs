//! Reading a publication: in goes its name, out come its tables with columns, filters, identity and leaves.

use std::collections::{HashMap, HashSet};

use super::{Leaf, Publication, PublishedColumn, PublishedTable, TableKind};
use crate::postgres::Client;
use crate::relation::{ReplicaIdentity, TableName};
use crate::source::SourceError;
use crate::source::answer::get;
use crate::sql::Sql;

/// A table that can be the identity's index: `RelationGetIndexList` in relcache.c, which passes over invalid, partial
/// and deferrable ones.
pub(super) const IDENTITY_INDEX: Sql = Sql::new(
    "i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND \
     CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END",
);

/// Whether the publication exists.
///
/// PostgreSQL 18 streams on without a publication that is missing and only warns in its own log, so whoever starts a
/// stream asks this first, and again from time to time while it runs.
pub async fn exists(client: &Client, name: &str) -> Result<bool, SourceError> {
    let sql = Sql::new("SELECT 1 FROM pg_publication WHERE pubname = $1::text");
    let row = client.query_opt(&sql, &[&name]).await.map_err(reading(name))?;
    Ok(row.is_some())
}

/// What the publication publishes; `None` when there is none of this name.
pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>, SourceError> {
    let sql = Sql::new(
        "SELECT pubviaroot, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication \
         WHERE pubname = $1::text",
    );
    let Some(row) = client.query_opt(&sql, &[&name]).await.map_err(reading(name))? else { return Ok(None) };
    let (update, delete) = (get(&row, "pubupdate")?, get(&row, "pubdelete")?);
    Ok(Some(Publication {
        name: name.to_owned(),
        via_root: get(&row, "pubviaroot")?,
        all_tables: get(&row, "puballtables")?,
        insert: get(&row, "pubinsert")?,
        update,
        delete,
        truncate: get(&row, "pubtruncate")?,
        tables: tables(client, name, update || delete).await?,
    }))
}

fn reading(name: &str) -> impl FnOnce(crate::postgres::PgError) -> SourceError {
    SourceError::during(format!("reading publication \"{name}\""))
}

async fn tables(client: &Client, publication: &str, old_rows: bool) -> Result<Vec<PublishedTable>, SourceError> {
    let rows =
        client.query(&tables_sql(client.server_version()), &[&publication]).await.map_err(reading(publication))?;
    let oids = rows.iter().map(|row| get::<u32>(row, "oid")).collect::<Result<Vec<_>, _>>()?;
    let mut columns = columns(client, publication, &oids).await?;
    let mut identities = identity_columns(client, publication, &oids).await?;
    let mut leaves = leaves(client, publication, &oids).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in &rows {
        let oid: u32 = get(row, "oid")?;
        let entries: Vec<u32> = get(row, "entries")?;
        if entries.is_empty() {
            // The view is newer than the rest of the statement: the table has come in just now, and is there next time.
            continue;
        }
        let listed: Option<Vec<String>> = get(row, "attnames")?;
        let (published, unsent) = published(columns.remove(&oid).unwrap_or_default(), listed, client.server_version());
        let found = leaves.remove(&oid).unwrap_or_default();
        let identity = replica_identity(&get::<String>(row, "relreplident")?)?;
        let full_leaf = |found: &FoundLeaf| found.identity == ReplicaIdentity::Full;
        tables.push(PublishedTable {
            name: TableName::new(get::<String>(row, "nspname")?, get::<String>(row, "relname")?),
            oid,
            entries,
            kind: if get(row, "partitioned")? { TableKind::Partitioned } else { TableKind::Plain },
            columns: published,
            unsent,
            row_filter: get::<Option<String>>(row, "rowfilter")?.map(Sql::from_catalog),
            identity,
            identity_columns: identities.remove(&oid).unwrap_or_default(),
            identifiable: found.iter().all(|found| found.identifiable),
            falsely_full: old_rows && identity == ReplicaIdentity::Full && !found.iter().all(full_leaf),
            bytes: found.iter().map(|found| found.leaf.bytes).sum(),
            leaves: found.into_iter().map(|found| found.leaf).collect(),
        });
    }
    Ok(tables)
}

/// FOR TABLES IN SCHEMA came with 15.
const BY_SCHEMA: Sql = Sql::new(
    "UNION SELECT s.oid FROM pg_publication_namespace s \
     WHERE s.pnpubid = o.oid AND (s.pnnspid = c.relnamespace OR s.pnnspid IN \
         (SELECT above.relnamespace FROM pg_partition_ancestors(c.oid) a JOIN pg_class above ON above.oid = a.relid)) ",
);

/// Without walferry's own tables, which a source has that is a target as well: they speak of that server, and every
/// target has its own.
fn tables_sql(server_version: u32) -> Sql {
    let (lists, schemas) = if server_version >= 150_000 {
        (Sql::new("p.attnames, p.rowfilter"), BY_SCHEMA)
    } else {
        (Sql::new("NULL::name[] AS attnames, NULL::text AS rowfilter"), Sql::new(""))
    };
    Sql::format(
        "SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' AS partitioned, c.relreplident::text AS relreplident, \
         ARRAY(SELECT r.oid FROM pg_publication_rel r \
               WHERE r.prpubid = o.oid AND (r.prrelid = c.oid OR r.prrelid IN \
                   (SELECT a.relid FROM pg_partition_ancestors(c.oid) a)) \
               {}UNION SELECT o.oid WHERE o.puballtables ORDER BY 1) AS entries, {} \
         FROM pg_publication_tables p JOIN pg_publication o ON o.pubname = p.pubname \
         JOIN pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         WHERE p.pubname = $1::text AND n.nspname <> 'walferry' ORDER BY n.nspname, c.relname",
        &[&schemas, &lists],
    )
}

/// Of a table's columns those that pgoutput of this version sends, and the names of generated ones that it does not.
fn published(
    columns: Vec<PublishedColumn>,
    listed: Option<Vec<String>>,
    server_version: u32,
) -> (Vec<PublishedColumn>, Vec<String>) {
    let trusts_list = server_version >= 180_000;
    // 18 lists every published column (never a virtual one, which has no value in a row), so without a list there is
    // none; before, no list means every column.
    let listed: Option<HashSet<String>> = match listed {
        None if trusts_list => Some(HashSet::new()),
        listed => listed.map(HashSet::from_iter),
    };
    let is_sent = |column: &PublishedColumn| {
        let in_list = listed.as_ref().is_none_or(|listed| listed.contains(&column.name));
        in_list && (trusts_list || !column.generated)
    };
    let (sent, left_out): (Vec<_>, Vec<_>) = columns.into_iter().partition(is_sent);
    let unsent = left_out.into_iter().filter(|column| column.generated).map(|column| column.name).collect();
    (sent, unsent)
}

async fn columns(
    client: &Client,
    publication: &str,
    oids: &[u32],
) -> Result<HashMap<u32, Vec<PublishedColumn>>, SourceError> {
    let sql = Sql::new(
        "SELECT attrelid, attname, atttypid, atttypmod, attnotnull, attgenerated <> '' AS generated, \
         format_type(atttypid, atttypmod) AS type_name FROM pg_attribute \
         WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped \
         ORDER BY attrelid, attnum",
    );
    let mut found: HashMap<u32, Vec<PublishedColumn>> = HashMap::new();
    for row in &client.query(&sql, &[&oids]).await.map_err(reading(publication))? {
        found.entry(get(row, "attrelid")?).or_default().push(PublishedColumn {
            name: get(row, "attname")?,
            type_oid: get(row, "atttypid")?,
            type_name: get(row, "type_name")?,
            type_modifier: get(row, "atttypmod")?,
            not_null: get(row, "attnotnull")?,
            generated: get(row, "generated")?,
        });
    }
    Ok(found)
}

async fn identity_columns(
    client: &Client,
    publication: &str,
    oids: &[u32],
) -> Result<HashMap<u32, Vec<String>>, SourceError> {
    let sql = Sql::format(
        "SELECT i.indrelid, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = ANY ($1::oid[]) AND k.place <= i.indnkeyatts AND {} ORDER BY i.indrelid, k.place",
        &[&IDENTITY_INDEX],
    );
    let mut found: HashMap<u32, Vec<String>> = HashMap::new();
    for row in &client.query(&sql, &[&oids]).await.map_err(reading(publication))? {
        found.entry(get(row, "indrelid")?).or_default().push(get(row, "attname")?);
    }
    Ok(found)
}

/// Where rows lie, and how changes of them are logged.
struct FoundLeaf {
    leaf: Leaf,
    identity: ReplicaIdentity,
    /// Whether the identity tells its rows apart.
    identifiable: bool,
}

/// Per published table where its rows lie.
async fn leaves(client: &Client, publication: &str, oids: &[u32]) -> Result<HashMap<u32, Vec<FoundLeaf>>, SourceError> {
    let sql = Sql::format(
        "SELECT t.top, c.oid, n.nspname, c.relname, coalesce(pg_relation_size(c.oid), 0) AS bytes, \
         c.relreplident::text AS relreplident, \
         CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false \
         ELSE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND {}) END AS identifiable \
         FROM (SELECT oid AS top, oid AS leaf FROM pg_class WHERE oid = ANY ($1::oid[]) AND relkind = 'r' \
               UNION ALL \
               SELECT r.oid, p.relid::oid FROM pg_class r CROSS JOIN LATERAL pg_partition_tree(r.oid) p \
               WHERE r.oid = ANY ($1::oid[]) AND r.relkind = 'p' AND p.isleaf) t \
         JOIN pg_class c ON c.oid = t.leaf JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' ORDER BY t.top, n.nspname, c.relname",
        &[&IDENTITY_INDEX],
    );
    let mut found: HashMap<u32, Vec<FoundLeaf>> = HashMap::new();
    for row in &client.query(&sql, &[&oids]).await.map_err(reading(publication))? {
        let leaf = Leaf {
            oid: get(row, "oid")?,
            name: TableName::new(get::<String>(row, "nspname")?, get::<String>(row, "relname")?),
            bytes: get::<i64>(row, "bytes")?.unsigned_abs(),
        };
        let identity = replica_identity(&get::<String>(row, "relreplident")?)?;
        let leaf = FoundLeaf { leaf, identity, identifiable: get(row, "identifiable")? };
        found.entry(get(row, "top")?).or_default().push(leaf);
    }
    Ok(found)
}

fn replica_identity(letter: &str) -> Result<ReplicaIdentity, SourceError> {
    Ok(match letter {
        "d" => ReplicaIdentity::Default,
        "n" => ReplicaIdentity::Nothing,
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index,
        other => return Err(SourceError::Answer(format!("replica identity '{other}'"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listed: Option<&[&str]>, server_version: u32) -> Vec<String> {
        let column = |name: &str, generated| PublishedColumn {
            name: name.to_owned(),
            type_oid: 23,
            type_name: "integer".to_owned(),
            type_modifier: -1,
            not_null: false,
            generated,
        };
        let listed = listed.map(|names| names.iter().map(ToString::to_string).collect());
        let columns = vec![column("a", false), column("b", false), column("g", true)];
        published(columns, listed, server_version).0.into_iter().map(|column| column.name).collect()
    }

    #[test]
    fn before_18_generated_columns_are_not_sent_even_when_listed() {
        assert_eq!(names(None, 140_000), ["a", "b"]);
        assert_eq!(names(None, 150_000), ["a", "b"]);
        assert_eq!(names(Some(&["a", "b", "g"]), 160_000), ["a", "b"]);
        assert_eq!(names(Some(&["b"]), 170_000), ["b"]);
    }

    #[test]
    fn from_18_on_the_list_says_everything() {
        assert_eq!(names(Some(&["a", "g"]), 180_000), ["a", "g"]);
        assert_eq!(names(None, 180_000), Vec::<String>::new());
    }

    #[test]
    fn version_14_is_not_asked_for_what_it_does_not_know() {
        assert!(!tables_sql(140_010).as_str().contains("p.attnames"));
        assert!(!tables_sql(140_010).as_str().contains("pg_publication_namespace"));
        assert!(tables_sql(150_000).as_str().contains("p.attnames, p.rowfilter"));
    }
}
