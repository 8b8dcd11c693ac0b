-- One large transaction of small rows, as from a nightly load.

CREATE TABLE narrow (id bigint PRIMARY KEY, value int NOT NULL);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$ BEGIN END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO narrow SELECT i, i % 1000 FROM generate_series((round - 1) * size + 1, round * size) i;
END $$;
