# common.sh: what run.sh and demo.sh share: a temporary directory, building and
# installing, and a server in that directory.  To be sourced.
#
# PostgreSQL refuses to run as root.  So as root, servers and tests run as user
# postgres (nobody, where there is none), through as_server_user; as anybody else,
# everything runs as the caller, and only packages and "make install" take sudo.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tmp=

say() {
	printf '== %s\n' "$*"
}

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# Neither the caller's libpq settings nor an outer make may reach what runs here.
clear_environment() {
	local name
	for name in $(compgen -e PG); do
		case $name in
			PG_CONFIG | PG_TEST_*) ;;
			*) unset "$name" ;;
		esac
	done
	unset MAKEFLAGS MFLAGS MAKELEVEL TEMP_CONFIG PERL5LIB
	export LC_ALL=C.UTF-8 PSQLRC=/dev/null
	umask 022
}

# Installs what is missing, with "tests" also what only these need; sets PG_CONFIG, bindir,
# server_user.
prepare() {
	clear_environment
	"$root/test/setup.sh" "$@"

	if [ -z "${PG_CONFIG:-}" ]; then
		PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
		[ -x "$PG_CONFIG" ] || PG_CONFIG=pg_config
	fi
	PG_CONFIG=$(command -v "$PG_CONFIG") || die "pg_config was not found; set PG_CONFIG"
	export PG_CONFIG
	bindir=$("$PG_CONFIG" --bindir)
	[ -x "$bindir/initdb" ] || die "there is no server in $bindir; set PG_CONFIG"

	server_user=
	if [ "$(id -u)" -eq 0 ]; then
		server_user=postgres
		id -u "$server_user" >/dev/null 2>&1 || server_user=nobody
	fi
	say "$("$PG_CONFIG" --version), servers run as $(as_server_user id -un)"
}

# Becomes the command: in the background, $! is its process id.
as_server_user() {
	if [ -z "$server_user" ]; then
		"$@"
	else
		setpriv --reuid="$server_user" --regid="$(id -g "$server_user")" --init-groups \
			env HOME="${tmp:-/}" USER="$server_user" LOGNAME="$server_user" "$@"
	fi
}

# Makes the directory $tmp, which the server's user owns and can reach.  The name
# stays short, for the path of a unix socket has at most 107 bytes.
make_tmp() {
	local base
	for base in "${TMPDIR:-/tmp}" /tmp; do
		[ -d "$base" ] && [ "${#base}" -le 50 ] || continue
		tmp=$(mktemp -d "$base/trucker-$1.XXXXXX")
		[ -z "$server_user" ] || chown "$server_user:" "$tmp"
		if as_server_user test -w "$tmp"; then
			export TMPDIR=$tmp
			cd "$tmp"
			return
		fi
		rmdir "$tmp"
	done
	die "could not make a temporary directory that the server's user can reach"
}

# Builds in $1 as the caller; installs as root if the directories ask for it.
build_and_install() {
	local tree=$1 log=$tmp/build.log
	local -a sudo=()
	local lock

	# Two makes in one tree would write the same files.
	exec {lock}<"$tree/Makefile"
	flock "$lock"
	say "building"
	if ! make -C "$tree" -j"$(nproc)" >"$log" 2>&1; then
		cat "$log"
		die "the build failed"
	fi
	if [ ! -w "$("$PG_CONFIG" --pkglibdir)" ] || [ ! -w "$("$PG_CONFIG" --sharedir)/extension" ]; then
		sudo=(sudo env "PG_CONFIG=$PG_CONFIG" "PATH=$PATH")
		for name in WERROR COPT PROFILE; do
			[ -z "${!name+set}" ] || sudo+=("$name=${!name}")
		done
	fi
	say "installing into $("$PG_CONFIG" --pkglibdir)"
	if ! "${sudo[@]}" make -C "$tree" install >"$log" 2>&1; then
		cat "$log"
		die "the installation failed"
	fi
	exec {lock}<&-
}

# Some minor releases allow only the output plugins that this setting lists; the
# older ones refuse to start with a setting that they do not know.
server_knows() {
	[[ $'\n'$("$bindir/postgres" --describe-config) == *$'\n'"$1"$'\t'* ]]
}

# Makes and starts a cluster in $tmp/data; its socket is in $tmp/s.  Arguments:
# additional lines for postgresql.conf.
start_server() {
	as_server_user mkdir -m 0700 "$tmp/s"
	as_server_user "$bindir/initdb" -D "$tmp/data" -U postgres -A trust -N \
		--no-locale -E UTF8 >"$tmp/initdb.log" 2>&1 || { cat "$tmp/initdb.log"; die "initdb failed"; }
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$tmp/s'"
		echo "wal_level = logical"
		echo "shared_preload_libraries = 'trucker'"
		echo "max_replication_slots = 50"
		echo "max_wal_senders = 50"
		echo "max_worker_processes = 50"
		if server_knows output_plugin_libraries; then
			echo "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'"
		fi
		printf '%s\n' "$@"
	} >>"$tmp/data/postgresql.conf"
	if ! as_server_user "$bindir/pg_ctl" -D "$tmp/data" -l "$tmp/server.log" -w start >"$tmp/start.log" 2>&1; then
		cat "$tmp/start.log" "$tmp/server.log"
		die "the server did not start"
	fi
	export PGHOST=$tmp/s PGPORT=5432 PGUSER=postgres
}

stop_server() {
	if ! as_server_user "$bindir/pg_ctl" -D "$tmp/data" -m fast -w stop >"$tmp/stop.log" 2>&1; then
		cat "$tmp/stop.log"
		die "the server did not stop"
	fi
}

# Ends whatever server still runs in $tmp, ours or a test's that was killed; each
# by its process id, after checking that it is the process meant.
kill_servers() {
	local file pid tries
	while IFS= read -r file; do
		pid=$(head -n 1 "$file" 2>/dev/null || true)
		[ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		for ((tries = 0; tries < 100; tries++)); do
			[ -e "/proc/$pid" ] || break
			sleep 0.1
		done
		[ ! -e "/proc/$pid" ] || kill -KILL "$pid" 2>/dev/null || true
	done < <(find "$tmp" -name postmaster.pid 2>/dev/null)
}

remove_tmp() {
	[ -n "$tmp" ] || return 0
	cd /
	kill_servers
	rm -rf "$tmp"
}
