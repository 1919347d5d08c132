#!/bin/bash
# run.sh (make fuzz): fuzz the decoders, the templates and the readers of a project's
# YAML files with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, outside of
# a server.
#
#   RUNS=500000                  executions of each target
#   FUZZ_DIR=/some/dir           where to build and to keep what is found (a new
#                                temporary directory)
#   TARGETS="wal2json project"   which (wal2json pgoutput template project)
#   MINIMIZE=1                   afterwards put the corpus, minimised, in the place of
#                                the one in the tree
#   PG_CONFIG=/path/to/pg_config whose headers and libpgcommon are used
#
# Needs clang with libFuzzer (Debian: clang-14 libclang-rt-14-dev) and libyaml.  A file crash-... or
# timeout-... is an input that something is wrong with; the target prints what, and
# runs it again if it is given as argument.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
RUNS=${RUNS:-500000}
TARGETS=${TARGETS:-wal2json pgoutput template project}
FUZZ_DIR=${FUZZ_DIR:-$(mktemp -d /tmp/trucker-fuzz.XXXXXX)}
CLANG=${CLANG:-$(command -v clang-14 || command -v clang || true)}

if [ -z "$CLANG" ]; then
	echo "fuzz: clang was not found (Debian: apt-get install clang-14 libclang-rt-14-dev)" >&2
	exit 1
fi

# The static libraries stand with the server's others, wherever its headers are.
for lib in "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --libdir)"; do
	if [ -e "$lib/libpgcommon.a" ]; then
		break
	fi
done

sources() {
	case $1 in
		wal2json) echo ../../src/wal2json.c ../../src/wal2json_v1.c ../../src/wal2json_reader.c ;;
		pgoutput) echo ../../src/pgoutput.c ;;
		template) echo ../../src/template.c ../../src/template_lex.c ../../src/template_parse.c ;;
		project) echo ../../src/template.c ../../src/template_lex.c ../../src/template_parse.c \
			../../src/yaml_reader.c ../../src/project_text.c ../../src/project_yaml.c ;;
		*) echo "fuzz: there is no target \"$1\"" >&2; exit 1 ;;
	esac
}

# The server's headers want GCC's names of formats; -w keeps clang quiet about them.
build() {
	# shellcheck disable=SC2046
	"$CLANG" -w -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
		-I"$("$PG_CONFIG" --includedir-server)" -I../../src -o "$FUZZ_DIR/$1" \
		"fuzz_$1.c" server.c $(sources "$1") "$lib/libpgcommon.a" "$lib/libpgport.a" -lyaml
}

mkdir -p "$FUZZ_DIR"
for target in $TARGETS; do
	build "$target"
	mkdir -p "$FUZZ_DIR/$target.corpus"
	echo "== $target: $RUNS executions, in $FUZZ_DIR"
	"$FUZZ_DIR/$target" -runs="$RUNS" -max_len=4096 -timeout=10 -dict="$target.dict" \
		-artifact_prefix="$FUZZ_DIR/$target." -print_final_stats=1 \
		"$FUZZ_DIR/$target.corpus" "corpus/$target" >"$FUZZ_DIR/$target.log" 2>&1 ||
		{ tail -n 40 "$FUZZ_DIR/$target.log" >&2; exit 1; }
	grep -E '^(stat::|Done)' "$FUZZ_DIR/$target.log"
	if [ -n "${MINIMIZE:-}" ]; then
		rm -rf "$FUZZ_DIR/$target.minimal"
		mkdir "$FUZZ_DIR/$target.minimal"
		"$FUZZ_DIR/$target" -merge=1 -use_counters=0 -max_len=4096 "$FUZZ_DIR/$target.minimal" \
			"corpus/$target" "$FUZZ_DIR/$target.corpus" >>"$FUZZ_DIR/$target.log" 2>&1
		rm -rf "corpus/$target"
		mkdir -p "corpus/$target"
		cp "$FUZZ_DIR/$target.minimal"/* "corpus/$target"
		echo "== corpus/$target: $(find "corpus/$target" -type f | wc -l) files"
	fi
done
