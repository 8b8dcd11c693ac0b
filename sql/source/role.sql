-- What a DBA runs on the source, as a role that may, so that walferry needs no superuser; in the database that is
-- replicated. With psql, all of it or nothing:
--
--   psql -X -1 -v ON_ERROR_STOP=1 -v password='choose one' -f role.sql "host=… dbname=… user=…"
--
--   -v schema=sales                     where the tables are; otherwise public. For more schemas, repeat step 3.
--   -v publish='TABLE sales.orders'     what is published; otherwise ALL TABLES, which takes a superuser. TABLE takes
--                                       the tables' owner with CREATE on the database.
--
-- Elsewhere than in psql, put these in by hand. It is safe to run in parts.
\if :{?schema} \else \set schema public
\endif
\if :{?publish} \else \set publish 'ALL TABLES'
\endif

-- Server settings (a restart is needed after a change):
--   wal_level = logical
--   max_replication_slots, max_wal_senders: at least one more than in use; during the initial copy and while a target
--   catches up walferry takes a few more.
-- Worth setting: max_slot_wal_keep_size, so that a daemon that is gone for days loses its slot and not your disk.

-- 1. A role of its own. REPLICATION lets it use and create slots. Managed servers have their own ways to such a role,
--    which the README's chapter about them names: one that is there already is left as it is.
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walferry') AS missing \gset
\if :missing
CREATE ROLE walferry LOGIN REPLICATION PASSWORD :'password';
\endif

-- 2. It connects, to this database. (pg_hba.conf needs a line for the database's name: a logical replication connection
--    is one to a database; the keyword "replication" there means physical replication.)
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO walferry', current_database()); END $$;

-- 3. It reads what is copied, today's tables and those to come. The last statement holds for tables that the role
--    running it creates; name others with FOR ROLE.
GRANT USAGE ON SCHEMA :"schema" TO walferry;
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO walferry;
ALTER DEFAULT PRIVILEGES IN SCHEMA :"schema" GRANT SELECT ON TABLES TO walferry;

-- 4. Tables with row level security: the copy must see every row, and refuses to run when it does not.
-- ALTER ROLE walferry BYPASSRLS;

-- 5. What is published. publish_via_partition_root: partitioned tables arrive under their own name, whatever partitions
--    come and go.
CREATE PUBLICATION walferry FOR :publish WITH (publish_via_partition_root = true);

-- 6. Tables without a primary key: once published, UPDATE and DELETE on them fail until they have an identity. So this
--    ends with an error that lists them, before anything is committed: run what it says, and then this file again.
DO $$
DECLARE
    statements text;
BEGIN
    SELECT string_agg(format('ALTER TABLE %s REPLICA IDENTITY FULL;', c.oid::regclass), E'\n'
                      ORDER BY c.oid::regclass::text)
    INTO statements
    FROM pg_publication_tables p
    CROSS JOIN LATERAL (SELECT format('%I.%I', p.schemaname, p.tablename)::regclass AS published) t
    JOIN pg_class c ON c.oid = published OR c.oid IN (SELECT relid FROM pg_partition_tree(published))
    WHERE p.pubname = 'walferry' AND c.relkind = 'r'
      AND CASE c.relreplident WHEN 'f' THEN false WHEN 'n' THEN true ELSE NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END) END;
    IF statements IS NOT NULL THEN
        RAISE EXCEPTION E'published tables have no replica identity; give them a primary key, or run:\n%', statements;
    END IF;
END $$;
