#!/bin/bash
# demo.sh (make demo): trucker at work.  Installs what is missing, builds, installs,
# makes a server in a temporary directory, and runs the trucks of examples/pgbench
# on pgbench's tables while pgbench changes them; then compares what they wrote with
# what the source says.  Leaves nothing behind.
#
#   KEEP=1             leave the server up, and say how to reach and stop it
#   DEMO_SECONDS=20    how long to watch after the backfill
#   DEMO_RATE=400      transactions a second that pgbench attempts
#   DEMO_SCALE=10      pgbench's scale: accounts / 100,000
#   PG_CONFIG=...      another server
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

example=$root/examples/pgbench
load_pid=
keep=

finish() {
	local status=$?
	trap - EXIT
	set +e
	stop_load
	if [ -z "$keep" ]; then
		if [ "$status" -ne 0 ] && [ -s "$tmp/server.log" ]; then
			say "end of the server's log"
			tail -n 40 "$tmp/server.log"
		fi
		remove_tmp
	fi
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

sql() {
	"$bindir/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}

start_load() {
	"$bindir/pgbench" -n -c 4 -j 2 -R "${DEMO_RATE:-400}" -T 3600 -P 1 --max-tries=10 \
		-b tpcb-like@8 -f "$example/churn.sql@2" demo >"$tmp/pgbench.log" 2>&1 &
	load_pid=$!
}

load_is_up() {
	kill -0 "$load_pid" 2>/dev/null || { cat "$tmp/pgbench.log"; die "pgbench ended"; }
}

stop_load() {
	[ -n "$load_pid" ] || return 0
	kill "$load_pid" 2>/dev/null || true
	wait "$load_pid" 2>/dev/null || true
	load_pid=
}

# pgbench is gone at once, but the server may still be busy with its last commit.
wait_until_load_is_gone() {
	until [ "$(sql -At -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'")" -eq 0 ]; do
		sleep 0.1
	done
}

# What pgbench did in its last second.
load_tps() {
	sed -n 's/^progress: [0-9.]* s, \([0-9]*\).*/\1/p' "$tmp/pgbench.log" | tail -n 1
}

# true once the truck has all that was committed before the question
has_arrived() {
	[ "$(sql -At -c "SELECT trucker.wait_for('$1', timeout => '$2')")" = t ]
}

print_status() {
	sql -x -c 'SELECT * FROM trucker.status ORDER BY truck'
}

watch_backfill() {
	local truck states shown=

	for truck in flat_accounts branch_totals; do
		until has_arrived "$truck" '1 s'; do
			load_is_up
			states=$(sql -At -c "SELECT format('  %s: %s', truck, state) FROM trucker.status ORDER BY truck")
			[ "$states" = "$shown" ] || echo "$states"
			shown=$states
			if [ $((SECONDS - start)) -gt 300 ]; then
				print_status
				die "the trucks did not catch up within 5 minutes"
			fi
		done
	done
	say "backfilled and caught up, $((SECONDS - start)) s after start()"
	sql -c "SELECT (SELECT count(*) FROM flat_accounts) AS flat_accounts, (SELECT count(*) FROM branch_totals) AS branch_totals"
}

watch_latency() {
	local second row

	printf '%6s %10s %20s %22s %22s\n' second "load, tps" "commit to visible" "behind: flat_accounts" "behind: branch_totals"
	for ((second = 1; second <= ${DEMO_SECONDS:-20}; second++)); do
		load_is_up
		row=$(sql -At -F ' ' -f "$example/latency.sql")
		case $row in
			'' | MISSING*) print_status; die "a change that wait_for() had reported was not there" ;;
		esac
		# shellcheck disable=SC2086
		printf '%6s %10s %17s ms %16s bytes %16s bytes\n' "$second" "$(load_tps)" $row
		sleep 1
	done
}

# Prints PASS or FAIL for each truck.
check() {
	local truck result

	for truck in flat_accounts branch_totals; do
		if ! has_arrived "$truck" '120 s'; then
			print_status
			die "$truck did not catch up"
		fi
	done
	result=$(sql -At -f "$example/check.sql")
	echo "$result"
	if [[ $result == *FAIL* ]] || [ "$(grep -c '^PASS' <<<"$result")" -ne 2 ]; then
		die "a truck's table differs from its query over the source"
	fi
}

prepare
make_tmp demo
if [ -w "$root" ] && [ -w "$root/src" ]; then
	build_and_install "$root"
else
	mkdir "$tmp/tree"
	tar -C "$root" --exclude=./.git -cf - . | tar -C "$tmp/tree" -xf -
	build_and_install "$tmp/tree"
fi

say "starting a server in $tmp"
start_server
"$bindir/createdb" demo
export PGDATABASE=demo
sql -c 'CREATE EXTENSION trucker'

say "pgbench makes its tables"
"$bindir/pgbench" -i -q -s "${DEMO_SCALE:-10}" demo >"$tmp/pgbench-init.log" 2>&1 || { cat "$tmp/pgbench-init.log"; die "pgbench -i failed"; }
sql -f "$example/tables.sql"

say "pgbench starts to change them: 4 connections, ${DEMO_RATE:-400} transactions a second"
start_load

start=$SECONDS
say "two trucks start (examples/pgbench/trucks.sql): flat_accounts and branch_totals"
sql -f "$example/trucks.sql" >/dev/null
watch_backfill

say "changes flow"
watch_latency

say "SELECT * FROM trucker.status"
print_status

say "the load stops; is each truck's table equal to its query over the source?"
stop_load
wait_until_load_is_gone
check

if [ -n "${KEEP:-}" ]; then
	keep=1
	as_user=
	[ -z "$server_user" ] || as_user="runuser -u $server_user -- "
	cat <<END

The server stays up.
  connect:  $bindir/psql -h $PGHOST -U postgres demo
  stop:     cd / && $as_user$bindir/pg_ctl -D $tmp/data -m fast stop && rm -rf $tmp
END
else
	stop_server
	say "done, the server is gone"
fi
