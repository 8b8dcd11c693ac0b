-- walferry's own tables on a target: where each stream stands, and how far each table's initial copy is.
-- Applied by walferry itself in one transaction, in the schema of 000_schema.sql; safe to read at any time.

CREATE TABLE walferry.migration (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row per stream, and one per lane of tables that are brought in beside it. The row moves in the same transaction
-- as the data, by compare-and-set on end_lsn.
CREATE TABLE walferry.progress (
    stream            text PRIMARY KEY,
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
    updated_at        timestamptz NOT NULL DEFAULT now()
);

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
