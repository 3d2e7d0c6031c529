# make run     set up, then run the service on an embedded default (Ctrl-C stops it); NODES=2 runs two nodes with a bucket
# make test    set up, then run the tests; TESTS="tests/storage -k name" runs some of them
# make test-all  the same, with what takes too long for every day
# make bare    both commands in a minimal Debian, made for it; BARE="--help" for parts of it. Needs root
# make soak    set up, then break things at random under load; SOAK="--seconds 60 --seed 1" has options
# make bench   set up, then measure; BENCH="--quick" or BENCH="--help" for less, or more, of it
# make check   set up, then format check, lint and types
# make format  rewrite the code the way `make check` wants it
# make lock    pin the newest versions that pyproject.toml allows
# make clean   remove what all these have made here, but for installed packages of the system
#
# Needs Python 3.11 or newer and make. PYTHON=/path/to/python3 chooses another interpreter. How tests are
# run, and by which rules they are written, is in CONTRIBUTING.md.

BIN := .venv/bin
READY := .venv/ready
S3_SERVER := .venv/s3-server

.PHONY: run test test-all bare soak bench check format lock clean system-packages

run: $(READY) $(if $(NODES),$(S3_SERVER))
	@exec $(BIN)/cache-actors dev $(if $(NODES),--nodes $(NODES))

# Two lanes: what can run beside other tests, several at once, since most of them wait for processes;
# then what wants the machine for itself. Both run, whatever becomes of the first.
test: $(READY) $(S3_SERVER) system-packages
	@$(call lanes,and not nightly)

test-all: export HYPOTHESIS_PROFILE := nightly
test-all: $(READY) $(S3_SERVER) system-packages
	@$(call lanes,)

# Compiled tests are kept for the next run, whatever the shell says: compiling them takes longer than finding them.
unexport PYTHONDONTWRITEBYTECODE
TESTS ?= tests
DURATIONS := --durations=25 --durations-min=1
define lanes
test -w . || { echo "The checkout cannot be written to: run the tests where they may write" >&2; exit 1; }; \
status=0; ran=; \
lane() { \
	$(BIN)/pytest $(TESTS) $(DURATIONS) "$$@"; \
	case $$? in 0) ran=1;; 5) ;; *) ran=1; status=1;; esac; }; \
lane -m "not alone $(1)" -n 4 --dist loadgroup --no-loadscope-reorder; \
lane -m "alone $(1)"; \
test -n "$$ran" || { echo "No test was run: TESTS=$(TESTS)" >&2; status=5; }; \
exit $$status
endef

soak: $(READY) system-packages
	@exec $(BIN)/python -m tests.soak $(SOAK)

bench: PROGRAMS := /usr/sbin/nginx=nginx-light wrk=wrk h2load=nghttp2-client bazel=bazel-bootstrap
bench: $(READY) $(S3_SERVER) system-packages
	@exec $(BIN)/python -m tests.bench $(BENCH)

bare:
	@exec tests/bare/bare.sh $(BARE)

# Debian's nginx, which is older than the one from PyPI, and what else tests run: programs, a library that
# Kamal loads, and the packages that have them.
PROGRAMS := /usr/sbin/nginx=nginx-light curl=curl openssl=openssl strace=strace nix-instantiate=nix-bin \
	promtool=prometheus chromium-headless-shell=chromium-headless-shell libyaml-0.so.2=libyaml-0-2

# Tests of every night build with Bazel, which brings Java: 40 MB, or 250 where that is not there yet.
test-all: PROGRAMS += bazel=bazel-bootstrap

system-packages:
	@scripts/system-packages.sh $(PROGRAMS)

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: $(READY)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --constraint requirements.lock pyproject.toml \
		-o requirements-runtime.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --group s3 -o requirements-s3-server.lock

clean:
	rm -rf .venv .dev build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Last, when all is installed: what is half set up, is set up anew.
$(READY): requirements.lock pyproject.toml
	@scripts/set-up.sh

$(S3_SERVER): requirements-s3-server.lock $(READY)
	@scripts/set-up.sh s3-server
