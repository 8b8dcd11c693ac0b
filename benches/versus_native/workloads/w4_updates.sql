-- Updates of random rows by key, ten in a transaction; the rows are of the types that applications use.

CREATE TABLE mixed (
    id      int PRIMARY KEY,
    counter bigint NOT NULL,
    name    text NOT NULL,
    price   numeric(12, 2) NOT NULL,
    changed timestamptz NOT NULL,
    active  boolean NOT NULL,
    token   uuid NOT NULL,
    ratio   double precision NOT NULL,
    day     date NOT NULL,
    code    varchar(16) NOT NULL
);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO mixed
    SELECT i, i, 'customer number ' || i, i % 100000 / 100.0, '2024-01-01'::timestamptz + i * interval '1 second',
           i % 3 = 0, md5(i::text)::uuid, i / 7.0, '2024-01-01'::date + i % 1000, 'C' || i
    FROM generate_series(1, (size * 5 / 3)::int) i;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
DECLARE
    highest int := (SELECT max(id) FROM mixed);
    key int;
BEGIN
    PERFORM setseed(round / 1000.0);
    FOR i IN 1 .. size LOOP
        key := 1 + floor(random() * highest);
        UPDATE mixed
        SET counter = counter + 1, name = 'customer number ' || i, price = price + 0.01, changed = clock_timestamp(),
            active = NOT active, ratio = ratio * 1.5
        WHERE id = key;
        IF i % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
