-- Each row in a transaction of its own, as from an application that logs events.

CREATE TABLE events (
    id      bigint PRIMARY KEY,
    account int NOT NULL,
    amount  numeric(12, 2) NOT NULL,
    note    text NOT NULL,
    at      timestamptz NOT NULL
);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$ BEGIN END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN (round - 1) * size + 1 .. round * size LOOP
        INSERT INTO events VALUES (i, i % 10007, i % 100000 / 100.0, 'event ' || i || ' of an account', clock_timestamp());
        COMMIT;
    END LOOP;
END $$;
