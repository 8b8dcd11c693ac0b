-- Transactions streamed before their commit. The unpublished table fills the server's decoding memory without adding
-- to the capture.
BEGIN;
INSERT INTO items VALUES (10, 'streamed', 1, 'happy', 1);
INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 400);
SAVEPOINT s;
INSERT INTO items VALUES (11, 'in a subtransaction');
INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 400);
ROLLBACK TO s;
SELECT pg_logical_emit_message(true, 'walferry', 'streamed');
UPDATE items SET name = 'again' WHERE id = 10;
INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 400);
DELETE FROM items WHERE id = 10;
TRUNCATE whole;
COMMIT;
BEGIN;
INSERT INTO items VALUES (12, 'rolled back');
INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 600);
ROLLBACK;
INSERT INTO items VALUES (13, 'small');
