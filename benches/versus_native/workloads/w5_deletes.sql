-- Deletes of single rows by key, ten in a transaction, in no order. Each round has rows of its own to delete.

CREATE TABLE doomed (id bigint PRIMARY KEY, body text NOT NULL, at timestamptz NOT NULL);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO doomed
    SELECT i, 'row ' || i || ' will be deleted', '2024-01-01'::timestamptz + i * interval '1 second'
    FROM generate_series(1, size * rounds) i;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. size LOOP
        -- The prime divides no size, so that every row has its turn once.
        DELETE FROM doomed WHERE id = (round - 1) * size + 1 + i * 7919::bigint % size;
        ASSERT FOUND, 'every row is there once';
        IF i % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
