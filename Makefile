EXTENSION = jobstate
MODULE_big = jobstate
PGFILEDESC = "jobstate - exact live counts and guarded state changes"

SRCS := $(sort $(wildcard src/*.c))
OBJS := $(SRCS:.c=.o)

# The install script is its rooms and families, joined in build order.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" jobstate.control)
PARTS := $(sort $(wildcard sql/[0-9][0-9]_*.sql))
DATA_built = sql/jobstate--$(EXTVERSION).sql
# What was released stays as it was released: updates start from there.
DATA := $(wildcard sql/jobstate--*--*.sql sql/released/*.sql)

# ONLY names runners, TESTS names tests (% is a wildcard): both narrow installcheck and test.
ONLY ?= regress isolation tap
TESTS ?= %
tests_in = $(if $(filter $(1),$(ONLY)),$(sort $(filter $(TESTS),$(basename $(notdir $(wildcard $(2)))))))
REGRESS := $(call tests_in,regress,test/sql/*.sql)
ISOLATION := $(call tests_in,isolation,test/specs/*.spec)
TAP_TESTS := $(addprefix test/t/,$(addsuffix .pl,$(call tests_in,tap,test/t/*.pl)))
PROVE_TESTS = $(TAP_TESTS)

# Up to 15 the runners look for expected/ beside sql/ and specs/, so they get a folder where links
# put the three side by side; it takes their output too.
STAGE = test/out
REGRESS_OPTS = --inputdir=$(STAGE) --outputdir=$(STAGE) --load-extension=jobstate
ISOLATION_OPTS = --inputdir=$(STAGE) --outputdir=$(STAGE)/isolation --load-extension=jobstate
REGRESS_PREP = $(STAGE)
EXTRA_CLEAN = $(STAGE) tmp_check

# Nothing here gains from being inlined by the JIT compiler, and the build needs no clang.
override with_llvm = no

ifdef CI
COPT += -Werror
endif

.DEFAULT_GOAL = all

# What runs for long, each a target of its own; docs/reliability.md has their last results.
LONG := $(notdir $(wildcard test/long/*))
.PHONY: test demo symbols $(LONG)

test demo:
	@test/run $@

$(LONG):
	@test/long/$@

# These install what is missing, so they alone do without a pg_config that works.
ifneq (,$(filter-out test demo $(LONG),$(or $(MAKECMDGOALS),all)))

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

$(DATA_built): $(PARTS) jobstate.control
	{ printf '%s\n' '\echo Use "CREATE EXTENSION jobstate" to load this file. \quit'; cat $(PARTS); } > $@

$(STAGE):
	mkdir -p $@/isolation
	ln -s ../sql ../specs ../../expected $@

# PGXS 15 exports every symbol that is not static: all of ours must carry our prefix.
symbols: all
	@nm -D --defined-only jobstate$(DLSUFFIX) | awk '\
	  $$3 !~ /^(jobstate_|pg_finfo_jobstate_|_PG_init$$|Pg_magic_func$$|_init$$|_fini$$)/ \
	  { print "exported without the jobstate_ prefix: " $$3; bad = 1 } END { exit bad }'

endif
