-- What a DBA runs on the source, as a role that may, so that walferry needs no superuser. Safe to run in parts; names
-- and password are examples. Run it in the database that is replicated.

-- Server settings (a restart is needed after a change):
--   wal_level = logical
--   max_replication_slots, max_wal_senders: at least one more than in use; during the initial copy and while a target
--   catches up walferry takes a few more.
-- Worth setting: max_slot_wal_keep_size, so that a daemon that is gone for days loses its slot and not your disk.

-- 1. A role of its own. REPLICATION lets it use and create slots.
--    (Managed servers: Amazon RDS grants rds_replication, Cloud SQL takes ALTER ROLE ... REPLICATION as here.)
CREATE ROLE walferry LOGIN REPLICATION PASSWORD 'choose one';

-- 2. It connects, to this database. (pg_hba.conf needs a line for the database's name: a logical replication connection
--    is one to a database; the keyword "replication" there means physical replication.)
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO walferry', current_database()); END $$;

-- 3. It reads what is copied, today's tables and those to come. The second statement holds for tables that the role
--    running it creates; name others with FOR ROLE.
GRANT USAGE ON SCHEMA public TO walferry;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO walferry;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO walferry;

-- 4. Tables with row level security: the copy must see every row, and refuses to run when it does not.
-- ALTER ROLE walferry BYPASSRLS;

-- 5. Tables without a primary key: once published, UPDATE and DELETE on them fail until they have an identity. So this
--    comes before the publication. The query lists the tables that need it.
SELECT format('ALTER TABLE %s REPLICA IDENTITY FULL;', c.oid::regclass) AS before_the_publication
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'walferry')
  AND CASE c.relreplident WHEN 'f' THEN false WHEN 'n' THEN true ELSE NOT EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END) END
ORDER BY 1;
-- ALTER TABLE public.events REPLICA IDENTITY FULL;

-- 6. What is published. FOR ALL TABLES takes a superuser; FOR TABLE takes the tables' owner with CREATE on the database.
--    publish_via_partition_root: partitioned tables arrive under their own name, whatever partitions come and go.
CREATE PUBLICATION walferry FOR ALL TABLES WITH (publish_via_partition_root = true);
-- CREATE PUBLICATION walferry FOR TABLE public.orders, public.customers WITH (publish_via_partition_root = true);
