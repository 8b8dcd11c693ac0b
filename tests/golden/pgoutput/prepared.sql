-- Two-phase commit, with and without streaming.
BEGIN;
INSERT INTO items VALUES (20, 'prepared');
PREPARE TRANSACTION 'gid one';
COMMIT PREPARED 'gid one';
BEGIN;
INSERT INTO items VALUES (21, 'prepared in vain');
PREPARE TRANSACTION 'gid two';
ROLLBACK PREPARED 'gid two';
BEGIN;
INSERT INTO items VALUES (22, 'prepared and streamed');
INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 600);
PREPARE TRANSACTION 'gid three';
COMMIT PREPARED 'gid three';
