-- Inserts of documents: 2 to 8 KB of JSON and text each, ten in a transaction. They compress as such texts do, so the
-- servers compress, store out of line and read again (TOAST).

CREATE TABLE documents (
    id    bigint PRIMARY KEY,
    kind  text NOT NULL,
    body  jsonb NOT NULL,
    notes text NOT NULL,
    at    timestamptz NOT NULL
);

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$ BEGIN END $$;

-- An order of this many lines, some 130 bytes each.
CREATE FUNCTION an_order(lines int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('lines', jsonb_agg(jsonb_build_object(
        'sku', md5((lines * 1000 + n)::text), 'title', 'product number ' || lines * n, 'quantity', n % 9,
        'price', lines * n / 100.0, 'shipped', n % 2 = 0)))
    FROM generate_series(1, lines) n
$$;

CREATE FUNCTION some_prose(words int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg((ARRAY['the', 'customer', 'asks', 'whether', 'order', 'will', 'be', 'delivered', 'before', 'a',
        'holiday', 'and', 'wants', 'invoice', 'sent', 'to', 'another', 'address', 'as', words::text])
        [1 + abs(hashint4(words * 10007 + n)) % 20], ' ')
    FROM generate_series(1, words) n
$$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
DECLARE
    orders jsonb[] := (SELECT array_agg(an_order(10 + n % 35)) FROM generate_series(0, 99) n);
    proses text[] := (SELECT array_agg(some_prose(80 + n * 3)) FROM generate_series(0, 99) n);
BEGIN
    FOR i IN 1 .. size LOOP
        INSERT INTO documents
        VALUES ((round - 1) * size + i, 'order', orders[1 + i % 100] || jsonb_build_object('number', i),
                i || ': ' || proses[1 + i % 99], clock_timestamp());
        IF i % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
