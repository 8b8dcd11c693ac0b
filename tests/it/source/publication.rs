//! Publications: taken as they are, in every variant and version; created when the role may, else the SQL is printed.

use walferry::error::{Judged, Verdict};
use walferry::relation::{ReplicaIdentity, TableName};
use walferry::source::SourceError;
use walferry::source::publication::{
    Gap, Publication, PublishedTable, TableKind, ensure, exists, has_stayed, read, without_identity,
};
use walferry::sql::Sql;

use super::*;

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE TABLE plain (id int PRIMARY KEY, note varchar(9), mood mood NOT NULL, g int GENERATED ALWAYS AS (id) STORED);
    CREATE TABLE keyless (a int);
    CREATE TABLE full_identity (a int);
    ALTER TABLE full_identity REPLICA IDENTITY FULL;
    CREATE TABLE indexed (a int, b int NOT NULL, c int NOT NULL);
    CREATE UNIQUE INDEX by_cb ON indexed (c, b) INCLUDE (a);
    ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_cb;
    CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
    CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
    CREATE TABLE parted_2a PARTITION OF parted_2 FOR VALUES FROM (10) TO (15);
    CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
    CREATE SCHEMA walferry CREATE TABLE own (id int);
    INSERT INTO parted SELECT generate_series(0, 14);";

async fn database(cluster: &Cluster, more: &str) -> String {
    let db = cluster.create_database().await;
    cluster.execute(&db.name, &format!("{TABLES}{more}")).await;
    db.url
}

fn names(publication: &Publication) -> Vec<&str> {
    publication.tables.iter().map(|table| table.name.name.as_str()).collect()
}

fn table<'a>(publication: &'a Publication, name: &str) -> &'a PublishedTable {
    publication.tables.iter().find(|table| table.name.name == name).unwrap()
}

fn columns(table: &PublishedTable) -> Vec<&str> {
    table.columns.iter().map(|column| column.name.as_str()).collect()
}

/// Whatever makes a publication hold a table, it is another thing once it was dropped and made again.
#[tokio::test]
async fn what_holds_a_table_tells_whether_it_was_taken_out() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let client = client(&database(&cluster, "").await).await;
        let mut ways = vec![
            ("FOR ALL TABLES", "SELECT", "DROP PUBLICATION p; CREATE PUBLICATION p FOR ALL TABLES"),
            (
                "FOR TABLE public.parted, public.plain",
                "SELECT",
                "ALTER PUBLICATION p DROP TABLE public.parted; ALTER PUBLICATION p ADD TABLE public.parted",
            ),
        ];
        if major >= 15 {
            ways.push((
                "FOR TABLES IN SCHEMA public",
                "ALTER PUBLICATION p ADD TABLE public.parted",
                "ALTER PUBLICATION p DROP TABLES IN SCHEMA public, TABLE public.parted;
                 ALTER PUBLICATION p ADD TABLES IN SCHEMA public",
            ));
        }
        for (made, added, again) in ways {
            let look = async |sql: &str| {
                client.batch(&Sql::from_catalog(sql.to_owned())).await.unwrap();
                table(&read(&client, "p").await.unwrap().unwrap(), "parted_1").origin("p")
            };
            let first = look(&format!("CREATE PUBLICATION p {made}")).await;
            let second = look(added).await;
            assert_eq!(has_stayed(&first, &second), Ok(()), "{made}: {first}, {second}");
            let third = look(again).await;
            assert_eq!(has_stayed(&second, &third), Err(Gap::TakenOut), "{made}: {second}, {third}");
            client.batch(&Sql::new("DROP PUBLICATION p")).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_publication_of_all_tables_is_read_by_leaves_and_by_root() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let more = "CREATE PUBLICATION leaves FOR ALL TABLES WITH (publish = 'insert, delete');
            CREATE PUBLICATION root FOR ALL TABLES WITH (publish_via_partition_root = true);";
        let client = client(&database(&cluster, more).await).await;
        assert!(exists(&client, "root").await.unwrap() && !exists(&client, "none").await.unwrap());
        assert_eq!(read(&client, "none").await.unwrap(), None);

        let leaves = read(&client, "leaves").await.unwrap().unwrap();
        assert_eq!((leaves.insert, leaves.update, leaves.delete, leaves.truncate), (true, false, true, false));
        assert!(leaves.all_tables && !leaves.via_root);
        let expected = ["deferred", "full_identity", "indexed", "keyless", "parted_1", "parted_2a", "plain"];
        assert_eq!(names(&leaves), expected);

        let root = read(&client, "root").await.unwrap().unwrap();
        let parted = table(&root, "parted");
        assert_eq!((parted.kind, parted.identifiable), (TableKind::Partitioned, true));
        let found: Vec<&str> = parted.leaves.iter().map(|leaf| leaf.name.name.as_str()).collect();
        assert_eq!(found, ["parted_1", "parted_2a"]);
        assert_eq!(parted.bytes, parted.leaves.iter().map(|leaf| leaf.bytes).sum::<u64>());
        assert!(parted.bytes >= 2 * 8192);

        let plain = table(&root, "plain");
        assert_eq!(columns(plain), ["id", "note", "mood"]);
        let types: Vec<&str> = plain.columns.iter().map(|column| column.type_name.as_str()).collect();
        assert_eq!(types, ["integer", "character varying(9)", "public.mood"]);
        assert!(plain.columns[2].not_null && !plain.columns[1].not_null);
        assert_eq!((plain.leaves.len(), plain.leaves[0].oid), (1, plain.oid));
    })
    .await;
}

#[tokio::test]
async fn the_replica_identity_is_the_servers() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let client = client(&database(&cluster, "CREATE PUBLICATION p FOR ALL TABLES;").await).await;
        let publication = read(&client, "p").await.unwrap().unwrap();
        let identity = |name| (table(&publication, name).identity, table(&publication, name).identity_columns.clone());
        assert_eq!(identity("plain"), (ReplicaIdentity::Default, vec!["id".to_owned()]));
        assert_eq!(identity("indexed"), (ReplicaIdentity::Index, vec!["c".to_owned(), "b".to_owned()]));
        assert_eq!(identity("full_identity"), (ReplicaIdentity::Full, vec![]));
        assert_eq!(identity("keyless"), (ReplicaIdentity::Default, vec![]));
        let without: Vec<&str> = without_identity(&publication).iter().map(|table| table.name.name.as_str()).collect();
        assert_eq!(without, ["deferred", "keyless"]);
        // As the server has it.
        for (table, works) in [("keyless", false), ("deferred", false), ("full_identity", true), ("indexed", true)] {
            let sql = walferry::sql::Sql::format("DELETE FROM public.{}", &[&walferry::sql::Sql::ident(table)]);
            assert_eq!(client.batch(&sql).await.is_ok(), works, "{table}");
        }
    })
    .await;
}

#[tokio::test]
async fn filters_lists_and_generated_columns_are_read_where_the_version_has_them() {
    for_each_major(async |major| {
        if major < 15 {
            return eprintln!("SKIPPED: PostgreSQL {major} publishes neither filters nor column lists");
        }
        let cluster = Cluster::start(major).await;
        let mut more = "CREATE PUBLICATION p FOR TABLE plain (id, mood) WHERE (note = 'glad'), keyless;
            CREATE PUBLICATION s FOR TABLES IN SCHEMA public;"
            .to_owned();
        if major >= 18 {
            more += "ALTER TABLE plain ADD v int GENERATED ALWAYS AS (id) VIRTUAL;
                CREATE PUBLICATION g FOR TABLE plain WITH (publish_generated_columns = stored);
                CREATE PUBLICATION l FOR TABLE plain (id, g);";
        }
        let client = client(&database(&cluster, &more).await).await;
        let publication = read(&client, "p").await.unwrap().unwrap();
        let plain = table(&publication, "plain");
        assert_eq!(columns(plain), ["id", "mood"]);
        assert_eq!(plain.row_filter.as_ref().unwrap().as_str(), "((note)::text = 'glad'::text)");
        assert_eq!(table(&publication, "keyless").row_filter, None);
        let schema = read(&client, "s").await.unwrap().unwrap();
        assert!(names(&schema).contains(&"plain") && !names(&schema).contains(&"own"));
        assert_eq!(columns(table(&schema, "plain")), ["id", "note", "mood"]);
        if major >= 18 {
            let generated = read(&client, "g").await.unwrap().unwrap();
            assert_eq!(columns(&generated.tables[0]), ["id", "note", "mood", "g"]);
            assert!(generated.tables[0].columns[3].generated);
            let listed = read(&client, "l").await.unwrap().unwrap();
            assert_eq!(columns(&listed.tables[0]), ["id", "g"]);
        }
    })
    .await;
}

fn hint(error: &SourceError) -> String {
    match error.verdict() {
        Verdict::Halt { hint } => hint,
        Verdict::Retry => panic!("{error} does not pass by itself"),
    }
}

#[tokio::test]
async fn a_missing_publication_is_created_for_the_chosen_tables_and_not_touched_again() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let more = "CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
            CREATE TABLE tree (id int) PARTITION BY RANGE (id);
            CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (10);
            CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (10) TO (20);
            ALTER TABLE tree_2 ADD PRIMARY KEY (id);";
        let url = database(&cluster, more).await;
        let client = client(&url).await;
        let all = |_: &TableName| true;
        // Published, these would break UPDATE and DELETE of whoever uses them.
        let error = ensure(&client, "wal\"ferry", Some(&all)).await.unwrap_err();
        let told = error.to_string();
        assert!(told.contains("public.deferred, public.keyless, public.nothing, public.tree_1"), "{told}");
        assert!(!exists(&client, "wal\"ferry").await.unwrap());
        let advice = hint(&error);
        let (_, statements) = advice.split_once("run on the source: ").unwrap();
        let (statements, _) = statements.split_once(" Or ").unwrap();
        for table in ["tree", "tree_1", "tree_2"] {
            assert!(
                statements.contains(&format!("ALTER TABLE \"public\".\"{table}\" REPLICA IDENTITY FULL;")),
                "{advice}"
            );
        }
        // Left out or given an identity, they are no obstacle.
        let others = |table: &TableName| !["deferred", "keyless", "nothing"].contains(&table.name.as_str());
        let kept = |table: &TableName| others(table) && !table.name.starts_with("tree");
        ensure(&client, "without", Some(&kept)).await.unwrap();
        cluster.execute(url.rsplit('/').next().unwrap(), statements).await;
        let created = ensure(&client, "wal\"ferry", Some(&all)).await.unwrap();
        assert!(created.via_root && !created.all_tables);
        // Neither the unlogged table nor walferry's own.
        let expected = ["deferred", "full_identity", "indexed", "keyless", "nothing", "parted", "plain", "tree"];
        assert_eq!(names(&created), expected);
        assert_eq!(without_identity(&created), Vec::<&PublishedTable>::new());
        assert!(created.tables.iter().all(|table| !table.falsely_full));
        client.batch(&walferry::sql::Sql::new("CREATE TABLE public.later (id int PRIMARY KEY)")).await.unwrap();
        let error = ensure(&client, "wal\"ferry", Some(&all)).await.unwrap_err();
        let expected = "ALTER PUBLICATION \"wal\"\"ferry\" ADD TABLE ONLY \"public\".\"later\";";
        assert!(hint(&error).contains(expected), "{}", hint(&error));
        let not_later = |table: &TableName| table.name != "later";
        assert_eq!(ensure(&client, "wal\"ferry", Some(&not_later)).await.unwrap(), created);
        assert_eq!(ensure(&client, "wal\"ferry", None).await.unwrap(), created);
    })
    .await;
}

#[tokio::test]
async fn what_walferry_may_not_create_it_prints() {
    let cluster = Cluster::start(default_major()).await;
    let url = database(&cluster, "").await;
    let name = url.rsplit('/').next().unwrap();
    cluster.execute(name, "CREATE ROLE ferryman LOGIN").await;
    let client = client(&cluster.url_as("ferryman", name)).await;
    let plain = |table: &TableName| table.name == "plain";
    let error = ensure(&client, "p", Some(&plain)).await.unwrap_err();
    assert!(error.to_string().contains("no CREATE privilege"), "{error}");
    cluster.execute(name, &format!("GRANT CREATE ON DATABASE {name} TO ferryman")).await;
    let error = ensure(&client, "p", Some(&plain)).await.unwrap_err();
    assert!(error.to_string().contains("does not own public.plain"), "{error}");
    let printed = hint(&error).split_once(": ").unwrap().1.to_owned();
    let error = ensure(&client, "p", None).await.unwrap_err();
    assert!(hint(&error).contains("CREATE PUBLICATION \"p\" FOR ALL TABLES;"), "{}", hint(&error));
    let error = ensure(&client, "p", Some(&|_: &TableName| false)).await.unwrap_err();
    assert!(error.to_string().contains("no existing table matches"), "{error}");
    // What was printed does what it promises.
    cluster.execute(name, &printed).await;
    assert_eq!(names(&ensure(&client, "p", Some(&plain)).await.unwrap()), ["plain"]);
}
