#!/bin/bash
# scale.sh: does a change cost more when there are more trucks that do not read its
# table?  Builds, installs, makes a server in a temporary directory with TRUCKS trucks
# over TABLES tables on one stream, and lets them work off single-row transactions on
# one of the tables: with only the trucks that read this table running, and with all,
# in turns.  Prints the seconds, medians and their ratio, and how long the start of
# all takes.  Leaves nothing behind.
#
#   TRUCKS=200
#   TABLES=50
#   TRANSACTIONS=20000
#   REPETITIONS=3
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

trucks=${TRUCKS:-200}
tables=${TABLES:-50}
transactions=${TRANSACTIONS:-20000}
repetitions=${REPETITIONS:-3}

sql() {
	"$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres -c "SET client_min_messages = error; $1"
}

now() {
	date +%s.%N
}

since() {
	perl -e 'printf "%.2f", $ARGV[1] - $ARGV[0]' "$1" "$(now)"
}

wait_until() {
	local tries
	for ((tries = 0; tries < 6000; tries++)); do
		[ "$(sql "SELECT $1")" != t ] || return 0
		sleep 0.05
	done
	die "did not come true: $1"
}

# The readers of table 1 work off a backlog that they were held at by a lock.
measure() {
	local started holder
	sql "LOCK o1, o$((tables + 1)) IN EXCLUSIVE MODE; SELECT pg_sleep(3600)" >/dev/null 2>&1 &
	holder=$!
	wait_until "count(*) = 2 FROM pg_locks WHERE mode = 'ExclusiveLock' AND locktype = 'relation' AND granted"
	"$bindir/pgbench" -n -c 1 -t "$transactions" -f "$tmp/load.sql" postgres >/dev/null 2>&1
	started=$(now)
	sql "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()" >/dev/null
	wait "$holder" 2>/dev/null || true
	sql "SELECT trucker.wait_for(truck, timeout => '600 s') FROM trucker.status WHERE truck IN ('k1', 'k$((tables + 1))')" >/dev/null
	since "$started"
}

prepare
make_tmp bench
build_and_install "$root"
start_server "fsync = off" "autovacuum = off" "log_min_messages = warning" "trucker.max_truck_delay = 0" "trucker.max_trucks = $((trucks + 10))"
echo "\\set id random(1, 1000)
UPDATE t1 SET v = v + 1 WHERE id = :id;" >"$tmp/load.sql"
sql "CREATE EXTENSION trucker"
sql "DO \$do\$ BEGIN
	FOR i IN 1..$tables LOOP
		EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v int)', i);
		EXECUTE format('INSERT INTO t%s SELECT n, 0 FROM generate_series(1, 1000) AS n', i);
	END LOOP;
	FOR i IN 1..$trucks LOOP
		EXECUTE format('CREATE TABLE o%s (id int PRIMARY KEY, v int)', i);
		PERFORM trucker.create_truck('k' || i, ARRAY[format('t%s', 1 + (i - 1) % $tables)::regclass],
			format('INSERT INTO o%s SELECT id, v FROM r WHERE meta__operation <> ''delete'' ON CONFLICT (id) DO UPDATE SET v = excluded.v', i));
	END LOOP;
END \$do\$"
readers=$(((trucks + tables - 1) / tables))
declare -a few=() all=()

started=$(now)
sql "SELECT trucker.start()" >/dev/null
wait_until "count(*) = $trucks FROM trucker.status WHERE state = 'streaming'"
say "start of all $trucks trucks, of 1000 rows each: $(since "$started") s"

for ((i = 1; i <= repetitions; i++)); do
	say "repetition $i of $repetitions"
	sql "SELECT trucker.start()" >/dev/null
	wait_until "count(*) = $trucks FROM trucker.status WHERE state = 'streaming'"
	all+=("$(measure)")
	sql "SELECT trucker.stop('k' || n) FROM generate_series(1, $trucks) AS n WHERE n % $tables <> 1" >/dev/null
	wait_until "count(*) = $readers FROM trucker.status WHERE state = 'streaming'"
	wait_until "count(*) = $trucks - $readers FROM trucker.status WHERE state = 'stopped'"
	few+=("$(measure)")
done
perl -e '
	sub median { my @s = sort { $a <=> $b } @_; return $s[$#s / 2]; }
	my ($n, $readers, $trucks) = splice @ARGV, 0, 3;
	my @all = @ARGV[0 .. @ARGV / 2 - 1];
	my @few = @ARGV[@ARGV / 2 .. $#ARGV];
	printf "seconds for %d transactions: %d trucks [%s], the %d readers alone [%s]; medians %.2f and %.2f, ratio %.2f\n",
	  $n, $trucks, "@all", $readers, "@few", median(@all), median(@few), median(@all) / median(@few);
' "$transactions" "$readers" "$trucks" "${all[@]}" "${few[@]}"
