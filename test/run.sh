#!/bin/bash
# run.sh (make test): install what is missing, build, install, run pg_regress on a
# server of its own and then the TAP tests, which make theirs.  Ends with a line
# "N passed, N failed": files of pg_regress and single TAP tests.  Leaves nothing.
#
#   TESTS="sql/a.sql test/t/b.pl"  only these
#   TEST_JOBS=4                    TAP files at a time (2)
#   TEST_VERBOSE=1                 print each TAP test
#   KEEP=1                         keep the temporary directory, for its logs
#   PG_CONFIG=/path/to/pg_config   another server, for example one with assertions
#   TRUCKER_OUTPUT_PLUGIN=pgoutput trucker.output_plugin for tests that do not set it
#   TRUCKER_TEST_CONF="a = 1"   more lines for the end of each server's postgresql.conf
#
# The tests work on a copy of the tree that the server's user owns: root's checkout
# may be closed to it, and no test can dirty the tree.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

passed=0
failed=0
skipped=0
finished=

# The count is the last line, whatever happened before.
finish() {
	local status=$?
	trap - EXIT
	set +e
	if [ -z "$finished" ]; then
		failed=$((failed + 1))
	fi
	if [ -n "${KEEP:-}" ] && [ -n "$tmp" ]; then
		cd /
		kill_servers
		say "kept $tmp"
	else
		remove_tmp
	fi
	if [ "$skipped" -gt 0 ]; then
		say "$skipped skipped, which are not counted as passed"
	fi
	if [ "$failed" -gt 0 ] && [ "$status" -eq 0 ]; then
		status=1
	fi
	echo "$passed passed, $failed failed"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Sets the arrays regress (names) and tap (paths) from TESTS, or to all there are.
choose_tests() {
	local test path
	regress=()
	tap=()
	if [ -z "${TESTS:-}" ]; then
		for path in "$root"/sql/*.sql; do
			[ ! -e "$path" ] || regress+=("$(basename "$path" .sql)")
		done
		for path in "$root"/test/t/*.pl; do
			[ ! -e "$path" ] || tap+=("test/t/$(basename "$path")")
		done
		[ "${#tap[@]}" -gt 0 ] || die "there are no TAP tests"
		return
	fi
	for test in $TESTS; do
		case $test in
			*.pl) path=test/t/$(basename "$test"); tap+=("$path") ;;
			*.sql) path=sql/$(basename "$test"); regress+=("$(basename "$test" .sql)") ;;
			*) die "TESTS: \"$test\" is neither a .sql nor a .pl file" ;;
		esac
		[ -e "$root/$path" ] || die "TESTS: there is no $path"
	done
}

copy_tree() {
	mkdir "$tmp/tree"
	tar -C "$root" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude=./tmp_check --exclude=./results -cf - . |
		tar -C "$tmp/tree" -xf -
}

run_regress() {
	local log=$tmp/regress.log count

	[ "${#regress[@]}" -gt 0 ] || return 0
	say "pg_regress"
	# A server that is to be thrown away need not survive the machine.
	start_server "fsync = off" "log_statement = all"
	as_server_user make -s -C "$tmp/tree" installcheck TAP_TESTS= REGRESS="${regress[*]}" 2>&1 | tee "$log" || true
	stop_server

	# "... ok" is what 15 prints, "ok N" what 16 and later do.
	count=$(grep -cE '\.\.\. ok( |$)|^ok [0-9]' "$log" || true)
	passed=$((passed + count))
	if [ "$count" -lt "${#regress[@]}" ]; then
		failed=$((failed + ${#regress[@]} - count))
		if [ -s "$tmp/tree/regression.diffs" ]; then
			say "regression.diffs"
			head -n 400 "$tmp/tree/regression.diffs"
		fi
		say "end of the server's log"
		tail -n 40 "$tmp/server.log"
	fi
}

run_tap() {
	local result=$tmp/tap/result word value name log

	[ "${#tap[@]}" -gt 0 ] || return 0
	say "TAP tests"
	as_server_user mkdir "$tmp/tap"
	(
		unset PGHOST PGUSER
		cd "$tmp/tree"
		pgxs_src=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
		export PERL5LIB=$pgxs_src/test/perl:$tmp/tree/test/lib
		export PG_REGRESS=$pgxs_src/test/regress/pg_regress
		export TESTDIR=$tmp/tap PGPORT=65432 PATH=$bindir:$PATH
		as_server_user perl test/tap.pl "$result" "${tap[@]}"
	) || true

	if [ ! -s "$result" ]; then
		failed=$((failed + 1))
		return
	fi
	while read -r word value; do
		case $word in
			passed) passed=$((passed + value)) ;;
			failed) failed=$((failed + value)) ;;
			skipped) skipped=$((skipped + value)) ;;
			bad)
				name=$(basename "$value" .pl)
				for log in "$tmp/tap/tmp_check/log/regress_log_$name" "$tmp/tap/tmp_check/log/${name}"_*.log; do
					[ -s "$log" ] || continue
					say "end of $(basename "$log")"
					tail -n 60 "$log"
				done
				;;
		esac
	done <"$result"
	if [ "$(grep -cE '^(passed|failed) [1-9]' "$result")" -eq 0 ]; then
		say "no TAP test ran"
		failed=$((failed + 1))
	fi
}

choose_tests
prepare tests
make_tmp test
copy_tree
# Objects stay in the tree for the next build, unless it is not ours to write to.
if [ -w "$root" ] && [ -w "$root/src" ]; then
	build_and_install "$root"
else
	build_and_install "$tmp/tree"
fi
[ -z "$server_user" ] || chown -R "$server_user:" "$tmp/tree"
run_regress
run_tap
finished=1
