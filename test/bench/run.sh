#!/bin/bash
# run.sh (make bench): how fast is a truck, beside what else would do its work?  Builds,
# installs, makes two servers in a temporary directory, and measures one after the other,
# in an order that turns from run to run:
#
#   wal2json, pgoutput   a truck read by that plugin: join with a second table, upsert
#   native               CREATE SUBSCRIPTION of the second server: a plain copy
#   trigger              AFTER INSERT ... FOR EACH STATEMENT with the same SQL
#   bare                 the same SQL as one INSERT ... SELECT: the limit
#   none                 nothing follows the table, with wal_level = logical
#
# Loads: "catch-up" and "huge", one transaction of ROWS or HUGE_ROWS rows that is waiting
# when truck or subscription start, timed from the start (of the process, too) until the
# last row can be seen (start_seconds: until its walsender was seen); for the trigger it is that transaction's own time.  "one-row",
# ONE_ROW transactions at full speed, with synchronous_commit = off, until the last is seen.
# "paced", RATE transactions a second: time from commit to commit (native: to the moment
# the row is written), by the servers' clocks.  Source and destinations are on one machine,
# so at full speed they share its cores; paced, there should be enough of these.
# source_ms is what pgbench's transactions took.
#
# Prints medians, the ratios within a run, and whether they reach the bars; the same,
# with every single figure, as JSON into a file.  Leaves nothing else behind.
#
#   ROWS=500000           0: none
#   HUGE_ROWS=5000000      0: none
#   ONE_ROW=40000          0: none
#   RATE=1000
#   PACED_SECONDS=20       0: none
#   RUNS=3                 (of "huge": 1)
#   CLIENTS=4              of pgbench
#   PERF=1                 at the end, both trucks' catch-up once more under perf
#   JSON=/path/to/file     else one in TMPDIR or /tmp
#   PG_CONFIG=...          another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/server.sh"

rows=${ROWS:-500000}
huge_rows=${HUGE_ROWS:-5000000}
one_row=${ONE_ROW:-40000}
rate=${RATE:-1000}
paced_seconds=${PACED_SECONDS:-20}
runs=${RUNS:-3}
clients=${CLIENTS:-4}
json=${JSON:-${TMPDIR:-/tmp}/trucker-bench-$(date +%Y%m%d-%H%M%S).json}
case $json in /*) ;; *) json=$PWD/$json ;; esac

# sql COMMAND, at the source; subscriber COMMAND, at the second server
sql() {
	"$bindir/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres -c "SET client_min_messages = error" -c "$1"
}

subscriber() {
	PGPORT=5433 sql "$1"
}

wait_until() {
	local tries
	for ((tries = 0; tries < 6000; tries++)); do
		[ "$("$1" "SELECT $2")" != t ] || return 0
		sleep 0.05
	done
	die "did not come true: $2"
}

# result LOAD RUN CONTENDER FIGURE VALUE
result() {
	printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$tmp/results"
}

since() {
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }'
}

# Seconds of a processor that a process has used
cpu_of() {
	sed 's/.*) //' "/proc/$1/stat" | awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($12 + $13) / hz }'
}

# ----
# Servers and contenders
# ----

start_subscriber() {
	as_server_user "$bindir/initdb" -D "$tmp/data2" -U postgres -A trust -N \
		--no-locale -E UTF8 >"$tmp/initdb2.log" 2>&1 || { cat "$tmp/initdb2.log"; die "initdb failed"; }
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$tmp/s'" "port = 5433" "${settings[@]}" >>"$tmp/data2/postgresql.conf"
	# Else the launcher lets five seconds pass between two starts of a subscription's worker.
	echo "wal_retrieve_retry_interval = 10ms" >>"$tmp/data2/postgresql.conf"
	as_server_user "$bindir/pg_ctl" -D "$tmp/data2" -l "$tmp/server2.log" -w start >"$tmp/start2.log" 2>&1 ||
		{ cat "$tmp/start2.log" "$tmp/server2.log"; die "the second server did not start"; }
}

# The SQL of all contenders but native, over the relation $2 into the table $1
enrich() {
	echo "INSERT INTO $1 (id, customer, country, amount, quantity, note, placed)
		SELECT r.id, c.name, c.country, r.amount, r.quantity, r.note, r.placed
		FROM $2 AS r JOIN customers AS c ON c.id = r.customer_id
		ON CONFLICT (id) DO UPDATE
		SET (customer, country, amount, quantity, note, placed) =
			(excluded.customer, excluded.country, excluded.amount, excluded.quantity, excluded.note, excluded.placed)"
}

# A session that waits for a row keeps no snapshot meanwhile.
waiter="CREATE PROCEDURE wait_for_row(tab regclass, row_id bigint) LANGUAGE plpgsql AS \$\$
	DECLARE found boolean;
	BEGIN
		LOOP
			EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE id = %s)', tab, row_id) INTO found;
			COMMIT;
			EXIT WHEN found;
			PERFORM pg_sleep(0.005);
		END LOOP;
	END \$\$"

create_contenders() {
	local plugin name
	local columns="id bigserial PRIMARY KEY, customer_id int NOT NULL, amount numeric(12,2) NOT NULL,
		quantity int NOT NULL, note text, placed timestamptz NOT NULL"

	sql "CREATE EXTENSION trucker"
	sql "$waiter"
	sql "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, country text NOT NULL);
		INSERT INTO customers SELECT n, 'customer ' || n, 'country ' || n % 100 FROM generate_series(1, 10000) AS n;
		CREATE TABLE orders ($columns);
		CREATE TABLE orders_none (LIKE orders INCLUDING ALL);
		CREATE TABLE orders_trigger (LIKE orders INCLUDING ALL);
		CREATE TABLE seen_native (id bigint, seen timestamptz)"
	sql "VACUUM ANALYZE customers"
	for name in wal2json pgoutput trigger bare; do
		sql "CREATE TABLE flat_$name (id bigint PRIMARY KEY, customer text NOT NULL, country text NOT NULL,
			amount numeric(12,2) NOT NULL, quantity int NOT NULL, note text, placed timestamptz NOT NULL)"
	done
	sql "CREATE FUNCTION enrich() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN $(enrich flat_trigger r); RETURN NULL; END \$\$;
		CREATE TRIGGER enrich AFTER INSERT ON orders_trigger REFERENCING NEW TABLE AS r
			FOR EACH STATEMENT EXECUTE FUNCTION enrich()"
	for plugin in wal2json pgoutput; do
		sql "SELECT trucker.set_output_plugin('$plugin', '$plugin');
			SELECT trucker.create_truck('$plugin', '{orders}', output_sql => \$\$$(enrich "flat_$plugin" r)\$\$,
				options => '{\"stream\": \"$plugin\", \"inserts_only\": true, \"backfill\": false}');
			SELECT trucker.start('$plugin')" >/dev/null
		wait_until sql "state = 'streaming' FROM trucker.status WHERE truck = '$plugin'"
		stop_contender "$plugin"
		[ "$(sql "SELECT count(*) FROM pg_replication_slots WHERE plugin = '$plugin'")" -eq 1 ] ||
			die "there is not one slot of $plugin"
	done
	sql "CREATE PUBLICATION orders FOR TABLE orders WITH (publish = 'insert')"
	subscriber "$waiter"
	subscriber "CREATE TABLE orders ($columns)"
	subscriber "CREATE SUBSCRIPTION native CONNECTION 'host=$tmp/s port=5432 dbname=postgres user=postgres'
		PUBLICATION orders WITH (copy_data = false)"
	wait_until sql "count(*) = 1 FROM pg_stat_replication WHERE application_name = 'native'"
	stop_contender native
}

start_contender() {
	case $1 in
		native) subscriber "ALTER SUBSCRIPTION native ENABLE" ;;
		wal2json | pgoutput) sql "SELECT trucker.start('$1')" >/dev/null ;;
	esac
}

stop_contender() {
	case $1 in
		native)
			subscriber "ALTER SUBSCRIPTION native DISABLE"
			wait_until sql "NOT active FROM pg_replication_slots WHERE slot_name = 'native'"
			;;
		wal2json | pgoutput)
			sql "SELECT trucker.stop('$1')" >/dev/null
			wait_until sql "state = 'stopped' FROM trucker.status WHERE truck = '$1'"
			;;
	esac
}

# Sets worker and walsender, the contender's processes; it has been started.
find_processes() {
	worker=
	walsender=
	case $1 in
		native)
			wait_until sql "count(*) = 1 FROM pg_stat_replication WHERE application_name = 'native'"
			walsender=$(sql "SELECT pid FROM pg_stat_replication WHERE application_name = 'native'")
			worker=$(subscriber "SELECT pid FROM pg_stat_subscription WHERE subname = 'native'")
			;;
		wal2json | pgoutput)
			wait_until sql "count(*) = 1 FROM trucker.truck_workers() WHERE walsender_pid > 0"
			read -r worker walsender < <(sql "SELECT pid || ' ' || walsender_pid FROM trucker.truck_workers()")
			;;
	esac
}

# Waits until the row $2 can be seen where the contender writes.
wait_for_row() {
	case $1 in
		native) subscriber "CALL wait_for_row('orders', $2)" ;;
		wal2json | pgoutput | trigger) sql "CALL wait_for_row('flat_$1', $2)" ;;
	esac
}

# A last row, after all others; prints its id.
mark() {
	sql "INSERT INTO orders (customer_id, amount, quantity, note, placed) VALUES (1, 0, 0, 'mark', now()) RETURNING id"
}

# Start it, and let it read whatever it has not been measured with.  Its slot must not
# be left in front of that: it would be decoded once more, though not sent.
settle() {
	local lsn slot tries

	case $1 in
		native) slot="slot_name = 'native'" ;;
		wal2json | pgoutput) slot="plugin = '$1' AND slot_name <> 'native'" ;;
		*) return 0 ;;
	esac
	start_contender "$1"
	wait_for_row "$1" "$(mark)"
	lsn=$(sql "SELECT pg_current_wal_insert_lsn()")
	for ((tries = 0; tries < 3000; tries++)); do
		[ $((tries % 20)) -gt 0 ] || sql "CHECKPOINT"
		wait_for_row "$1" "$(mark)"
		[ "$(sql "SELECT restart_lsn >= '$lsn' FROM pg_replication_slots WHERE $slot")" != t ] || return 0
		sleep 0.05
	done
	die "the slot of $1 does not advance"
}

settle_all() {
	local name
	for name in wal2json pgoutput native; do
		settle "$name"
		stop_contender "$name"
	done
}

clear_destinations() {
	sql "TRUNCATE flat_wal2json, flat_pgoutput, flat_trigger, flat_bare"
	subscriber "TRUNCATE orders"
}

# The contenders of a run, in turns
turn() {
	local run=$1
	shift
	local -a all=("$@")
	local i
	for ((i = 0; i < $#; i++)); do
		echo "${all[(i + run) % $#]}"
	done
}

# ----
# One transaction
# ----

# The largest memory of its own that a process ever has, in kB, until it is told to end
watch_memory() {
	perl -e '
		my ($pid, $file) = @ARGV;
		my ($max, $end) = (0, 0);
		$SIG{TERM} = sub { $end = 1 };
		while (!$end && open my $status, "<", "/proc/$pid/status") {
			while (<$status>) { $max = $1 if /^RssAnon:\s+(\d+)/ && $1 > $max }
			select undef, undef, undef, 0.05;
		}
		open my $out, ">", $file or die;
		print $out $max;
	' "$1" "$2" &
	load_pid=$!
}

insert_orders() {
	sql "INSERT INTO $1 (customer_id, amount, quantity, note, placed)
		SELECT 1 + n % 10000, n % 100000 / 7.0, n % 100, 'note of order ' || n, now() FROM generate_series(1, $2) AS n"
}

# follow LOAD RUN CONTENDER LAST_ID: it has a backlog, and works it off.
follow() {
	local started worker walsender

	subscriber "CHECKPOINT"
	sql "CHECKPOINT"
	started=$EPOCHREALTIME
	start_contender "$3"
	find_processes "$3"
	result "$1" "$2" "$3" start_seconds "$(since "$started")"
	watch_memory "$worker" "$tmp/memory"
	wait_for_row "$3" "$4"
	result "$1" "$2" "$3" seconds "$(since "$started")"
	kill "$load_pid"
	wait "$load_pid" 2>/dev/null || true
	load_pid=
	result "$1" "$2" "$3" worker_cpu "$(cpu_of "$worker")"
	result "$1" "$2" "$3" walsender_cpu "$(cpu_of "$walsender")"
	result "$1" "$2" "$3" worker_mb "$(awk '{ printf "%.1f", $1 / 1024 }' "$tmp/memory")"
	stop_contender "$3"
}

# one_transaction LOAD RUN ROWS
one_transaction() {
	local load=$1 run=$2 n=$3 first last name started

	settle_all
	clear_destinations
	first=$(sql "SELECT 1 + max(id) FROM orders")
	started=$EPOCHREALTIME
	insert_orders orders "$n"
	result "$load" "$run" none seconds "$(since "$started")"
	last=$(sql "SELECT max(id) FROM orders")
	for name in $(turn "$run" native wal2json pgoutput bare trigger); do
		case $name in
			bare | trigger)
				sql "CHECKPOINT"
				started=$EPOCHREALTIME
				if [ "$name" = bare ]; then
					sql "$(enrich flat_bare "(SELECT * FROM orders WHERE id BETWEEN $first AND $last)")"
				else
					insert_orders orders_trigger "$n"
				fi
				result "$load" "$run" "$name" seconds "$(since "$started")"
				;;
			*) follow "$load" "$run" "$name" "$last" ;;
		esac
	done
	for name in wal2json pgoutput; do
		[ "$(sql "SELECT count(*) FROM (SELECT * FROM flat_bare EXCEPT SELECT * FROM flat_$name) AS d")" -eq 0 ] ||
			die "truck $name has not written what it should have"
	done
	[ "$(subscriber "SELECT count(*) FROM orders")" -ge "$n" ] || die "the subscription lacks rows"
	for name in wal2json pgoutput native trigger bare none; do
		result "$load" "$run" "$name" rows_per_second "$(awk -F '\t' -v l="$load" -v r="$run" -v c="$name" -v n="$n" \
			'$1 == l && $2 == r && $3 == c && $4 == "seconds" { printf "%.0f", n / $5 }' "$tmp/results")"
	done
	say "$load, run $run: $(awk -F '\t' -v l="$load" -v r="$run" '$1 == l && $2 == r && $4 == "seconds" { printf "%s %s s  ", $3, $5 }' "$tmp/results")"
}

# ----
# Many transactions
# ----

# pgbench's script for the table that the contender follows
table_of() {
	case $1 in
		none | trigger) echo "orders_$1" ;;
		*) echo orders ;;
	esac
}

write_scripts() {
	local name
	for name in none trigger native wal2json pgoutput; do
		echo "\\set customer random(1, 10000)
INSERT INTO $(table_of "$name") (customer_id, amount, quantity, note, placed) VALUES (:customer, 9.99, 1, 'an order', now());" >"$tmp/$name.sql"
	done
}

run_pgbench() {
	local name=$1
	shift
	"$bindir/pgbench" -n -M prepared -c "$clients" -j 1 -f "$tmp/$name.sql" "$@" postgres >"$tmp/pgbench.log" 2>&1 ||
		{ cat "$tmp/pgbench.log"; die "pgbench failed"; }
}

processor_used() {
	[ -z "$worker" ] || echo "$(cpu_of "$worker") $(cpu_of "$walsender")"
}

# many LOAD RUN CONTENDER: pgbench's arguments follow
many() {
	local load=$1 run=$2 name=$3 first started before after tps worker walsender
	shift 3

	settle "$name"
	find_processes "$name"
	sql "CHECKPOINT"
	first=$(sql "SELECT coalesce(max(id), 0) FROM $(table_of "$name")")
	before=$(processor_used)
	started=$EPOCHREALTIME
	run_pgbench "$name" "$@"
	result "$load" "$run" "$name" load_seconds "$(since "$started")"
	tps=$(awk '/^tps = / { print $3 }' "$tmp/pgbench.log")
	result "$load" "$run" "$name" tps "$tps"
	result "$load" "$run" "$name" source_ms "$(awk '/^latency average = / { print $4 }' "$tmp/pgbench.log")"
	if [ -n "$worker" ]; then
		wait_for_row "$name" "$(mark)"
		result "$load" "$run" "$name" seconds "$(since "$started")"
		after=$(processor_used)
		result "$load" "$run" "$name" worker_cpu "$(echo "$before $after" | awk '{ printf "%.2f", $3 - $1 }')"
		result "$load" "$run" "$name" walsender_cpu "$(echo "$before $after" | awk '{ printf "%.2f", $4 - $2 }')"
		[ "$load" != paced ] || latency "$run" "$name" "$first"
	fi
	stop_contender "$name"
}

latency() {
	local seen figure value destination="flat_$2"

	seen="pg_xact_commit_timestamp(d.xmin)"
	if [ "$2" = native ]; then
		seen=d.seen
		destination=seen_native
		sql "TRUNCATE seen_native"
		subscriber "COPY (SELECT id, seen FROM orders WHERE id > $3) TO STDOUT" | sql "COPY seen_native FROM STDIN"
	fi
	while IFS='|' read -r figure value; do
		result paced "$1" "$2" "$figure" "$value"
	done < <(sql "WITH l AS (
			SELECT 1000 * extract(epoch FROM $seen - pg_xact_commit_timestamp(o.xmin)) AS ms
			FROM orders AS o JOIN $destination AS d USING (id) WHERE o.id > $3)
		SELECT 'transactions', count(*) FROM l
		UNION ALL SELECT 'p50_ms', round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2) FROM l
		UNION ALL SELECT 'p99_ms', round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 2) FROM l
		UNION ALL SELECT 'max_ms', round(max(ms)::numeric, 2) FROM l")
}

measure_one_row() {
	local run=$1 name

	clear_destinations
	sql "TRUNCATE orders_none, orders_trigger"
	settle_all
	for name in $(turn "$run" none trigger native wal2json pgoutput); do
		PGOPTIONS="-c synchronous_commit=off" many one-row "$run" "$name" -t $((one_row / clients))
	done
	say "one-row, run $run: $(awk -F '\t' -v r="$run" '$1 == "one-row" && $2 == r && ($4 == "tps" || $4 == "seconds") { printf "%s %s %s  ", $3, $5, $4 == "tps" ? "tps" : "s" }' "$tmp/results")"
}

measure_paced() {
	local run=$1 name

	clear_destinations
	settle_all
	sql "TRUNCATE orders_none, orders_trigger"
	for name in $(turn "$run" none trigger native wal2json pgoutput); do
		many paced "$run" "$name" -R "$rate" -T "$paced_seconds"
	done
	say "paced, run $run: $(awk -F '\t' -v r="$run" '$1 == "paced" && $2 == r && $4 ~ /_ms$/ { printf "%s %s %s  ", $3, $4, $5 }' "$tmp/results")"
}

# ----
# Results
# ----

# What the bars are about: a figure of one contender over that of another (or by itself),
# in one run; then the median of the runs.
bars="VALUES
	(1, 'catch-up: native''s seconds / pgoutput''s', 'catch-up', 'seconds', 'native', 'pgoutput', '>=', 2.0),
	(2, 'catch-up: native''s seconds / wal2json''s', 'catch-up', 'seconds', 'native', 'wal2json', '>=', 1.2),
	(3, 'catch-up: pgoutput''s seconds / bare''s', 'catch-up', 'seconds', 'pgoutput', 'bare', '<=', 2.5),
	(4, 'one-row: pgoutput''s seconds / native''s', 'one-row', 'seconds', 'pgoutput', 'native', '<=', 1.0),
	(5, 'one-row: wal2json''s seconds / native''s', 'one-row', 'seconds', 'wal2json', 'native', '<=', 1.0),
	(6, 'one-row: tps with pgoutput / with the trigger', 'one-row', 'tps', 'pgoutput', 'trigger', '>=', 1.3),
	(7, 'one-row: tps with wal2json / with the trigger', 'one-row', 'tps', 'wal2json', 'trigger', '>=', 1.3),
	(8, 'one-row: tps with pgoutput / with none', 'one-row', 'tps', 'pgoutput', 'none', '>=', 0.9),
	(9, 'one-row: tps with wal2json / with none', 'one-row', 'tps', 'wal2json', 'none', '>=', 0.9),
	(9.1, 'paced: tps with pgoutput / with none', 'paced', 'tps', 'pgoutput', 'none', '>=', 0.9),
	(9.2, 'paced: tps with wal2json / with none', 'paced', 'tps', 'wal2json', 'none', '>=', 0.9),
	(10, 'paced: p50 of pgoutput, ms', 'paced', 'p50_ms', 'pgoutput', NULL, '<', 5),
	(11, 'paced: p99 of pgoutput, ms', 'paced', 'p99_ms', 'pgoutput', NULL, '<', 50),
	(12, 'paced: p50 of wal2json, ms', 'paced', 'p50_ms', 'wal2json', NULL, '<', 5),
	(13, 'paced: p99 of wal2json, ms', 'paced', 'p99_ms', 'wal2json', NULL, '<', 50),
	(14, 'huge: memory of pgoutput''s worker, MB', 'huge', 'worker_mb', 'pgoutput', NULL, '<', 128),
	(15, 'huge: memory of wal2json''s worker, MB', 'huge', 'worker_mb', 'wal2json', NULL, '<', 128)"

make_views() {
	sql "CREATE TABLE result (load text, run int, contender text, figure text, value numeric)"
	sql "COPY result FROM STDIN" <"$tmp/results"
	sql "CREATE VIEW median AS
			SELECT load, contender, figure, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY value)::numeric, 3) AS value
			FROM result GROUP BY 1, 2, 3;
		CREATE VIEW bar AS
			SELECT n, bar, op || ' ' || wanted AS wanted, round(measured, 2) AS measured,
				CASE WHEN measured IS NULL THEN 'not measured'
					WHEN CASE op WHEN '>=' THEN measured >= wanted WHEN '<=' THEN measured <= wanted ELSE measured < wanted END THEN 'met'
					ELSE 'missed' END AS verdict, runs
			FROM ($bars) AS b (n, bar, load, figure, contender, other, op, wanted)
			CROSS JOIN LATERAL (
				SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ratio)::numeric AS measured, array_agg(round(ratio, 2) ORDER BY run) AS runs
				FROM (
					SELECT x.run, x.value / coalesce(y.value, 1) AS ratio
					FROM result AS x
					LEFT JOIN result AS y ON (y.load, y.run, y.figure, y.contender) = (x.load, x.run, x.figure, b.other)
					WHERE (x.load, x.figure, x.contender) = (b.load, b.figure, b.contender)) AS r) AS m"
}

print_results() {
	local column figures="" psql="$bindir/psql -X -d postgres -P border=1 -P footer=off"

	for column in seconds start_seconds rows_per_second tps source_ms p50_ms p99_ms max_ms worker_cpu walsender_cpu worker_mb; do
		figures="$figures, trim_scale(max(value) FILTER (WHERE figure = '$column')) AS $column"
	done
	say "medians ($rows rows, $huge_rows rows, $one_row transactions, $rate transactions a second; $runs runs)"
	$psql -c "SELECT load, contender$figures FROM median GROUP BY 1, 2
		ORDER BY array_position('{catch-up,huge,one-row,paced}', load), array_position('{pgoutput,wal2json,native,trigger,bare,none}', contender)"
	say "bars"
	$psql -c "SELECT bar, wanted, measured, verdict, array_to_string(runs, ' ') AS runs FROM bar ORDER BY n"
}

write_json() {
	sql "SELECT jsonb_pretty(jsonb_build_object(
		'server', current_setting('server_version'), 'at', now(),
		'machine', \$\$$(uname -srm), $(nproc) cores\$\$, 'load_average', jsonb_build_object('before', \$\$$load_before\$\$, 'after', \$\$$(cut -d ' ' -f 1-3 /proc/loadavg)\$\$),
		'rows', $rows, 'huge_rows', $huge_rows, 'one_row', $one_row, 'rate', $rate, 'paced_seconds', $paced_seconds, 'runs', $runs, 'clients', $clients,
		'medians', (SELECT jsonb_agg(to_jsonb(m)) FROM median AS m),
		'bars', (SELECT jsonb_agg(to_jsonb(b) - 'n' ORDER BY n) FROM bar AS b),
		'results', (SELECT jsonb_agg(to_jsonb(r)) FROM result AS r)))" >"$json"
	say "JSON: $json"
}

# Where does the time go?  Static functions of packaged programs have no symbols.
profile() {
	local name last worker walsender process

	command -v perf >/dev/null || { say "no profile: perf is not installed (Debian: linux-perf)"; return; }
	settle_all
	insert_orders orders "$rows"
	last=$(sql "SELECT max(id) FROM orders")
	for name in wal2json pgoutput; do
		start_contender "$name"
		find_processes "$name"
		perf record -q -F 997 -p "$worker,$walsender" -o "$tmp/perf.data" >"$tmp/perf.log" 2>&1 &
		load_pid=$!
		wait_for_row "$name" "$last"
		kill -INT "$load_pid"
		wait "$load_pid" || true
		load_pid=
		for process in worker walsender; do
			say "$name, $process: per cent of its samples"
			perf report -q -i "$tmp/perf.data" --pid "${!process}" --percentage relative --sort dso,symbol --stdio 2>>"$tmp/perf.log" |
				awk '/%/ { name = $4 ~ /^0x/ ? "(no symbol)" : $4; sum[$2 " " name] += $1; sum[$2 " ALL"] += $1 }
					END { for (n in sum) if (sum[n] >= 1) printf "%5.1f  %s\n", sum[n], n }' | sort -rn | head -n 30
		done
		stop_contender "$name"
	done
}

load_before=$(cut -d ' ' -f 1-3 /proc/loadavg)
prepare
make_tmp bench
build_and_install "$root"
settings=("shared_buffers = 512MB" "max_wal_size = 16GB" "autovacuum = off" "log_min_messages = warning" "checkpoint_timeout = 1h")
start_server "${settings[@]}" "track_commit_timestamp = on" "trucker.max_truck_delay = 0"
start_subscriber
create_contenders
write_scripts
if [ "$rows" -gt 0 ]; then
	for ((run = 1; run <= runs; run++)); do
		one_transaction catch-up "$run" "$rows"
	done
fi
if [ "$one_row" -gt 0 ]; then
	for ((run = 1; run <= runs; run++)); do
		measure_one_row "$run"
	done
fi
if [ "$paced_seconds" -gt 0 ]; then
	clear_destinations
	subscriber "ALTER TABLE orders ADD seen timestamptz DEFAULT clock_timestamp()"
	for ((run = 1; run <= runs; run++)); do
		measure_paced "$run"
	done
	subscriber "ALTER TABLE orders DROP seen"
fi
[ "$huge_rows" -eq 0 ] || one_transaction huge 1 "$huge_rows"
[ -z "${PERF:-}" ] || profile
make_views
print_results
write_json
