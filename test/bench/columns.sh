#!/bin/bash
# columns.sh: what is gained by not reading columns?  Builds, installs, makes a server in a
# temporary directory.  Rows of a table of 100 columns are inserted in one transaction with
# the trucks stopped; then each group of trucks by itself is started and applies them.  All
# run the same SQL, which reads all that r has of a row and writes three columns; with the
# option only_columns r has just these.  Once as the only truck of its stream, which takes
# changes as they arrive, and once as TRUCKS of them on one stream, for which they are kept.
# Prints the medians and their ratios.  Leaves nothing behind.
#
#   PLUGIN=wal2json        or pgoutput, of which the walsender sends the columns that are read
#   ROWS=50000
#   TRUCKS=3
#   REPETITIONS=5
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

plugin=${PLUGIN:-wal2json}
rows=${ROWS:-50000}
trucks=${TRUCKS:-3}
repetitions=${REPETITIONS:-5}

sql() {
	"$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres -c "$1"
}

wait_until() {
	until [ "$(sql "SELECT $1")" = t ]; do
		sleep 0.05
	done
}

# create_group NAME COUNT OPTIONS: trucks NAME_1 ... on a stream of their own
create_group() {
	local i

	for ((i = 1; i <= $2; i++)); do
		sql "CREATE TABLE o_$1_$i (id int, c1 int, c2 text);
			SELECT trucker.create_truck('$1_$i', '{wide}',
				'INSERT INTO o_$1_$i SELECT id, c1, c2 FROM (SELECT * FROM r OFFSET 0) AS r',
				options => '{\"inserts_only\": true, \"stream\": \"$1\"$3}')" >/dev/null
	done
	time_group "$1" >/dev/null
}

# cpu_of BACKEND_TYPE GROUP: seconds that a group's process has used of a processor
cpu_of() {
	local pid

	pid=$(sql "SELECT pid FROM pg_stat_activity WHERE application_name = 'trucker $2' AND backend_type = '$1'")
	awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15) / hz }' "/proc/$pid/stat"
}

# Seconds that a group takes, from its start, to get through all that there is; what its
# worker and its walsender have used of a processor; and what its batch has taken on disk,
# in megabytes.
time_group() {
	local lsn started ended pid cpu sender disk first

	lsn=$(sql "SELECT pg_current_wal_flush_lsn()")
	first=$(wc -c <"$tmp/server.log")
	started=$(date +%s%N)
	sql "SELECT trucker.start(name) FROM trucker.truck WHERE name LIKE '$1\\_%'" >/dev/null
	wait_until "bool_and(position >= '$lsn') FROM trucker.status WHERE truck LIKE '$1\\_%'"
	ended=$(date +%s%N)
	pid=$(sql "SELECT pid FROM pg_stat_activity WHERE application_name = 'trucker $1' AND backend_type = 'trucker stream'")
	cpu=$(cpu_of "trucker stream" "$1")
	sender=$(cpu_of walsender "$1")
	sql "SELECT trucker.stop(name) FROM trucker.truck WHERE name LIKE '$1\\_%'" >/dev/null
	wait_until "bool_and(state = 'stopped') FROM trucker.status WHERE truck LIKE '$1\\_%'"
	disk=$(tail -c "+$((first + 1))" "$tmp/server.log" | awk -v pid="[$pid]" 'index($0, pid) && /temporary file/ { sum += $NF } END { printf "%.1f", sum / 1048576 }')
	[ "$(sql "SELECT count(*) FROM (SELECT id, c1, c2 FROM wide EXCEPT TABLE o_$1_1) AS d")" -eq 0 ] || die "truck $1_1 has not written what it should have"
	awk -v ns=$((ended - started)) -v cpu="$cpu" -v sender="$sender" -v disk="$disk" 'BEGIN { printf "%.2f %s %s %s\n", ns / 1e9, cpu, sender, disk }'
}

# median FILE COLUMN
median() {
	awk -v column="$2" '{ print $column }' "$1" | sort -n |
		awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# compare WHAT COLUMN ALL FEW
compare() {
	local all few

	all=$(median "$tmp/$3.s" "$2")
	few=$(median "$tmp/$4.s" "$2")
	say "  $1: all columns $all, three $few, ratio $(awk -v a="$all" -v b="$few" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "-" }')"
}

prepare
make_tmp bench
build_and_install "$root"
start_server "fsync = off" "synchronous_commit = off" "max_wal_size = 10GB" "autovacuum = off" "log_temp_files = 0" \
	"client_min_messages = error" "trucker.max_truck_delay = 0" "trucker.output_plugin = $plugin"
sql "CREATE EXTENSION trucker"
sql "DO \$\$ BEGIN EXECUTE (SELECT 'CREATE TABLE wide (id int PRIMARY KEY, '
	|| string_agg(format('c%s %s', n, CASE WHEN n % 2 = 0 THEN 'text' ELSE 'int' END), ', ' ORDER BY n) || ')'
	FROM generate_series(1, 99) AS n); END \$\$"
load=$(sql "SELECT 'INSERT INTO wide SELECT n, '
	|| string_agg(CASE WHEN c % 2 = 0 THEN 'md5((n + ' || c || ')::text)' ELSE 'n + ' || c END, ', ' ORDER BY c) || ' FROM generate_series'
	FROM generate_series(1, 99) AS c")
create_group all 1 ""
create_group few 1 ", \"only_columns\": [\"c1\", \"c2\"]"
create_group kall "$trucks" ""
create_group kfew "$trucks" ", \"only_columns\": [\"c1\", \"c2\"]"
for ((repetition = 1; repetition <= repetitions; repetition++)); do
	sql "$load(($repetition - 1) * $rows + 1, $repetition * $rows) AS n; CHECKPOINT" >/dev/null
	order="all few kall kfew"
	[ $((repetition % 2)) -eq 1 ] || order="few all kfew kall"
	for group in $order; do
		time_group "$group" >>"$tmp/$group.s"
	done
	say "repetition $repetition (seconds, worker's CPU, walsender's, MB on disk): all $(tail -n 1 "$tmp/all.s"), few $(tail -n 1 "$tmp/few.s"), kept all $(tail -n 1 "$tmp/kall.s"), kept few $(tail -n 1 "$tmp/kfew.s")"
done
say "$plugin, $rows rows of 100 columns, medians of $repetitions:"
compare "alone, seconds" 1 all few
compare "alone, worker's processor seconds" 2 all few
compare "alone, walsender's processor seconds" 3 all few
compare "$trucks on one stream, seconds" 1 kall kfew
compare "$trucks on one stream, worker's processor seconds" 2 kall kfew
compare "$trucks on one stream, walsender's processor seconds" 3 kall kfew
compare "$trucks on one stream, MB on disk" 4 kall kfew
stop_server
