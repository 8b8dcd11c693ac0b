-- What a DBA runs on a target, as a role that may (the tables' owner, where it is no superuser), once the tables are
-- there; in the database that follows. With psql, all of it or nothing:
--
--   psql -X -1 -v ON_ERROR_STOP=1 -v password='choose one' -f role.sql "host=… dbname=… user=…"
--
--   -v schema=sales     where the tables are; otherwise public. For more schemas, repeat step 3.
--
-- Elsewhere than in psql, put these in by hand.
\if :{?schema} \else \set schema public
\endif

-- 1. A role of its own; one that is there already is left as it is.
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walferry') AS missing \gset
\if :missing
CREATE ROLE walferry LOGIN PASSWORD :'password';
\endif

-- 2. It connects to this database, and makes the schema walferry there, for its own tables. (Where it must not have
--    CREATE: GRANT CONNECT only, and CREATE SCHEMA walferry AUTHORIZATION walferry.)
DO $$ BEGIN EXECUTE format('GRANT CONNECT, CREATE ON DATABASE %I TO walferry', current_database()); END $$;

-- 3. It writes the tables, today's and those to come. The last statement holds for tables that the role running it
--    creates; name others with FOR ROLE.
GRANT USAGE ON SCHEMA :"schema" TO walferry;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA :"schema" TO walferry;
ALTER DEFAULT PRIVILEGES IN SCHEMA :"schema" GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO walferry;

-- 4. Where it may be granted (PostgreSQL 15 and newer, by a superuser): triggers and foreign keys do not fire again for
--    what is replicated. Without it they do, and `walferry check` names those that matter.
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'GRANT SET ON PARAMETER session_replication_role TO walferry';
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'not granted: %', SQLERRM;
END $$;
