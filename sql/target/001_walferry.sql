-- walferry's own tables on a target: where each stream stands, and how far each table's initial copy is.
-- Applied by walferry itself in one transaction, in the schema of 000_schema.sql; safe to read at any time.

CREATE TABLE walferry.migration (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row per stream, and one per lane of tables that are brought in beside it. The row moves in the same transaction
-- as the data, by compare-and-set on end_lsn, and only for whoever has claimed it last.
--
-- It has no key on purpose: there is a new version of a row with every commit, and none goes while a transaction here may
-- still see it. To enter one more into a unique index, all versions in it of the same name have to be looked at. That
-- there is one row of a name is seen to where rows are added. Replica identity: for who publishes all tables from here.
CREATE TABLE walferry.progress (
    stream            text NOT NULL,
    system_identifier text NOT NULL,        -- of the source, from IDENTIFY_SYSTEM
    timeline          bigint NOT NULL,      -- of the source when the row was last moved
    database          text NOT NULL,        -- source database
    slot              text NOT NULL,        -- source slot
    end_lsn           pg_lsn,               -- end of the last source commit applied; NULL: registered, nothing copied yet
    publication       text,                 -- on the source, through which the stream is followed
    commit_lsn        pg_lsn,               -- start of the commit record of the last source transaction applied, and
    commit_time       timestamptz,          -- its time, by the source's clock: by both it is recognised in the WAL
    paused_at         timestamptz,          -- set: an operator has paused the target, and nothing is applied to it
    lane_of           text,                 -- set: the row is of some tables only, on their way into this stream
    epoch             bigint NOT NULL DEFAULT 1,  -- how often it was claimed: sessions of earlier claims move it no more
    updated_at        timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE walferry.progress REPLICA IDENTITY FULL;

-- One row per table that has been, or is being, copied.
CREATE TABLE walferry.table_state (
    stream      text NOT NULL,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    state       text NOT NULL CHECK (state IN ('copying', 'catching up', 'done', 'paused', 'quarantined')),
    copier      text NOT NULL,              -- the daemon run that copies; another run takes over by changing it
    copy_lsn    pg_lsn NOT NULL,            -- of the copy's snapshot: changes that commit from here on are applied
    rows_copied bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    origin      text,                       -- what was copied: OID, entries in the publication, publication
    error       text,                       -- why it is quarantined
    PRIMARY KEY (stream, schema_name, table_name)
);

-- One row per change of one row that this database refused and that apply.on_error = "dead_letter" set aside, written in
-- the transaction that holds the rest of what the source committed. Looked at, applied and dropped by
-- `walferry dead-letter`. The images are JSON objects by column: a text, as the type's output function gives it; null;
-- {"unchanged": true}: a TOASTed value that an UPDATE did not touch and the source did not send; {"hex": "00ff"}: bytes that
-- are no text here, with "type", the OID of a built-in type, where they are that type's binary form.
CREATE TABLE walferry.dead_letter (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- in the order of the source's changes
    stream         text NOT NULL,
    schema_name    text NOT NULL,
    table_name     text NOT NULL,
    operation      text NOT NULL CHECK (operation IN ('insert', 'update', 'delete')),
    key            text,                    -- JSON: the columns that name the row, as it was; NULL: it has no key
    new_key        text,                    -- the same as it was to be, where that differs
    old            json,                    -- the row as it was: what the source sent of it
    old_is_full    boolean NOT NULL,        -- whether that is all of it (REPLICA IDENTITY FULL)
    new            json,                    -- the row as it was to be
    sqlstate       text,                    -- NULL: nothing was refused, the row was not there
    error          text NOT NULL,           -- as it may be logged: without values
    found          text,                    -- the versions of the rows of this key that were here; NULL: there were none
    commit_lsn     pg_lsn,                  -- of the source's transaction, as in walferry.progress
    end_lsn        pg_lsn,
    commit_time    timestamptz,
    superseded_lsn pg_lsn,                  -- set: a later change has made it pointless, and it is not to be applied
    failed_at      timestamptz NOT NULL DEFAULT now(),
    retries        integer NOT NULL DEFAULT 0
);
-- A key may be longer than a B-tree takes.
CREATE INDEX dead_letter_key ON walferry.dead_letter USING hash (key);
CREATE INDEX dead_letter_new_key ON walferry.dead_letter USING hash (new_key);
CREATE INDEX dead_letter_unfinished ON walferry.dead_letter (stream) WHERE end_lsn IS NULL;
