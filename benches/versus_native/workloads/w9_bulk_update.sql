-- One large transaction that updates every row of a table, as a migration does.

CREATE TABLE ledger (id int PRIMARY KEY, balance bigint NOT NULL, note text NOT NULL);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger SELECT i, 0, 'account ' || i FROM generate_series(1, size) i;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger SET balance = balance + id;
END $$;
