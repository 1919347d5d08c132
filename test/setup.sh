#!/bin/bash
# setup.sh: install the Debian packages that building and showing trucker takes, and with
# the argument "tests" what its tests take.  Does nothing, and needs no rights, where all
# are there.
#
# Leaves the machine's own servers alone: if PostgreSQL was not installed before,
# the package does not get to create and start its "main" cluster.  One exception
# is out of our hands: where the server is there but not its headers, both are
# brought to the same minor release, and Debian restarts clusters on an upgrade.
#
# With PG_CONFIG set to a server that is not Debian's, only tools are installed;
# that server's headers, and a wal2json built for it, are the caller's business.
set -euo pipefail

debian_pg_config=/usr/lib/postgresql/15/bin/pg_config

tools="gcc libc6-dev make perl libyaml-dev openssl"
programs=
if [ "${1:-}" = tests ]; then
	tools="$tools libipc-run-perl graphviz"
	# wanted as programs; the packages would also run them as services
	programs="pgbouncer prometheus prometheus-postgres-exporter"
fi
server="postgresql-15 postgresql-server-dev-15 postgresql-15-wal2json libpq-dev"

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "setup.sh: not Debian, nothing installed; needed: $tools $server (or their like)" >&2
	exit 0
fi

is_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

wanted=$tools
if [ -z "${PG_CONFIG:-}" ] || [ "$PG_CONFIG" = "$debian_pg_config" ] || ! command -v "$PG_CONFIG" >/dev/null; then
	wanted="$wanted $server"
fi

missing=
for package in $wanted; do
	is_installed "$package" || missing="$missing $package"
done
no_service=
for package in $programs; do
	is_installed "$package" || no_service="$no_service $package"
done
[ -n "$missing$no_service" ] || exit 0

# Headers must not be newer than the server that loads what is built with them.
case $missing in
	*postgresql-server-dev-15*) missing="$missing postgresql-15" ;;
esac

if [ "$(id -u)" -eq 0 ]; then
	as_root() { "$@"; }
elif command -v sudo >/dev/null; then
	as_root() { sudo "$@"; }
else
	echo "setup.sh: missing packages:$missing$no_service" >&2
	echo "setup.sh: run as root, or as a user who may sudo" >&2
	exit 1
fi

conf_dir=/etc/postgresql-common/createcluster.d
conf=$conf_dir/trucker-setup.conf
made_conf=
made_conf_dir=
policy=/usr/sbin/policy-rc.d
made_policy=
log=

cleanup() {
	[ -z "$log" ] || rm -f "$log"
	[ -z "$made_conf" ] || as_root rm -f "$conf"
	[ -z "$made_policy" ] || as_root rm -f "$policy"
	[ -z "$made_conf_dir" ] || as_root rmdir --ignore-fail-on-non-empty "$conf_dir"
}
trap cleanup EXIT

if ! is_installed postgresql-15; then
	[ -d "$conf_dir" ] || made_conf_dir=1
	made_conf=1
	as_root mkdir -p "$conf_dir"
	echo "create_main_cluster = false" | as_root tee "$conf" >/dev/null
fi

log=$(mktemp)
apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null || {
		cat "$log" >&2
		echo "setup.sh: could not install:$missing$no_service" >&2
		exit 1
	}
}
echo "== installing:$missing$no_service"
apt_get update
# shellcheck disable=SC2086
[ -z "$missing" ] || apt_get install -y --no-install-recommends $missing
if [ -n "$no_service" ]; then
	if [ ! -e "$policy" ]; then
		made_policy=1
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
		as_root chmod 755 "$policy"
	fi
	# shellcheck disable=SC2086
	apt_get install -y --no-install-recommends $no_service
	for package in $no_service; do
		as_root update-rc.d "$package" disable >/dev/null 2>&1 || true
	done
fi
