# Makefile of trucker (PGXS)
#
#   make               build
#   make install       install into the server that PG_CONFIG belongs to
#   make installcheck  pg_regress against a running server that has
#                      shared_preload_libraries = 'trucker', then the TAP tests
#   make test          install what is missing, build, install, run all tests on
#                      servers of their own; TESTS="sql/a.sql test/t/b.pl" for some
#   make soak          loads and crashes for MINUTES=60, then a transaction of HUGE_ROWS=5000000
#   make fuzz          the decoders, the templates and the readers of projects with
#                      libFuzzer, RUNS=500000 executions each (test/fuzz/run.sh)
#   make bench         a truck beside a subscription, a trigger and a plain INSERT
#                      (test/bench/run.sh says what ROWS, RUNS and the like are)
#   make demo          the same road, to see it work; KEEP=1 leaves the server up
#
# make test, make bench and make demo do not need PGXS: they install it.

EXTENSION  = trucker
MODULE_big = trucker
DATA       = $(sort $(wildcard trucker--*.sql))
OBJS       = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# make WERROR= builds with a compiler that warns about more than ours does.
# What is switched off here is what the server's own headers do.
WERROR     ?= -Werror
PG_CFLAGS   = -Wall -Wextra $(WERROR) \
	-Wno-unused-parameter -Wno-sign-compare
PG_CPPFLAGS = -I$(libpq_srcdir)
SHLIB_LINK  = $(libpq) -lyaml

# Each file in sql/ can be run alone (make installcheck REGRESS=name), so none
# has to create the extension first.  The tests hold text that is not ASCII.
REGRESS      = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --encoding=UTF8 --load-extension=trucker
TAP_TESTS    = $(sort $(wildcard test/t/*.pl))
PROVE_TESTS  = $(TAP_TESTS)
EXTRA_CLEAN  = .build-config tmp_check

# No LLVM bitcode: it would take clang, and nothing in trucker is worth inlining.
ifneq ($(origin with_llvm),command line)
override with_llvm = no
endif

ifneq ($(wildcard /usr/lib/postgresql/15/bin/pg_config),)
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
else
PG_CONFIG ?= pg_config
endif
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

.PHONY: all test soak fuzz bench demo FORCE
all:

test:
	@test/run.sh

soak:
	@test/soak.sh

fuzz:
	@PG_CONFIG=$(PG_CONFIG) test/fuzz/run.sh

bench:
	@test/bench/run.sh

demo:
	@test/demo.sh

ifneq ($(PGXS),)

include $(PGXS)

PROVE_FLAGS = -I test/lib

# Objects know all headers, and how they were built: another PG_CONFIG, other
# flags or a source file more or less, and what depends on it is made again.
BUILD_CONFIG := $(PG_CONFIG) $(VERSION) $(CC) $(CFLAGS) $(CPPFLAGS) $(OBJS)

.build-config: FORCE
	@printf '%s\n' '$(subst ','\'',$(BUILD_CONFIG))' | cmp -s - $@ || \
		printf '%s\n' '$(subst ','\'',$(BUILD_CONFIG))' >$@

$(OBJS): .build-config $(wildcard src/*.h)
$(shlib): .build-config

else

all install uninstall installcheck:
	@echo "PostgreSQL's extension makefiles were not found with PG_CONFIG=$(PG_CONFIG)." >&2
	@echo "Install them (Debian: apt-get install postgresql-server-dev-15) or set PG_CONFIG." >&2
	@echo "\"make test\" and \"make demo\" install what they need by themselves." >&2
	@exit 1

clean distclean:
	rm -rf src/*.o src/*.bc trucker.so $(EXTRA_CLEAN) results regression.diffs regression.out

.PHONY: install uninstall installcheck clean distclean

endif
