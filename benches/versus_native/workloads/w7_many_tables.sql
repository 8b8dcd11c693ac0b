-- Half inserts, a third updates, the rest deletes, over 100 tables, ten changes in a transaction: an application with a
-- wide schema.

DO $$
BEGIN
    FOR t IN 1 .. 100 LOOP
        EXECUTE format('CREATE TABLE part_%s (id bigint PRIMARY KEY, name text NOT NULL, amount numeric(12, 2) NOT NULL,
                        at timestamptz NOT NULL)', t);
    END LOOP;
END $$;

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    FOR t IN 1 .. 100 LOOP
        EXECUTE format('INSERT INTO part_%s SELECT i, ''row '' || i, i / 100.0, ''2024-01-01''
                        FROM generate_series(1, 1000) i', t);
    END LOOP;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
DECLARE
    -- Each table holds the ids between the two.
    lowest bigint[]; highest bigint[]; low bigint; high bigint; t int; dice int; n bigint;
BEGIN
    PERFORM setseed(round / 1000.0);
    FOR t IN 1 .. 100 LOOP
        EXECUTE format('SELECT min(id), max(id) FROM part_%s', t) INTO low, high;
        lowest[t] := low; highest[t] := high;
    END LOOP;
    FOR i IN 1 .. size LOOP
        t := 1 + floor(random() * 100);
        dice := floor(random() * 6);
        IF dice < 3 THEN
            highest[t] := highest[t] + 1;
            EXECUTE format('INSERT INTO part_%s VALUES ($1, ''row '' || $1, $1 / 100.0, clock_timestamp())', t)
            USING highest[t];
        ELSIF dice < 5 THEN
            EXECUTE format('UPDATE part_%s SET amount = amount + 1, at = clock_timestamp() WHERE id = $1', t)
            USING lowest[t] + floor(random() * (highest[t] - lowest[t] + 1))::bigint;
            GET DIAGNOSTICS n = ROW_COUNT;
            ASSERT n = 1, 'the row is there';
        ELSE
            EXECUTE format('DELETE FROM part_%s WHERE id = $1', t) USING lowest[t];
            lowest[t] := lowest[t] + 1;
        END IF;
        IF i % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
