# Everything below runs from a clean clone, without root. `make` alone lists the targets.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PLAIN  := $(VENV)/bench

# The date in the manual's header: fixed, so that the page is the same wherever it is made.
export SOURCE_DATE_EPOCH ?= 1767225600
# The tests on a real cluster run beside the others, in one process: much of their time is waiting, and one cluster is enough.
# Half of the time of the tests is waiting: two processes for each processor (two cores: 199 s; one for each: 319 s).
TEST_PROCESSES ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
CACHES := $(VENV)/live-cache $(VENV)/rest-cache
# Each file is compiled once, and not by every process of every run, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: servers clients clients-suites s3-tests wall help venv demo format lint test test-long test-all test-again live chaos chaos-outcomes silent-pools day node-faults bench bench-list attack man man-fresh dist zipapp deb test-oldest clean check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.test ## create .venv with s3pool and what its tests need

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("s3pool needs Python 3.10 or later, and $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no ensurepip: install python3-venv (Debian, Ubuntu), or try make PYTHON=..." >&2; exit 1; }
	@echo "creating $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)

# What a user needs, and no more.
$(VENV)/.own: setup.cfg setup.py | $(BIN)/python
	@echo "installing s3pool into $(VENV)" >&2
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.test: setup.cfg setup.py | $(BIN)/python
	@echo "installing s3pool and its test tools into $(VENV)" >&2
	@$(PIP) install --editable '.[test]'
	@touch $(VENV)/.own $@

$(VENV)/.dev: setup.cfg setup.py $(VENV)/.test
	@echo "installing ruff and mypy into $(VENV)" >&2
	@$(PIP) install --editable '.[dev]'
	@touch $@

# What is measured is installed as a user has it: each start of an editable install takes longer, and coverage's hook is in the way.
$(PLAIN)/.installed: setup.cfg setup.py $(shell find s3pool -name '*.py') | $(BIN)/python
	@echo "installing s3pool, not editable, into $(PLAIN)" >&2
	@$(BIN)/python -m venv $(PLAIN)
	@$(PLAIN)/bin/python -m pip --disable-pip-version-check --quiet install .
	@touch $@

demo: $(VENV)/.own ## start three S3 endpoints here, work with them, lose one, clean up
	@$(BIN)/python -m tests.demo.demo

format: $(VENV)/.dev ## put the code into ruff's shape
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

PARALLEL := --numprocesses $(TEST_PROCESSES) --dist worksteal

test: venv ## the tests of each part on in-process servers: 4 minutes on two cores
	@echo "all but the long proofs and real servers, on in-process fakes: about 4 minutes on two cores (the rest: make test-long)"
	@$(BIN)/python -m pytest -m 'not live and not long' $(PARALLEL)

test-long: ## the long proofs, and all that runs on Ceph RGW where it is installed: about 10 minutes more
test-all: ## every test, as .ci/run does: about 12 minutes
test-long: REST := long and not live
test-long: WORDS := the long proofs (nodes that die and freeze, memory, real clients, servers that lie)
test-all: REST := not live
test-all: WORDS := every test
test-long test-all: venv
	@echo "$(WORDS), and beside them what runs on Ceph RGW where it is installed: about $(if $(filter long,$(REST)),10,12) minutes on two cores"
	@rm -rf $(CACHES); mkdir -p $(CACHES); \
	$(BIN)/python -m pytest -m live -o cache_dir=$(VENV)/live-cache >$(VENV)/live.log 2>&1 & live=$$!; \
	trap 'kill $$live 2>/dev/null' INT TERM; \
	$(BIN)/python -m pytest -m '$(REST)' -o cache_dir=$(VENV)/rest-cache $(PARALLEL); rest=$$?; \
	wait $$live; code=$$?; cat $(VENV)/live.log; \
	echo $$code >$(VENV)/live-cache/exit; echo $$rest >$(VENV)/rest-cache/exit; \
	test $$rest -eq 0 && test $$code -eq 0

test-again: venv ## what failed in the last make test-long or test-all, once more and alone (five at most)
	@$(BIN)/python -m tests.support.again $(CACHES)

SERVER ?= rgw
LIVE_SUITES := tests/contract tests/cli tests/resilience tests/proxy
# What needs Ceph's own, or brings its servers itself.
NOT_ELSEWHERE := --ignore tests/proxy/test_live_wall.py --ignore tests/resilience/chaos

live: venv $(if $(filter-out rgw,$(SERVER)),$(VENV)/servers/.$(SERVER)) ## the tests on real servers, started and stopped here (SERVER=rgw|minio|versitygw|seaweedfs|garage)
	S3POOL_REQUIRE_LIVE=1 S3POOL_LIVE_SERVER=$(SERVER) S3POOL_WORKS_WHERE=$(if $(TESTS),0,1) $(BIN)/python -m pytest -m live $(or $(TESTS),$(if $(filter-out rgw,$(SERVER)),$(LIVE_SUITES) $(NOT_ELSEWHERE)))

# Built once, from the registries of Go and Rust, and never committed. What cannot be built is said, and left out.
SERVERS ?= versitygw minio seaweedfs garage
GO_versitygw := github.com/versity/versitygw/cmd/versitygw@v1.8.0
GO_mc := github.com/minio/mc@latest
GO_minio := github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
GO_seaweedfs := github.com/seaweedfs/seaweedfs@v0.0.0-20261109003541-7506e5f91cd6
COMMAND_seaweedfs := ./weed
# With its module's replacements, which go install refuses, a command is built where its module lies.
# Without optimisation and with one database of three it is half an hour of one processor, else two hours.
CARGO_garage := garage --version 2.5.0 --locked --debug --no-default-features --features bundled-libs,lmdb
TOOL = $(if $(CARGO_$*),cargo,go)
CARGO_BUILD = CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$(BUILT)/cargo cargo install --root $(BUILT) $(CARGO_$*) && rm -rf $(BUILT)/cargo
GO_BUILD = $(if $(COMMAND_$*),go build -C "$$(go mod download -json $(GO_$*) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" \
  -o $(BUILT)/bin/ $(COMMAND_$*),GOBIN=$(BUILT)/bin go install $(GO_$*))
BUILT = $(abspath $(VENV))/servers

servers: venv ## build real S3 servers into .venv/servers, minutes each (SERVERS='versitygw minio')
	@for name in $(SERVERS); do $(MAKE) --no-print-directory $(VENV)/servers/.$$name || echo "left out: $$name" >&2; done
	@ls $(VENV)/servers/bin

$(VENV)/servers/.%: | $(BIN)/python
	@test -n "$(GO_$*)$(CARGO_$*)" || { echo "there is no recipe for $*: make servers builds $(SERVERS)" >&2; exit 1; }
	@command -v $(TOOL) >/dev/null || { echo "$* cannot be built: there is no $(TOOL) in PATH" >&2; exit 1; }
	@echo "building $*, which takes minutes" >&2
	@mkdir -p $(BUILT)/bin
	@$(if $(CARGO_$*),$(CARGO_BUILD),$(GO_BUILD)) || { echo "$* cannot be built from $(GO_$*)$(CARGO_$*): see above" >&2; exit 1; }
	@touch $@

chaos: venv ## random programs under random faults (SEED=1 MINUTES=60 PROGRAMS=1000 BACKEND=rgw)
	@$(BIN)/python -m tests.resilience.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(PROGRAMS),--programs $(PROGRAMS)) $(if $(BACKEND),--backend $(BACKEND))

wall: venv ## requests that try to get past the proxy for 45 minutes, on RGW, MinIO and versitygw (WALL_SECONDS=60 is short, WALL_SEED=2 another run)
	S3POOL_WALL_SECONDS=$(or $(WALL_SECONDS),450) S3POOL_WALL_SEED=$(or $(WALL_SEED),1) $(BIN)/python -m pytest -m live tests/proxy/test_live_wall.py

silent-pools: venv ## measure how long each command waits for endpoints that do not answer (12 minutes, next to no load)
	@$(BIN)/python -m tests.support.silent_pools

day: venv ## all that befalls nodes in one day, during a sync of 2 GiB and 200 requests a second through the proxy (needs radosgw; 10 minutes)
	S3POOL_DAY_MIB=$(or $(MIB),2048) S3POOL_DAY_RATE=$(or $(RATE),200) $(BIN)/python -m pytest -m live -s tests/resilience/test_a_day.py

chaos-outcomes: venv ## measure tests/resilience/chaos/OUTCOMES.md anew
	@$(BIN)/python -m tests.resilience.chaos.outcomes

s3-tests: venv ## Ceph's own S3 tests on RGW, directly and through the proxy (needs radosgw; half an hour)
	$(BIN)/python -m tests.s3tests.run $(S3TESTS)

REGISTRY := github.com/distribution/distribution/v3/cmd/registry@v3.1.2

# Clients that take minutes to fetch or build, if they are asked for; without a list all are.
SLOW_CLIENTS := $(if $(CLIENTS),$(foreach name,java registry,$(findstring $(name),$(CLIENTS))),java registry)
CLIENTS_INSTALLED := $(VENV)/clients/.installed$(if $(filter java,$(SLOW_CLIENTS)),-java)$(if $(filter registry,$(SLOW_CLIENTS)),-registry)

# What does not install here is left out of the comparison, and said so.
$(CLIENTS_INSTALLED): tests/clients/requirements.txt $(wildcard tests/clients/js/* tests/clients/go/*.* tests/clients/go/faults/* tests/clients/java/*) | $(BIN)/python
	@echo "installing real clients, more than a gigabyte, into $(VENV)/clients" >&2
	@$(BIN)/python -m venv $(VENV)/clients
	@cp tests/clients/go/go.mod $(VENV)/clients/go.mod
	@while read -r line; do case $$line in '#'*|'') ;; *) \
	  $(VENV)/clients/bin/python -m pip --disable-pip-version-check --quiet install "$$line" || true;; esac; done <$<
	@mkdir -p $(VENV)/clients/js && cp tests/clients/js/* $(VENV)/clients/js && (cd $(VENV)/clients/js && npm install --silent) || true
	@(cd tests/clients/go && GOFLAGS=-mod=mod go build -modfile=$(abspath $(VENV))/clients/go.mod -o $(abspath $(VENV))/clients/bin/aws-sdk-go-v2 .) || true
	@(cd tests/clients/go && GOFLAGS=-mod=mod go build -modfile=$(abspath $(VENV))/clients/go.mod -o $(abspath $(VENV))/clients/bin/aws-sdk-go-v2-faults ./faults) || true
	@$(if $(filter java,$(SLOW_CLIENTS)),mvn --quiet --batch-mode --file tests/clients/java/pom.xml \
	  dependency:copy-dependencies -DoutputDirectory=$(abspath $(VENV))/clients/java || true)
	@$(if $(filter registry,$(SLOW_CLIENTS)),GOBIN=$(abspath $(VENV))/clients/bin go install $(REGISTRY) || true)
	@touch $@

clients: venv $(CLIENTS_INSTALLED) ## real clients on RGW, directly and through the proxy, compared (CLIENTS='boto3 pyarrow')
	@CLIENTS_PYTHON=$(VENV)/clients/bin/python $(BIN)/python -m tests.clients.zoo $(CLIENTS)

clients-suites: venv ## functional suites of minio-go, mc, s5cmd, minio-py on RGW, MinIO and versitygw, likewise; an hour (SUITES='--suites mc --servers rgw')
	@PATH="$(BUILT)/bin:$$PATH" $(BIN)/python -m tests.clients.functional $(SUITES)

node-faults: venv $(CLIENTS_INSTALLED) ## clients without retries while a gateway is killed or freezes, through the proxy (needs radosgw; CLIENTS='boto3')
	@CLIENTS_PYTHON=$(VENV)/clients/bin/python $(BIN)/python -m tests.clients.node_faults $(CLIENTS)

bench: venv $(PLAIN)/.installed $(if $(filter-out rgw,$(SERVER)),$(VENV)/servers/.$(SERVER)) ## compare with s5cmd, rclone, awscli and HAProxy (ONLY=small-put,list BENCH='--quick --rounds 3'), or with mc too on SERVER=minio
	@S3POOL_BENCH_SERVER=$(SERVER) $(BIN)/python -m tests.bench.main $(if $(ONLY),--only $(ONLY)) $(BENCH)

bench-list: venv $(PLAIN)/.installed ## list on 30 throttling HTTPS nodes; needs radosgw and nginx (BENCH='--objects 2000' is quick)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.bench.bench_list $(BENCH)

attack: venv ## attack the proxy with all that once stopped it, and print what another client sees (ATTACK='--seconds 30')
	@$(BIN)/python -m tests.bench.attack_proxy $(ATTACK)

man: venv ## generate the manual from the command line's own tables and man/*.inc
	@$(BIN)/python -m tests.support.destructive
	@$(BIN)/python -m tests.support.option_rows
	@$(BIN)/python -m tests.support.server_faults
	@$(BIN)/python -m tests.support.manual

man-fresh: venv ## fail when a page of the manual is not what the command line says
	@$(BIN)/python -m tests.support.manual --check

dist: venv ## build the source archive and the wheel in dist/
	@$(PIP) install build
	$(BIN)/python -m build --outdir dist .

# Compiled modules are left out, so that one file serves every system; each has its form in Python.
build/one: $(BIN)/python setup.cfg setup.py $(shell find s3pool -type f -not -name '*.pyc')
	@rm -rf $@ build/lib
	@$(PIP) install --no-compile --target $@ .
	@find $@ -name '*.so' -delete
	@rm -rf $@/bin $@/share
	@touch $@

zipapp: build/one ## build dist/s3pool.pyz: one file that needs Python alone
	@mkdir -p dist
	@$(BIN)/python -m zipapp build/one --compress --python '/usr/bin/env python3' --main s3pool.__main__:main --output dist/s3pool.pyz
	@ls -l dist/s3pool.pyz

deb: build/one venv ## build dist/s3pool_VERSION_all.deb by Debian's tools
	@$(BIN)/python -m tests.support.debian build/one dist

test-oldest: ## the command line's tests with the oldest versions of all dependencies
	@$(PYTHON) -m venv .cache/oldest
	@$(PYTHON) tests/support/oldest.py setup.cfg > .cache/oldest/constraints.txt
	@.cache/oldest/bin/python -m pip --disable-pip-version-check --quiet install --constraint .cache/oldest/constraints.txt . pytest responses boto3 hypothesis
	@.cache/oldest/bin/python -m pytest -m 'not live' tests/cli/test_cp.py tests/cli/test_ls_command.py tests/cli/test_sync.py tests/proxy/test_running.py

clean: ## remove everything that make created
	rm -rf $(VENV) build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find s3pool tests -name __pycache__ -type d -prune -exec rm -rf {} +

check: lint test man-fresh ## what must pass before a commit; .ci/run judges the rest
