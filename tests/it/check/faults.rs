//! Everything that is wrong with the broken pair: how each fault is made, and how the check calls it.

use super::fixture::Side::{self, Source, Target};

/// One fault.
pub struct Fault {
    /// Where it is made.
    pub on: Side,
    /// How, statement by statement; `{database}` is the database of that side.
    pub sql: &'static [&'static str],
    /// Which server the finding is about.
    pub about: Side,
    /// The finding's code.
    pub code: &'static str,
    /// The finding's object; `{database}` as above.
    pub object: &'static str,
    /// Whether statements mend it; else somebody has to act otherwise.
    pub by_sql: bool,
}

const fn fault(on: Side, sql: &'static [&'static str], code: &'static str, object: &'static str) -> Fault {
    Fault { on, sql, about: on, code, object, by_sql: true }
}

const fn words(fault: Fault) -> Fault {
    Fault { by_sql: false, ..fault }
}

const fn about_the_target(fault: Fault) -> Fault {
    Fault { about: Target, ..fault }
}

/// The tables of both sides while nothing is wrong yet.
pub const TABLES: &str = "
    CREATE SCHEMA shop; CREATE SCHEMA vault;
    CREATE EXTENSION hstore SCHEMA shop; CREATE EXTENSION citext SCHEMA shop;
    CREATE TYPE shop.mood AS ENUM ('good', 'bad');
    CREATE TYPE shop.kind AS ENUM ('one', 'two');
    CREATE TABLE vault.secret (id int PRIMARY KEY);
    CREATE TABLE shop.unread (id int PRIMARY KEY);
    CREATE TABLE shop.guarded (id int PRIMARY KEY);
    CREATE TABLE shop.guarded_too (id int PRIMARY KEY);
    CREATE TABLE shop.faceless (id int PRIMARY KEY, v text);
    CREATE TABLE shop.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE shop.parted_1 PARTITION OF shop.parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.spread (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE shop.spread_1 PARTITION OF shop.spread FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.spread_2 PARTITION OF shop.spread FOR VALUES FROM (10) TO (20);
    CREATE TABLE shop.sliced (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE shop.sliced_1 PARTITION OF shop.sliced FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.deep (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE shop.deep_1 PARTITION OF shop.deep FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
    CREATE TABLE shop.deep_1_1 PARTITION OF shop.deep_1 FOR VALUES FROM (0) TO (5);
    CREATE TABLE shop.deep_1_2 PARTITION OF shop.deep_1 FOR VALUES FROM (5) TO (10);
    CREATE TABLE shop.counted (id int PRIMARY KEY, n serial);
    CREATE TABLE shop.gone (id int PRIMARY KEY, v text);
    CREATE TABLE shop.narrow (id int PRIMARY KEY, v text);
    CREATE TABLE shop.strict (id int PRIMARY KEY);
    CREATE TABLE shop.nullable (id int PRIMARY KEY, v text);
    CREATE TABLE shop.typed (id int PRIMARY KEY, v int);
    CREATE TABLE shop.wide (id int PRIMARY KEY, v int);
    CREATE TABLE shop.sorted (id int PRIMARY KEY, v text);
    CREATE TABLE shop.more (id int PRIMARY KEY);
    CREATE TABLE shop.plain (id int PRIMARY KEY, v int);
    CREATE TABLE shop.computed (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id + 1) STORED);
    CREATE TABLE shop.reckoned (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id + 1) STORED);
    CREATE TABLE shop.numbered (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE shop.moods (id int PRIMARY KEY, v shop.mood);
    CREATE TABLE shop.kinds (id int PRIMARY KEY, v shop.kind);
    CREATE TABLE shop.pairs (id int PRIMARY KEY, v shop.hstore);
    CREATE TABLE shop.folded (id int PRIMARY KEY, v shop.citext);
    CREATE TABLE shop.unwritten (id int PRIMARY KEY);
    CREATE TABLE shop.fleeting (id int PRIMARY KEY);
    CREATE TABLE shop.triggered (id int PRIMARY KEY);
    CREATE TABLE shop.ruled (id int PRIMARY KEY);
    CREATE TABLE shop.occupied (id int PRIMARY KEY);
    CREATE TABLE shop.child (id int PRIMARY KEY, other int);
    CREATE TABLE shop.parent (id int PRIMARY KEY);
    CREATE TABLE shop.ring_a (id int PRIMARY KEY, b int);
    CREATE TABLE shop.ring_b (id int PRIMARY KEY, a int);
    CREATE TABLE shop.shared (id int PRIMARY KEY, v text);
    CREATE TABLE shop.checked (id int PRIMARY KEY, v int);
    CREATE TABLE shop.keyless (id int PRIMARY KEY, v text);";

/// All of them, made in this order.
pub const FAULTS: &[Fault] = &[
    // The source: settings, roles, publication.
    fault(Source, &["ALTER SYSTEM SET wal_level = 'replica'"], "wal-level", "wal_level"),
    fault(
        Source,
        &["SELECT pg_create_physical_replication_slot('other')", "ALTER SYSTEM SET max_replication_slots = 1"],
        "slots-taken",
        "max_replication_slots",
    ),
    fault(Source, &["ALTER SYSTEM SET max_wal_senders = 1"], "wal-senders-few", "max_wal_senders"),
    fault(Source, &["ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'"], "wal-keep-small", "max_slot_wal_keep_size"),
    fault(Source, &["ALTER SYSTEM SET wal_sender_timeout = '2s'"], "sender-timeout-short", "wal_sender_timeout"),
    fault(Source, &["ALTER ROLE reader NOREPLICATION"], "replication-refused", "role reader"),
    fault(Source, &["ALTER ROLE reader CONNECTION LIMIT 6"], "connections-few", "role reader"),
    words(fault(
        Source,
        &["BEGIN; INSERT INTO shop.shared VALUES (0); PREPARE TRANSACTION 'forgotten'"],
        "prepared-transactions",
        "pg_prepared_xacts",
    )),
    words(fault(
        Source,
        &[
            "ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock",
            "CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
             $$SELECT pg_catalog.true_clock() + interval '1 hour'$$",
        ],
        "clock-differs",
        "clock",
    )),
    fault(Source, &["REVOKE USAGE ON SCHEMA vault FROM reader"], "schema-closed", "vault.secret"),
    fault(Source, &["REVOKE SELECT ON shop.unread FROM reader"], "privilege-missing", "shop.unread"),
    fault(Source, &["ALTER TABLE shop.guarded ENABLE ROW LEVEL SECURITY"], "row-security", "shop.guarded"),
    fault(Source, &["CREATE UNLOGGED TABLE shop.scratch (id int PRIMARY KEY)"], "unlogged-source", "shop.scratch"),
    fault(Source, &["CREATE TABLE shop.late (id int PRIMARY KEY)"], "publication-wrong", "publication"),
    fault(
        Source,
        &["ALTER PUBLICATION walferry SET (publish = 'insert, update, delete')"],
        "operations-left-out",
        "publication walferry",
    ),
    fault(Source, &["ALTER TABLE shop.faceless REPLICA IDENTITY NOTHING"], "identity-missing", "shop.faceless"),
    fault(Source, &["ALTER TABLE shop.parted REPLICA IDENTITY FULL"], "identity-falsely-full", "shop.parted"),
    // The target: the server and the role.
    fault(
        Target,
        &["ALTER ROLE writer SET default_transaction_read_only = on"],
        "target-read-only",
        "default_transaction_read_only",
    ),
    fault(Target, &["REVOKE CREATE ON DATABASE {database} FROM writer"], "walferry-schema", "schema walferry"),
    fault(Target, &["ALTER DATABASE {database} CONNECTION LIMIT 6"], "connections-few", "database {database}"),
    fault(Target, &["SELECT pg_create_physical_replication_slot('idle', true)"], "slots-keep-wal", "replication slots"),
    words(fault(
        Target,
        &["ALTER SYSTEM SET archive_mode = 'on'", "ALTER SYSTEM SET archive_command = 'false'"],
        "archiver-fails",
        "archive_command",
    )),
    words(fault(
        Target,
        // LATIN1; what is in the catalogue is ASCII.
        &["UPDATE pg_database SET encoding = 8 WHERE datname = '{database}'"],
        "encoding-not-utf8",
        "server_encoding",
    )),
    // The target: tables, columns, types.
    fault(Target, &["DROP TABLE shop.gone"], "table-missing", "shop.gone"),
    fault(Target, &["ALTER TABLE shop.narrow DROP COLUMN v"], "column-missing", "shop.narrow"),
    fault(Target, &["ALTER TABLE shop.strict ADD COLUMN own int NOT NULL"], "column-required", "shop.strict"),
    fault(Target, &["ALTER TABLE shop.nullable ALTER v SET NOT NULL"], "column-not-null", "shop.nullable"),
    fault(Target, &["ALTER TABLE shop.typed ALTER v TYPE smallint"], "type-differs", "shop.typed"),
    fault(Target, &["ALTER TABLE shop.wide ALTER v TYPE bigint"], "type-wider", "shop.wide"),
    fault(Target, &["ALTER TABLE shop.sorted ALTER v TYPE text COLLATE \"C\""], "column-collation", "shop.sorted"),
    words(fault(Target, &["ALTER TABLE shop.more ADD COLUMN own int DEFAULT 1"], "column-extra", "shop.more")),
    fault(
        Target,
        &["ALTER TABLE shop.plain DROP COLUMN v, ADD COLUMN v int GENERATED ALWAYS AS (id + 1) STORED"],
        "column-generated",
        "shop.plain",
    ),
    fault(Target, &["ALTER TABLE shop.computed ALTER v DROP EXPRESSION"], "column-not-sent", "shop.computed"),
    fault(
        Target,
        &["ALTER TABLE shop.reckoned DROP COLUMN v, ADD COLUMN v int GENERATED ALWAYS AS (id + 2) STORED"],
        "expression-differs",
        "shop.reckoned",
    ),
    fault(Target, &["ALTER TABLE shop.numbered ALTER id DROP IDENTITY"], "identity-column", "shop.numbered"),
    fault(Target, &["DROP SEQUENCE shop.counted_n_seq CASCADE"], "default-missing", "shop.counted"),
    about_the_target(fault(
        Source,
        &["ALTER TYPE shop.mood ADD VALUE 'so so' AFTER 'good'"],
        "enum-labels",
        "type shop.mood",
    )),
    fault(Target, &["DROP TABLE shop.kinds", "DROP TYPE shop.kind"], "type-missing", "type shop.kind"),
    fault(Target, &["DROP EXTENSION hstore CASCADE"], "extension-missing", "extension hstore"),
    fault(
        Target,
        &[
            "DROP EXTENSION citext CASCADE",
            "CREATE EXTENSION citext SCHEMA shop VERSION '1.4'",
            "ALTER TABLE shop.folded ADD COLUMN v shop.citext",
        ],
        "extension-version",
        "extension citext",
    ),
    // The target: rights, and what is done to rows besides.
    fault(Target, &["REVOKE INSERT ON shop.unwritten FROM writer"], "privilege-missing", "shop.unwritten"),
    fault(Target, &["REVOKE USAGE ON SCHEMA vault FROM writer"], "schema-closed", "vault.secret"),
    fault(Target, &["ALTER TABLE shop.guarded_too ENABLE ROW LEVEL SECURITY"], "row-security", "shop.guarded_too"),
    fault(Target, &["ALTER TABLE shop.fleeting SET UNLOGGED"], "unlogged-target", "shop.fleeting"),
    fault(
        Target,
        &[
            "CREATE FUNCTION public.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER noted AFTER INSERT ON shop.triggered FOR EACH ROW EXECUTE FUNCTION public.noted()",
        ],
        "triggers-fire",
        "shop.triggered",
    ),
    fault(
        Target,
        &[
            "CREATE RULE keeps AS ON DELETE TO shop.ruled DO INSTEAD NOTHING",
            "ALTER TABLE shop.ruled ENABLE ALWAYS RULE keeps",
        ],
        "rules-apply",
        "shop.ruled",
    ),
    fault(Target, &["INSERT INTO shop.occupied VALUES (1)"], "rows-present", "shop.occupied"),
    // The target: constraints, indexes, partitions.
    fault(
        Target,
        &[
            "CREATE TABLE public.others (id int PRIMARY KEY)",
            "ALTER TABLE shop.child ADD FOREIGN KEY (other) REFERENCES public.others",
        ],
        "foreign-key-out",
        "shop.child",
    ),
    fault(Target, &["CREATE TABLE public.referring (id int REFERENCES shop.parent)"], "foreign-key-in", "shop.parent"),
    fault(
        Target,
        &[
            "ALTER TABLE shop.ring_a ADD FOREIGN KEY (b) REFERENCES shop.ring_b",
            "ALTER TABLE shop.ring_b ADD FOREIGN KEY (a) REFERENCES shop.ring_a",
        ],
        "foreign-key-circle",
        "shop.ring_a",
    ),
    fault(Target, &["CREATE UNIQUE INDEX ON shop.shared (v)"], "unique-extra", "shop.shared"),
    fault(Target, &["ALTER TABLE shop.checked ADD CHECK (v > 0)"], "constraint-extra", "shop.checked"),
    fault(Target, &["ALTER TABLE shop.keyless DROP CONSTRAINT keyless_pkey"], "key-unindexed", "shop.keyless"),
    fault(Target, &["DROP TABLE shop.deep_1_2"], "partition-missing", "shop.deep_1"),
    fault(Target, &["DROP TABLE shop.spread_2"], "partition-missing", "shop.spread"),
    fault(
        Target,
        &[
            "DROP TABLE shop.sliced_1",
            "CREATE TABLE shop.sliced_all PARTITION OF shop.sliced FOR VALUES FROM (0) TO (5)",
        ],
        "partition-missing",
        "shop.sliced",
    ),
];
