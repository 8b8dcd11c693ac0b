-- REPLICA IDENTITY FULL and no index at all: whoever applies an update or a delete has to search the table. Three of
-- five changes are updates, one is a delete, one an insert, so that the table keeps its size; ten are in a transaction.

CREATE TABLE readings (sensor int NOT NULL, at timestamptz NOT NULL, value numeric(10, 3), note text);
ALTER TABLE readings REPLICA IDENTITY FULL;

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO readings
    SELECT i, '2024-01-01'::timestamptz + i * interval '1 second', nullif(i % 7, 0) / 3.0, 'reading ' || i
    FROM generate_series(1, size * 2) i;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
DECLARE
    lowest int := (SELECT min(sensor) FROM readings);
    highest int := (SELECT max(sensor) FROM readings);
    key int;
BEGIN
    PERFORM setseed(round / 1000.0);
    FOR i IN 1 .. size LOOP
        IF i % 5 = 0 THEN
            DELETE FROM readings WHERE sensor = lowest;
            lowest := lowest + 1;
        ELSIF i % 5 = 1 THEN
            highest := highest + 1;
            INSERT INTO readings VALUES (highest, clock_timestamp(), NULL, 'reading ' || highest);
        ELSE
            key := lowest + floor(random() * (highest - lowest + 1));
            UPDATE readings SET value = coalesce(value, 0) + 1 WHERE sensor = key;
        END IF;
        IF i % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
