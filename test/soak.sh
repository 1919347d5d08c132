#!/bin/bash
# soak.sh (make soak): build, install, and run test/soak.pl as the server's user.
# soak.pl says what MINUTES, HUGE_ROWS and TRUCKER_SEED are.  KEEP=1 keeps the
# temporary directory; it is kept, too, when something has failed.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

finish() {
	local status=$?
	trap - EXIT
	set +e
	cd /
	if [ "$status" -ne 0 ] && [ -d "$tmp/tap" ] || [ -n "${KEEP:-}" ] && [ -n "$tmp" ]; then
		kill_servers
		say "kept $tmp"
	else
		remove_tmp
	fi
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

prepare tests
make_tmp soak
mkdir "$tmp/tree"
tar -C "$root" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude=./tmp_check --exclude=./results -cf - . |
	tar -C "$tmp/tree" -xf -
if [ -w "$root" ] && [ -w "$root/src" ]; then
	build_and_install "$root"
else
	build_and_install "$tmp/tree"
fi
[ -z "$server_user" ] || chown -R "$server_user:" "$tmp/tree"
as_server_user mkdir "$tmp/tap"

say "soaking for ${MINUTES:-60} minutes"
pgxs_src=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
export PERL5LIB=$pgxs_src/test/perl:$tmp/tree/test/lib
export PG_REGRESS=$pgxs_src/test/regress/pg_regress
export TESTDIR=$tmp/tap PGPORT=65432 PATH=$bindir:$PATH
cd "$tmp/tree"
# Each test that passes is a line; what is worth reading goes to stderr.
as_server_user perl test/soak.pl >"$tmp/soak.log" || {
	status=$?
	grep -E '^(not ok|Bail)' "$tmp/soak.log" || true
	exit "$status"
}
say "passed: $(grep -c '^ok' "$tmp/soak.log") tests"
