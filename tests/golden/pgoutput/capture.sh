#!/bin/sh
# Captures what a server's pgoutput really sends, for tests/golden.rs.
#
# In: PGHOST, PGPORT, PGUSER of a throwaway superuser session on a server with wal_level = logical,
#     logical_decoding_work_mem = 64kB, max_prepared_transactions > 0 and the time zone UTC.
# Out: <major>/<scenario>.hex beside this script: one line per frame, its LSN and its bytes in hexadecimal.
#     The first line says how the session was asked for: protocol version and streaming mode.
# Afterwards: INSTA_UPDATE=always cargo test --test golden, and read the difference.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
db=walferry_golden
psql() { command psql -X -q -A -t -F ' ' -v ON_ERROR_STOP=1 -d "${1}"; }
major=$(echo "SELECT current_setting('server_version_num')::int / 10000" | psql postgres)
mkdir -p "$here/$major"

slot() { echo "SELECT pg_create_logical_replication_slot('$1', 'pgoutput', false, $2)" | psql $db >/dev/null; }
capture() { # slot, protocol version, streaming, further options
    streaming=", 'streaming', '$3'"
    [ "$3" = off ] && streaming=""
    {
        echo "protocol $2 streaming $3"
        echo "SELECT lsn, encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('$1', NULL, NULL,
              'proto_version', '$2', 'publication_names', 'golden', 'messages', 'true' $streaming $4)" | psql $db
    } > "$here/$major/$1.hex"
    echo "SELECT pg_drop_replication_slot('$1')" | psql $db >/dev/null
}

printf 'SET client_min_messages = warning;\nDROP DATABASE IF EXISTS %s;\nCREATE DATABASE %s;\n' $db $db | psql postgres
psql $db < "$here/schema.sql"

slot plain false
slot binary false
psql $db < "$here/plain.sql" > /dev/null
capture plain 1 off ""
capture binary 1 off ", 'binary', 'true'"

slot streamed false
[ "$major" -ge 16 ] && slot parallel false
psql $db < "$here/streamed.sql"
capture streamed 2 on ""
[ "$major" -ge 16 ] && capture parallel 4 parallel ""

if [ "$major" -ge 15 ]; then
    slot prepared true
    psql $db < "$here/prepared.sql"
    capture prepared 3 on ", 'two_phase', 'true'"
fi
echo "DROP DATABASE $db" | psql postgres
