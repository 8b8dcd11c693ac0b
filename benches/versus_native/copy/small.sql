-- A hundred small tables: what counts is what each costs besides its rows.

DO $$
BEGIN
    FOR t IN 1 .. 100 LOOP
        EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, name text NOT NULL, amount numeric(12, 2) NOT NULL,
                        at timestamptz NOT NULL)', t);
    END LOOP;
END $$;

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    FOR t IN 1 .. 100 LOOP
        EXECUTE format('INSERT INTO small_%s SELECT i, ''row '' || i, i / 100.0, ''2024-01-01''
                        FROM generate_series(1, %s) i', t, size / 100);
    END LOOP;
END $$;
