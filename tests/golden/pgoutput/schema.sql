-- The tables of the golden captures: each replica identity, user types, a partitioned table, odd names.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10, 2), mood mood, n positive,
                    twice int GENERATED ALWAYS AS (id * 2) STORED, big text);
ALTER TABLE items ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE whole (a int, b text);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE by_index (a int NOT NULL, b text NOT NULL, c bytea);
CREATE UNIQUE INDEX by_index_b ON by_index (b);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b;
CREATE TABLE no_identity (a timestamptz);
ALTER TABLE no_identity REPLICA IDENTITY NOTHING;
CREATE TABLE no_columns ();
CREATE SCHEMA "Größe.x";
CREATE TABLE "Größe.x"."Say ""hi""" ("Key" bigint PRIMARY KEY);
CREATE TABLE measured (day date, v int, PRIMARY KEY (day)) PARTITION BY RANGE (day);
CREATE TABLE measured_2024 (v int, day date NOT NULL);
ALTER TABLE measured ATTACH PARTITION measured_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE bulk (filler text);
CREATE PUBLICATION golden FOR TABLE items, whole, by_index, no_columns, "Größe.x"."Say ""hi""", measured
    WITH (publish_via_partition_root = true);
CREATE PUBLICATION unused FOR TABLE bulk;
ALTER PUBLICATION golden ADD TABLE no_identity;
