-- One table of 1 KB rows of common types: at full size 1 GB.

CREATE TABLE wide (
    id      bigint PRIMARY KEY,
    account int NOT NULL,
    price   numeric(12, 2) NOT NULL,
    changed timestamptz NOT NULL,
    active  boolean NOT NULL,
    token   uuid NOT NULL,
    ratio   double precision NOT NULL,
    day     date NOT NULL,
    code    varchar(16),
    body    text NOT NULL
);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE sql AS $$
    INSERT INTO wide
    SELECT i, i % 10007, i % 100000 / 100.0, '2024-01-01'::timestamptz + i * interval '1 second', i % 3 = 0,
           md5(i::text)::uuid, i / 7.0, '2024-01-01'::date + (i % 1000)::int, 'C' || nullif(i % 50, 0),
           repeat(md5(i::text) || ' some text ' || i || ' ', 18)
    FROM generate_series(1, size) i
$$;
