#!/bin/bash
# net.sh: how much faster does a truck with the option "changes": "net" get through
# changes of few keys?  Builds, installs, makes a server in a temporary directory,
# and lets two trucks that differ in that option alone read the same WAL, one after
# the other, in turns.  Prints the seconds of each repetition, the medians and their
# ratio.  Leaves nothing behind.
#
#   UPDATES=300000         how many updates
#   KEYS=100               of how many rows
#   SIZES="1 1000"         updates in a transaction
#   REPETITIONS=5
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

updates=${UPDATES:-300000}
keys=${KEYS:-100}
repetitions=${REPETITIONS:-5}

finish() {
	local status=$?
	trap - EXIT
	set +e
	if [ "$status" -ne 0 ] && [ -n "$tmp" ] && [ -s "$tmp/server.log" ]; then
		say "end of the server's log"
		tail -n 40 "$tmp/server.log"
	fi
	remove_tmp
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

sql() {
	"$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres -c "$1"
}

create_trucks() {
	local changes

	sql "CREATE EXTENSION trucker"
	sql "CREATE TABLE hot (id int PRIMARY KEY, a int, b text, c numeric, d timestamptz, e text) WITH (fillfactor = 50)"
	sql "INSERT INTO hot SELECT n, 0, 'row ' || n, n / 3.0, now(), repeat('x', 30) FROM generate_series(1, $keys) AS n"
	sql "CREATE PROCEDURE load(updates int, size int) LANGUAGE plpgsql AS \$\$
		BEGIN
			FOR i IN 1..updates LOOP
				UPDATE hot SET a = i, c = i / 3.0, d = clock_timestamp() WHERE id = 1 + i % $keys;
				IF i % size = 0 THEN COMMIT; END IF;
			END LOOP;
		END \$\$"
	for changes in all net; do
		sql "CREATE TABLE copy_$changes (LIKE hot INCLUDING INDEXES)"
		sql "SET client_min_messages = error;
			SELECT trucker.create_truck('$changes', '{hot}', \$\$
				DELETE FROM copy_$changes AS d USING r WHERE r.meta__operation <> 'insert' AND d.id = r.old__id;
				INSERT INTO copy_$changes SELECT id, a, b, c, d, e FROM r WHERE meta__operation <> 'delete'
				ON CONFLICT (id) DO UPDATE SET (a, b, c, d, e) = (excluded.a, excluded.b, excluded.c, excluded.d, excluded.e)\$\$,
				options => '{\"changes\": \"$changes\"}')" >/dev/null
		sql "SET client_min_messages = error; SELECT trucker.start('$changes')" >/dev/null
		[ "$(sql "SELECT trucker.wait_for('$changes')")" = t ] || die "truck $changes does not start"
		stop_truck "$changes"
	done
}

stop_truck() {
	sql "SELECT trucker.stop('$1')" >/dev/null
	until [ "$(sql "SELECT state FROM trucker.status WHERE truck = '$1'")" = stopped ]; do
		sleep 0.1
	done
}

# Seconds from the start of a truck until it has read all that there is.
time_truck() {
	local started ended

	started=$(date +%s%N)
	sql "SET client_min_messages = error; SELECT trucker.start('$1')" >/dev/null
	[ "$(sql "SELECT trucker.wait_for('$1', timeout => '10 min')")" = t ] || die "truck $1 does not catch up"
	ended=$(date +%s%N)
	stop_truck "$1"
	[ "$(sql "SELECT count(*) FROM (TABLE hot EXCEPT TABLE copy_$1) AS d")" -eq 0 ] || die "truck $1 has not written what it should have"
	awk -v ns=$((ended - started)) 'BEGIN { printf "%.2f\n", ns / 1e9 }'
}

median() {
	sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

measure() {
	local size=$1 repetition changes order median_all median_net

	rm -f "$tmp/all.s" "$tmp/net.s"
	for ((repetition = 1; repetition <= repetitions; repetition++)); do
		sql "CALL load($updates, $size)"
		sql "CHECKPOINT"
		order="all net"
		[ $((repetition % 2)) -eq 1 ] || order="net all"
		for changes in $order; do
			time_truck "$changes" >>"$tmp/$changes.s"
		done
		say "repetition $repetition: all $(tail -n 1 "$tmp/all.s") s, net $(tail -n 1 "$tmp/net.s") s"
	done
	median_all=$(median <"$tmp/all.s")
	median_net=$(median <"$tmp/net.s")
	say "$updates updates of $keys keys, $size in a transaction: medians all $median_all s, net $median_net s, ratio $(
		awk -v a="$median_all" -v b="$median_net" 'BEGIN { printf "%.1f", a / b }')"
}

prepare
make_tmp bench
build_and_install "$root"
start_server "fsync = off" "synchronous_commit = off" "autovacuum = off" "max_wal_size = 10GB"
create_trucks
for size in ${SIZES:-1 1000}; do
	say "$size updates in a transaction"
	measure "$size"
done
stop_server
