-- Updates of the same hundred rows again and again, each in a transaction of its own: counters.

CREATE TABLE counters (id int PRIMARY KEY, value bigint NOT NULL, at timestamptz NOT NULL);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO counters SELECT i, 0, '2024-01-01' FROM generate_series(1, 100) i;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
DECLARE
    key int;
BEGIN
    PERFORM setseed(round / 1000.0);
    FOR i IN 1 .. size LOOP
        key := 1 + floor(random() * 100);
        UPDATE counters SET value = value + 1, at = clock_timestamp() WHERE id = key;
        COMMIT;
    END LOOP;
END $$;
