#!/bin/bash
# latency.sh: does a truck that streams notice what happens beside it on its stream?
# Builds, installs, makes a server in a temporary directory, and lets pgbench commit
# single rows at a steady rate.  The truck writes, with each row, the time from its
# commit to the moment that its SQL runs.  Prints the percentiles, alone and beside a
# backfill of a large table by another truck of the same stream, beside a plain INSERT
# ... SELECT of the same rows, and beside a truck that fails again and again, in turns.  Leaves nothing behind.
#
#   ROWS=5000000           rows of the large table
#   RATE=200               transactions a second
#   SECONDS_ALONE=20       how long each measurement without the other truck takes
#   REPETITIONS=3
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

rows=${ROWS:-5000000}
rate=${RATE:-200}
seconds=${SECONDS_ALONE:-20}
repetitions=${REPETITIONS:-3}

sql() {
	"$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres -c "$1"
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
start_server "shared_buffers = 512MB" "max_wal_size = 8GB" "autovacuum = off" "log_min_messages = warning" \
	"trucker.max_failures = 0" "trucker.retry_initial_delay = '500ms'" "trucker.retry_max_delay = '500ms'"

sql "CREATE EXTENSION trucker"
sql "CREATE TABLE small (id bigserial PRIMARY KEY, phase text);
	CREATE TABLE seen (id bigint PRIMARY KEY, phase text, ms float8);
	CREATE TABLE big (id int PRIMARY KEY, a int, b text);
	CREATE TABLE big_copy (id int PRIMARY KEY, a int, b text);
	CREATE TABLE bad_copy (id int PRIMARY KEY);
	CREATE TABLE phase AS SELECT 'warm-up'::text AS name"
sql "INSERT INTO big SELECT n, n % 1000, 'row ' || n FROM generate_series(1, $rows) AS n"
sql "VACUUM ANALYZE big"
sql "SET client_min_messages = error;
	SELECT trucker.create_truck('steady', '{small}', \$\$
		INSERT INTO seen SELECT id, phase, 1000 * extract(epoch FROM clock_timestamp() - meta__committed_at)
		FROM r WHERE meta__operation = 'insert'\$\$, options => '{\"backfill\": false}');
	SELECT trucker.create_truck('large', '{big}', \$\$
		INSERT INTO big_copy SELECT id, a, b FROM r WHERE meta__operation <> 'delete'\$\$,
		options => '{\"reset_sql\": \"TRUNCATE big_copy\"}');
	SELECT trucker.create_truck('failing', '{small}', \$\$
		INSERT INTO bad_copy SELECT (1 / (id - id))::int FROM r\$\$, options => '{\"backfill\": false}');
	SELECT trucker.start('steady')" >/dev/null
wait_until "state = 'streaming' FROM trucker.status WHERE truck = 'steady'"

echo "INSERT INTO small (phase) SELECT name FROM phase;" >"$tmp/load.sql"
"$bindir/pgbench" -n -c 2 -j 1 -R "$rate" -T 100000 -f "$tmp/load.sql" postgres >"$tmp/pgbench.log" 2>&1 &
load_pid=$!
wait_until "count(*) > 100 FROM seen"

for ((i = 1; i <= repetitions; i++)); do
	say "repetition $i of $repetitions"
	sql "UPDATE phase SET name = 'alone'"
	sleep "$seconds"

	sql "UPDATE phase SET name = 'beside a backfill, catch-up and join'"
	sql "SELECT trucker.resync('large'); SELECT trucker.start('large')" >/dev/null
	wait_until "state = 'streaming' AND stream = 'main' FROM trucker.status WHERE truck = 'large'"
	sql "UPDATE phase SET name = 'after it'"
	sql "SELECT trucker.stop('large')" >/dev/null

	# what the machine makes of so many rows, without trucker
	sql "CREATE TABLE plain_copy (id int PRIMARY KEY, a int, b text)"
	sql "UPDATE phase SET name = 'beside INSERT ... SELECT of these rows'"
	sql "INSERT INTO plain_copy SELECT * FROM big"
	sql "UPDATE phase SET name = 'after it'"
	sql "DROP TABLE plain_copy"
	wait_until "lag_bytes = 0 FROM trucker.status WHERE truck = 'steady'"

	sql "UPDATE phase SET name = 'beside a failing truck'"
	sql "SELECT trucker.start('failing')" >/dev/null
	sleep "$seconds"
	sql "SELECT trucker.stop('failing')" >/dev/null
	wait_until "state = 'stopped' FROM trucker.status WHERE truck = 'failing'"
	sql "UPDATE phase SET name = 'after it'"
done
kill "$load_pid"
wait "$load_pid" 2>/dev/null || true
sql "SELECT trucker.wait_for('steady')" >/dev/null

say "milliseconds from commit to the truck's SQL, $rate transactions a second, $rows rows"
"$bindir/psql" -X -d postgres -c "SELECT phase, count(*) AS transactions,
	round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2) AS p50,
	round(percentile_cont(0.95) WITHIN GROUP (ORDER BY ms)::numeric, 2) AS p95,
	round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 2) AS p99,
	round(max(ms)::numeric, 2) AS max
	FROM seen WHERE phase NOT IN ('warm-up', 'after it') GROUP BY 1 ORDER BY 1"
sql "SELECT CASE WHEN (SELECT count(*) FROM small) - (SELECT count(*) FROM seen) = 0 THEN 'no row missing' ELSE 'ROWS MISSING' END"
