-- pgbench's TPC-B-like transaction, without pgbench, which is not everywhere: three updates, of which two hit few rows,
-- and an insert into a table without a key. At full size the tables are those of scale 10.

CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));

CREATE PROCEDURE fill(size bigint, rounds int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pgbench_branches SELECT b, 0, '' FROM generate_series(1, 10) b;
    INSERT INTO pgbench_tellers SELECT t, 1 + (t - 1) / 10, 0, '' FROM generate_series(1, 100) t;
    INSERT INTO pgbench_accounts SELECT a, 1 + a % 10, 0, '' FROM generate_series(1, size * 5 / 2) a;
END $$;

CREATE PROCEDURE run(size bigint, round int) LANGUAGE plpgsql AS $$
DECLARE
    accounts int := (SELECT max(aid) FROM pgbench_accounts);
    a int; t int; b int; d int;
BEGIN
    PERFORM setseed(round / 1000.0);
    FOR i IN 1 .. size / 4 LOOP
        a := 1 + floor(random() * accounts);
        t := 1 + floor(random() * 100);
        b := 1 + floor(random() * 10);
        d := floor(random() * 10001) - 5000;
        UPDATE pgbench_accounts SET abalance = abalance + d WHERE aid = a;
        UPDATE pgbench_tellers SET tbalance = tbalance + d WHERE tid = t;
        UPDATE pgbench_branches SET bbalance = bbalance + d WHERE bid = b;
        INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (t, b, a, d, clock_timestamp());
        COMMIT;
    END LOOP;
END $$;
