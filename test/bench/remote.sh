#!/bin/bash
# remote.sh: how fast does a truck catch up that writes here, and one that writes to
# another database, as another server would be written to (over a socket of this
# machine: there is no network in between)?  Builds, installs, makes a server in a
# temporary directory.  With the trucks stopped, transactions of some size are committed;
# then each truck by itself is started and applies them.  Prints the medians.  Leaves
# nothing behind.
#
#   ROWS=200000            rows for each size of transactions (a quarter for those of one row)
#   REPETITIONS=3
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

rows=${ROWS:-200000}
repetitions=${REPETITIONS:-3}

sql() {
	"$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d "${2:-postgres}" -c "$1"
}

wait_until() {
	local tries
	for ((tries = 0; tries < 6000; tries++)); do
		[ "$(sql "SELECT $1")" != t ] || return 0
		sleep 0.1
	done
	die "did not come true: $1"
}

prepare
make_tmp bench
build_and_install "$root"
start_server "shared_buffers = 512MB" "max_wal_size = 8GB" "autovacuum = off" "log_min_messages = warning"

sql "CREATE EXTENSION trucker"
sql "CREATE DATABASE dw"
sql "CREATE TABLE item (id bigint PRIMARY KEY, a int, b text, c numeric, d timestamptz);
	CREATE TABLE result (size int, rows int, truck text, seconds float8);
	CREATE SERVER dw FOREIGN DATA WRAPPER trucker OPTIONS (host '$tmp/s', port '5432', dbname 'dw');
	CREATE USER MAPPING FOR CURRENT_USER SERVER dw OPTIONS (user 'postgres')"
for database in postgres dw; do
	sql "CREATE TABLE item_copy (id bigint PRIMARY KEY, a int, b text, c numeric, d timestamptz)" "$database"
done
sql "SET client_min_messages = error;
	SELECT trucker.create_truck('here', '{item}', options => '{\"output_table\": \"item_copy\", \"backfill\": false}');
	SELECT trucker.create_truck('there', '{item}', output_connection => 'dw', options => '{\"output_table\": \"item_copy\", \"backfill\": false}');
	SELECT trucker.start()" >/dev/null
wait_until "bool_and(state = 'streaming') FROM trucker.status"

for ((i = 1; i <= repetitions; i++)); do
	say "repetition $i of $repetitions"
	for size in 1 10 100 1000 "$rows"; do
		n=$rows
		[ "$size" -ne 1 ] || n=$((rows / 4))
		sql "SELECT trucker.stop()" >/dev/null
		wait_until "bool_and(state = 'stopped') FROM trucker.status"
		sql "CREATE OR REPLACE PROCEDURE load() LANGUAGE plpgsql AS \$\$
			DECLARE first bigint := coalesce((SELECT max(id) FROM item), 0);
			BEGIN
				FOR t IN 0 .. $((n / size)) - 1 LOOP
					INSERT INTO item SELECT first + t * $size + n, n, 'item ' || n, n / 7.0, clock_timestamp() FROM generate_series(1, $size) AS n;
					COMMIT;
				END LOOP;
			END \$\$"
		PGOPTIONS="-c synchronous_commit=off" sql "CALL load()"
		for truck in here there; do
			started=$EPOCHREALTIME
			sql "SET client_min_messages = error; SELECT trucker.start('$truck')" >/dev/null
			sql "SELECT trucker.wait_for('$truck', timeout => '1 h')" >/dev/null
			sql "INSERT INTO result SELECT $size, $n, '$truck', $EPOCHREALTIME - $started"
			sql "SELECT trucker.stop('$truck')" >/dev/null
			wait_until "state = 'stopped' FROM trucker.status WHERE truck = '$truck'"
		done
	done
done

[ "$(sql "SELECT count(*), sum(a), max(id) FROM item_copy")" = "$(sql "SELECT count(*), sum(a), max(id) FROM item_copy" dw)" ] ||
	die "the two tables differ"
say "rows a second, median of $repetitions; start of the worker (about half a second) included"
"$bindir/psql" -X -d postgres -c "SELECT size AS rows_per_transaction, max(rows) AS rows,
	round((percentile_cont(0.5) WITHIN GROUP (ORDER BY rows / seconds) FILTER (WHERE truck = 'here'))::numeric) AS here,
	round((percentile_cont(0.5) WITHIN GROUP (ORDER BY rows / seconds) FILTER (WHERE truck = 'there'))::numeric) AS there
	FROM result GROUP BY size ORDER BY size"
