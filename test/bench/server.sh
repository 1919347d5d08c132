# server.sh: what benchmarks share that make servers: their end, whatever happens.
# Sourced.  A script may set load_pid to a process that is to end, too.

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

load_pid=

finish() {
	local status=$?
	trap - EXIT
	set +e
	[ -z "$load_pid" ] || kill "$load_pid" 2>/dev/null
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
