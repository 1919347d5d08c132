#!/bin/bash
# net.sh: how much faster does a truck with the option "changes": "net" get through
# changes of few keys?  Builds, installs, makes a server in a temporary directory,
# and lets two trucks that differ in that option alone read the same WAL, one after
# the other, in turns.  Prints for each repetition the seconds and those of a
# processor that the worker has used, the medians and their ratio.  Leaves nothing
# behind.
#
#   UPDATES=300000         how many updates
#   KEYS=100               of how many rows
#   SIZES="1 1000"         updates in a transaction
#   REPETITIONS=5
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

updates=${UPDATES:-300000}
keys=${KEYS:-100}
repetitions=${REPETITIONS:-5}

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
		sql "CREATE TABLE copy_$changes (LIKE hot INCLUDING INDEXES) WITH (fillfactor = 50)"
		sql "SELECT trucker.create_truck('$changes', '{hot}', \$\$
				DELETE FROM copy_$changes AS d USING r WHERE r.meta__operation = 'delete' AND d.id = r.old__id;
				INSERT INTO copy_$changes SELECT id, a, b, c, d, e FROM r WHERE meta__operation <> 'delete'
				ON CONFLICT (id) DO UPDATE SET (a, b, c, d, e) = (excluded.a, excluded.b, excluded.c, excluded.d, excluded.e)\$\$,
				options => '{\"changes\": \"$changes\"}')" >/dev/null
		time_truck "$changes" >/dev/null
	done
}

# Seconds that a truck takes, from its start, to get through all that there is; and
# what its worker has used of a processor.  (A session in trucker.wait_for() would
# hold a snapshot, which keeps dead rows from being pruned.)
time_truck() {
	local lsn started ended pid cpu

	lsn=$(sql "SELECT pg_current_wal_flush_lsn()")
	started=$(date +%s%N)
	sql "SELECT trucker.start('$1')" >/dev/null
	until [ "$(sql "SELECT position >= '$lsn' FROM trucker.status WHERE truck = '$1'")" = t ]; do
		sleep 0.05
	done
	ended=$(date +%s%N)
	pid=$(sql "SELECT pid FROM pg_stat_activity WHERE application_name = 'trucker $1' AND backend_type = 'trucker stream'")
	cpu=$(awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15) / hz }' "/proc/$pid/stat")
	sql "SELECT trucker.stop('$1')" >/dev/null
	until [ "$(sql "SELECT state FROM trucker.status WHERE truck = '$1'")" = stopped ]; do
		sleep 0.05
	done
	[ "$(sql "SELECT count(*) FROM (TABLE hot EXCEPT TABLE copy_$1) AS d")" -eq 0 ] || die "truck $1 has not written what it should have"
	awk -v ns=$((ended - started)) -v cpu="$cpu" 'BEGIN { printf "%.2f %s\n", ns / 1e9, cpu }'
}

# median FILE COLUMN
median() {
	awk -v column="$2" '{ print $column }' "$1" | sort -n |
		awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

ratio() {
	awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.1f", a / b; else print "-" }'
}

# compare WHAT COLUMN
compare() {
	local all net

	all=$(median "$tmp/all.s" "$2")
	net=$(median "$tmp/net.s" "$2")
	say "  $1: all $all, net $net, ratio $(ratio "$all" "$net")"
}

measure() {
	local size=$1 repetition changes order

	rm -f "$tmp/all.s" "$tmp/net.s"
	for ((repetition = 1; repetition <= repetitions; repetition++)); do
		sql "CALL load($updates, $size)"
		for changes in hot copy_all copy_net; do
			sql "VACUUM (FULL, ANALYZE) $changes"
		done
		sql "CHECKPOINT"
		order="all net"
		[ $((repetition % 2)) -eq 1 ] || order="net all"
		for changes in $order; do
			time_truck "$changes" >>"$tmp/$changes.s"
		done
		say "repetition $repetition: all $(tail -n 1 "$tmp/all.s"), net $(tail -n 1 "$tmp/net.s")"
	done
	say "$updates updates of $keys keys, $size in a transaction, medians of $repetitions:"
	compare "seconds" 1
	compare "worker's processor seconds" 2
}

prepare
make_tmp bench
build_and_install "$root"
start_server "fsync = off" "synchronous_commit = off" "max_wal_size = 10GB" "autovacuum_naptime = 1s" \
	"client_min_messages = error"
create_trucks
for size in ${SIZES:-1 1000}; do
	say "$size updates in a transaction"
	measure "$size"
done
stop_server
